"""Who may import whom.

`modeling/` and `generation/` are copied into every checkpoint and run on machines that have only transformers and
torch, so they import nothing else, and only in the one form that the bundler can rewrite to a flat relative import.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("hf_latent", "modeling", "generation", "recipes", "tests", "benchmarks")
# huggingface_hub comes with transformers, whose configs need its `strict`.
TRAVELLING = {"generation": {"torch", "transformers", "huggingface_hub"}}
TRAVELLING["modeling"] = TRAVELLING["generation"]
# Room -> what it may import of hf_latent.
OWN = {"generation": ("hf_latent.generation",), "modeling": ("hf_latent.modeling", "hf_latent.generation")}
# Folder names of this repository that nobody may import by their bare name.
BARE = {
    "modeling": "write hf_latent.modeling: the bare name is a second copy",
    "generation": "write hf_latent.generation: the bare name is a second copy",
    "recipes": "recipes are scripts for the user to copy; nobody imports them",
    "tests": "nobody imports tests",
    "benchmarks": "nobody imports benchmarks",
}


def imports(source: str, package: str) -> Iterator[tuple[int, str, ast.stmt]]:
    """Line, absolute module name and statement of each import in `source`, a file of `package` (dotted name)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name, node
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            yield node.lineno, ".".join([*parents, *([node.module] if node.module else [])]), node


def is_leaf(name: str) -> bool:
    """Whether a dotted name below `hf_latent.modeling` or `hf_latent.generation` is a file rather than a package."""
    return ROOT.joinpath(*name.split(".")[1:]).with_suffix(".py").is_file()


def travelling_violation(
    room: str, path: str, name: str, statement: ast.stmt, leaf: Callable[[str], bool]
) -> str | None:
    """What is wrong with one import of a file in `modeling/` or `generation/`."""
    root = name.split(".")[0]
    if root != "hf_latent":
        allowed = TRAVELLING[room] | ({"diffusers"} if path.startswith("modeling/latent_diffusion/") else set())
        if root in allowed or root in sys.stdlib_module_names:
            return None
        return f"{room}/ may import the standard library, {', '.join(sorted(allowed))}; not {root}"
    if not name.startswith(tuple(f"{own}." for own in OWN[room])) and name not in OWN[room]:
        return f"{room}/ may import {' and '.join(OWN[room])}; not {name}"
    if path.endswith("__init__.py"):
        return None
    if isinstance(statement, ast.Import):
        return f"write `from {name} import ...`: the bundler cannot rewrite `import {name}`"
    if statement.level:
        return f"write `from {name} import ...`: no relative imports in files that travel"
    if not leaf(name):
        return f"{name} is not a file; import from the file that defines the name"
    return None


def violations(source: str, path: str, leaf: Callable[[str], bool] = is_leaf) -> list[str]:
    """The rule broken by `source`, a file at `path` relative to the repository, one line for each import."""
    *folders, _ = path.split("/")
    room = folders[0]
    package = ".".join(folders if room == "hf_latent" else ["hf_latent", *folders] if room in TRAVELLING else folders)
    found = []
    for line, name, statement in imports(source, package):
        message = BARE.get(name.split(".")[0])
        if message is None and room in TRAVELLING:
            message = travelling_violation(room, path, name, statement, leaf)
        elif room == "recipes" and getattr(statement, "level", 0):
            message = "a recipe is one file: no relative imports"
        if message:
            found.append(f"{path}:{line}: {message}")
    return found


def test_every_file_keeps_the_rule():
    """A checkpoint whose code imports our other rooms fails to load on every machine but ours."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    assert files
    found = [v for path in files for v in violations(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())]
    assert not found, "\n" + "\n".join(found)


GOOD = [
    ("generation/rules.py", "import math\nfrom collections.abc import Callable\nimport torch.nn.functional as F"),
    ("generation/rules.py", "from transformers.generation import GenerationMixin"),
    ("generation/loop.py", "def f():\n    from hf_latent.generation.rules import quota"),
    ("generation/__init__.py", "from hf_latent.generation.rules import quota\nfrom .rules import quota"),
    ("modeling/llada/configuration_llada.py", "from huggingface_hub.dataclasses import strict"),
    ("modeling/llada/modeling_llada.py", "from hf_latent.modeling.llada.configuration_llada import LladaConfig"),
    ("modeling/llada/modeling_llada.py", "from hf_latent.generation.rules import quota"),
    ("modeling/latent_diffusion/denoiser.py", "from diffusers import DDPMScheduler"),
    ("hf_latent/auto.py", "import numpy\nimport hf_latent.modeling\nfrom hf_latent.modeling import LladaConfig"),
    ("hf_latent/tasks/sudoku.py", "from .base import Task\nfrom hf_latent.generation import loop"),
    ("recipes/sft.py", "import trl\nimport hf_latent\nfrom hf_latent.training import MaskedDiffusionTrainer"),
    ("tests/test_x.py", "import hf_latent.modeling\nfrom datasets import Dataset"),
]

BAD = [
    ("generation/rules.py", "import numpy as np", "not numpy"),
    ("generation/rules.py", "import torch, einops", "not einops"),
    ("generation/rules.py", "def f():\n    import scipy.stats", ":2: .*not scipy"),
    ("generation/rules.py", "if TYPE_CHECKING:\n    from datasets import Dataset", "not datasets"),
    ("generation/rules.py", "from diffusers import DDIMScheduler", "not diffusers"),
    ("modeling/llada/modeling_llada.py", "from diffusers import DDIMScheduler", "not diffusers"),
    (
        "generation/rules.py",
        "from hf_latent.modeling.llada.modeling_llada import LladaModel",
        "not hf_latent.modeling",
    ),
    ("generation/rules.py", "from hf_latent.generation_extras.x import y", "not hf_latent.generation_extras"),
    ("modeling/llada/modeling_llada.py", "from hf_latent.training.objectives import nelbo", "not hf_latent.training"),
    ("modeling/llada/modeling_llada.py", "from hf_latent import ReasoningTemplate", "not hf_latent$"),
    ("modeling/llada/modeling_llada.py", "import hf_latent", "not hf_latent$"),
    ("modeling/__init__.py", "from hf_latent.hub import bundle", "not hf_latent.hub"),
    ("generation/__init__.py", "from ..modeling.llada import x", "not hf_latent.modeling"),
    ("modeling/llada/modeling_llada.py", "import hf_latent.generation.rules", "cannot rewrite"),
    ("modeling/llada/modeling_llada.py", "from .configuration_llada import LladaConfig", "no relative imports"),
    ("modeling/llada/modeling_llada.py", "from . import configuration_llada", "no relative imports"),
    ("modeling/llada/modeling_llada.py", "from ...generation.rules import quota", "no relative imports"),
    ("modeling/llada/modeling_llada.py", "from ...training.objectives import nelbo", "not hf_latent.training"),
    ("modeling/llada/modeling_llada.py", "from hf_latent.generation import quota", "is not a file"),
    ("modeling/llada/modeling_llada.py", "from hf_latent.modeling.llada import LladaConfig", "is not a file"),
    ("modeling/llada/modeling_llada.py", "from generation.rules import quota", "second copy"),
    ("hf_latent/auto.py", "from modeling.llada import LladaConfig", "second copy"),
    ("hf_latent/auto.py", "import generation", "second copy"),
    ("hf_latent/cli/train.py", "from recipes.sft import main", "nobody imports them"),
    ("recipes/sft.py", "import modeling.llada", "second copy"),
    ("recipes/sft.py", "from .common import main", "one file"),
    ("recipes/sft.py", "from tests.conftest import ROOT", "nobody imports tests"),
    ("tests/modeling/test_x.py", "from modeling.llada import LladaConfig", "second copy"),
]

LEAVES = {
    "hf_latent.generation.rules",
    "hf_latent.modeling.llada.configuration_llada",
    "hf_latent.modeling.llada.modeling_llada",
}


@pytest.mark.parametrize(("path", "source"), GOOD)
def test_checker_accepts(path, source):
    assert violations(source, path, LEAVES.__contains__) == []


@pytest.mark.parametrize(("path", "source", "message"), BAD)
def test_checker_reports(path, source, message):
    """A checker that cannot fail would hold the rule just as silently."""
    found = violations(source, path, LEAVES.__contains__)
    assert len(found) == 1
    assert re.search(message, found[0]), found[0]


def test_leaf_is_a_file_and_not_a_package():
    """`from hf_latent.generation import x` must be seen as an import through a package."""
    files = [p for p in (ROOT / "generation").rglob("*.py") if p.name != "__init__.py"]
    for path in files:
        assert is_leaf(".".join(("hf_latent", *path.relative_to(ROOT).with_suffix("").parts)))
    assert not is_leaf("hf_latent.generation")
    assert not is_leaf("hf_latent.modeling")
