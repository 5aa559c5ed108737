"""Who may import whom.

`modeling/` and `generation/` are copied into every checkpoint and run on machines that have only transformers and
torch, so they import nothing else, and only in the one form that the bundler can rewrite to a flat relative import.
The rest of the library stands on them in floors, and no two folders import each other.
"""

import ast
import itertools
import re
import sys
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path

import pytest

import hf_latent

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("hf_latent", "modeling", "generation", "recipes", "tests", "benchmarks")
# huggingface_hub comes with transformers, whose configs need its `strict`.
TRAVELLING = {"generation": {"torch", "transformers", "huggingface_hub"}}
TRAVELLING["modeling"] = TRAVELLING["generation"]
# Room -> what it may import of hf_latent.
OWN = {"generation": ("hf_latent.generation",), "modeling": ("hf_latent.modeling", "hf_latent.generation")}
# From the ground up: a floor imports those below it, never one above. `generation` and `modeling` travel.
FLOORS = (
    *("generation", "modeling", "auto", "moved", "registration", "tasks", "data", "viz", "checkpoints"),
    *("evaluation", "hub", "training", "app", "cli"),
)
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


def defining_files() -> dict[str, Path]:
    """Dotted name to file of every module of the library."""
    files = {}
    for room in ("hf_latent", *TRAVELLING):
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = ("hf_latent", *parts) if room in TRAVELLING else parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return files


def targets(name: str, statement: ast.stmt, known: Container[str]) -> list[str]:
    """Modules that an import statement reaches, those behind the names of `hf_latent` itself, too."""
    if isinstance(statement, ast.Import):
        return [name] if name in known else []
    reached = []
    for alias in statement.names:
        module = f"{name}.{alias.name}" if f"{name}.{alias.name}" in known else name
        reached.append(hf_latent._DEFINED_IN.get(alias.name, module) if module == "hf_latent" else module)
    return [module for module in reached if module in known]


def folder_of(module: str, files: Mapping[str, Path]) -> str:
    """The folder that a module lies in, dotted; a file directly in `hf_latent` counts as one."""
    is_package = files[module].name == "__init__.py"
    folder = module if is_package else module.rpartition(".")[0]
    return module if folder == "hf_latent" else folder


def folder_imports(sources: Mapping[str, str], files: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Folder to the folders it imports, each with the first place where it does; `sources` by module."""
    found: dict[str, dict[str, str]] = {}
    for module, source in sources.items():
        if files[module].name == "__init__.py":
            continue  # hands out what lies below it, for others
        own = folder_of(module, files)
        for line, name, statement in imports(source, module.rpartition(".")[0]):
            for target in targets(name, statement, files):
                if (folder := folder_of(target, files)) not in (own, "hf_latent"):
                    found.setdefault(own, {}).setdefault(folder, f"{module}:{line} imports {target}")
    return found


def wrong_way(edges: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Imports of a floor above one's own."""

    def floor(folder: str) -> int:
        return FLOORS.index(folder.split(".")[1])

    return [place for own, others in edges.items() for other, place in others.items() if floor(other) > floor(own)]


def find_circle(edges: Mapping[str, Mapping[str, str]]) -> list[str]:
    """The places of a circle of folders, empty where there is none."""
    done: set[str] = set()

    def visit(folder: str, path: list[str]) -> list[str]:
        if folder in path:
            circle = [*path[path.index(folder) :], folder]
            return [edges[a][b] for a, b in itertools.pairwise(circle)]
        if folder in done:
            return []
        for other in edges.get(folder, {}):
            if circle := visit(other, [*path, folder]):
                return circle
        done.add(folder)
        return []

    return next(filter(None, (visit(folder, []) for folder in edges)), [])


def library() -> tuple[dict[str, str], dict[str, Path]]:
    files = defining_files()
    return {module: path.read_text("utf-8") for module, path in files.items()}, files


def test_no_floor_imports_one_above():
    found = wrong_way(folder_imports(*library()))
    assert not found, "\n" + "\n".join(found)


def test_no_folders_import_each_other_in_a_circle():
    circle = find_circle(folder_imports(*library()))
    assert not circle, "\n" + "\n".join(circle)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("generation.commit.rules", "from hf_latent.generation.loop.denoising import denoise"),
        ("evaluation.grid", "def f():\n    from hf_latent.training.common.objectives import weigh"),
        ("viz.tradeoff", "from hf_latent.evaluation import DecodingResult"),
        ("hub.cards.card", "from hf_latent.hub.bundles.bundling import bundle"),
        ("app.form", "from hf_latent.cli.commands.view import view"),
    ],
)
def test_an_import_that_is_put_the_wrong_way_is_found(module, line):
    """Each of these folders is imported by what it would import: the contract has to see both."""
    sources, files = library()
    sources[f"hf_latent.{module}"] += "\n" + line + "\n"
    edges = folder_imports(sources, files)
    assert find_circle(edges)
    same_floor = module.split(".")[0] == line.split("hf_latent.")[1].split(".")[0]
    assert bool(wrong_way(edges)) is not same_floor


def test_every_file_keeps_the_rule():
    """A checkpoint whose code imports our other rooms fails to load on every machine but ours."""
    files = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
    assert files
    found = [v for path in files for v in violations(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())]
    assert not found, "\n" + "\n".join(found)


GOOD = [
    (
        "generation/commit/rules.py",
        "import math\nfrom collections.abc import Callable\nimport torch.nn.functional as F",
    ),
    ("generation/commit/rules.py", "from transformers.generation import GenerationMixin"),
    ("generation/loop.py", "def f():\n    from hf_latent.generation.commit.rules import quota"),
    ("generation/__init__.py", "from hf_latent.generation.commit.rules import quota\nfrom .rules import quota"),
    ("modeling/llada/configuration_llada.py", "from huggingface_hub.dataclasses import strict"),
    ("modeling/llada/modeling_llada.py", "from hf_latent.modeling.llada.configuration_llada import LladaConfig"),
    ("modeling/llada/modeling_llada.py", "from hf_latent.generation.commit.rules import quota"),
    ("modeling/latent_diffusion/denoiser.py", "from diffusers import DDPMScheduler"),
    ("hf_latent/auto.py", "import numpy\nimport hf_latent.modeling\nfrom hf_latent.modeling import LladaConfig"),
    ("hf_latent/tasks/sudoku.py", "from .base import Task\nfrom hf_latent.generation import loop"),
    (
        "recipes/masked_diffusion/sft.py",
        "import trl\nimport hf_latent\nfrom hf_latent.training import MaskedDiffusionTrainer",
    ),
    ("tests/test_x.py", "import hf_latent.modeling\nfrom datasets import Dataset"),
]

BAD = [
    ("generation/commit/rules.py", "import numpy as np", "not numpy"),
    ("generation/commit/rules.py", "import torch, einops", "not einops"),
    ("generation/commit/rules.py", "def f():\n    import scipy.stats", ":2: .*not scipy"),
    ("generation/commit/rules.py", "if TYPE_CHECKING:\n    from datasets import Dataset", "not datasets"),
    ("generation/commit/rules.py", "from diffusers import DDIMScheduler", "not diffusers"),
    ("modeling/llada/modeling_llada.py", "from diffusers import DDIMScheduler", "not diffusers"),
    (
        "generation/commit/rules.py",
        "from hf_latent.modeling.llada.modeling_llada import LladaModel",
        "not hf_latent.modeling",
    ),
    ("generation/commit/rules.py", "from hf_latent.generation_extras.x import y", "not hf_latent.generation_extras"),
    (
        "modeling/llada/modeling_llada.py",
        "from hf_latent.training.common.objectives import nelbo",
        "not hf_latent.training",
    ),
    ("modeling/llada/modeling_llada.py", "from hf_latent import ReasoningTemplate", "not hf_latent$"),
    ("modeling/llada/modeling_llada.py", "import hf_latent", "not hf_latent$"),
    ("modeling/__init__.py", "from hf_latent.hub import bundle", "not hf_latent.hub"),
    ("generation/__init__.py", "from ..modeling.llada import x", "not hf_latent.modeling"),
    ("modeling/llada/modeling_llada.py", "import hf_latent.generation.commit.rules", "cannot rewrite"),
    ("modeling/llada/modeling_llada.py", "from .configuration_llada import LladaConfig", "no relative imports"),
    ("modeling/llada/modeling_llada.py", "from . import configuration_llada", "no relative imports"),
    ("modeling/llada/modeling_llada.py", "from ...generation.rules import quota", "no relative imports"),
    ("modeling/llada/modeling_llada.py", "from ...training.objectives import nelbo", "not hf_latent.training"),
    ("modeling/llada/modeling_llada.py", "from hf_latent.generation import quota", "is not a file"),
    ("modeling/llada/modeling_llada.py", "from hf_latent.modeling.llada import LladaConfig", "is not a file"),
    ("modeling/llada/modeling_llada.py", "from generation.rules import quota", "second copy"),
    ("hf_latent/auto.py", "from modeling.llada import LladaConfig", "second copy"),
    ("hf_latent/auto.py", "import generation", "second copy"),
    ("hf_latent/cli/commands/train.py", "from recipes.sft import main", "nobody imports them"),
    ("recipes/masked_diffusion/sft.py", "import modeling.llada", "second copy"),
    ("recipes/masked_diffusion/sft.py", "from .common import main", "one file"),
    ("recipes/masked_diffusion/sft.py", "from tests.conftest import ROOT", "nobody imports tests"),
    ("tests/modeling/test_x.py", "from modeling.llada import LladaConfig", "second copy"),
]

LEAVES = {
    "hf_latent.generation.commit.rules",
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
