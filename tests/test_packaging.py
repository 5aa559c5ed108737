"""What `pip install` gives is what the tree holds."""

import importlib.metadata
import importlib.resources
import importlib.util
import tomllib
from pathlib import Path

import pytest

import hf_latent

ROOT = Path(__file__).resolve().parent.parent
INSTALLED_AS = {"hf_latent": "hf_latent", "modeling": "hf_latent/modeling", "generation": "hf_latent/generation"}
SUFFIXES = {".safetensors", ".json", ".jinja", ".md", ".txt"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def tree() -> set[str]:
    """Every Python file of the library by its installed path."""
    return {
        f"{installed}/{path.relative_to(ROOT / room).as_posix()}"
        for room, installed in INSTALLED_AS.items()
        for path in (ROOT / room).rglob("*.py")
    }


def list_packages(root: Path) -> list[str]:
    spec = importlib.util.spec_from_file_location("hf_latent_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.list_packages(root)


def test_every_folder_with_code_is_a_package():
    """A folder without `__init__.py` works in an editable install and is silently absent from the wheel."""
    folders = {path.rpartition("/")[0].replace("/", ".") for path in tree()}
    assert folders | {"hf_latent.model_cards"} == set(list_packages(ROOT))


def test_new_subfolder_is_found(tmp_path):
    """The list of packages is computed: nobody has to remember to add a model family."""
    for folder in ("hf_latent/hub", "modeling/new_family", "generation", "tests"):
        (tmp_path / folder).mkdir(parents=True)
        for parent in (tmp_path / folder).relative_to(tmp_path).parents[:-1]:
            (tmp_path / parent / "__init__.py").touch()
        (tmp_path / folder / "__init__.py").touch()
    assert list_packages(tmp_path) == [
        "hf_latent",
        "hf_latent.generation",
        "hf_latent.hub",
        "hf_latent.model_cards",
        "hf_latent.modeling",
        "hf_latent.modeling.new_family",
    ]


def test_wheel_holds_every_file():
    """Only an installed wheel can show that nothing of the tree is missing in it; CI runs the tests against one."""
    if Path(hf_latent.__file__).is_relative_to(ROOT / "hf_latent"):
        pytest.skip("editable install: the tree is the package")
    files = {file.as_posix() for file in importlib.metadata.files("hf-latent")}
    installed = {file for file in files if file.endswith(".py")}
    assert installed == tree() | {"hf_latent/model_cards/__init__.py"}  # and no copies of the library beside weights
    assert {"hf_latent/py.typed", *(f"hf_latent/viz/replay.{kind}" for kind in ("html", "css", "js"))} <= files


def test_bundled_checkpoints_are_installed_whole():
    """The demo loads its checkpoint from the installed package; one missing file and it cannot."""
    installed = importlib.resources.files("hf_latent.model_cards")
    for weights in (ROOT / "model_cards").glob("*/*.safetensors"):
        needed = {p.name for p in weights.parent.iterdir() if p.suffix in SUFFIXES}
        assert needed <= {p.name for p in (installed / weights.parent.name).iterdir()}


def test_version_is_stated_once():
    assert hf_latent.__version__ == importlib.metadata.version("hf-latent") == PROJECT["version"]


def test_extras_are_declared():
    """The README, error messages and the command line tell users to install these."""
    assert set(PROJECT["optional-dependencies"]) == {"train", "latent-diffusion", "eval", "app", "docs", "test", "dev"}


def test_core_does_not_need_the_extras():
    """Loading and generating must not ask for the training stack."""
    names = {requirement.split(">")[0].split("[")[0] for requirement in PROJECT["dependencies"]}
    assert names.isdisjoint({"trl", "peft", "datasets", "diffusers", "lm-eval", "gradio", "pytest"})


def test_importing_needs_no_extra(run_python, tmp_path):
    """`import hf_latent` in an environment without the extras: importing them at module level breaks every user."""
    code = (
        "import sys\n"
        "for name in ('trl', 'peft', 'datasets', 'diffusers', 'lm_eval', 'gradio', 'pytest', 'hypothesis'):\n"
        "    sys.modules[name] = None\n"
        "import hf_latent\n"
    )
    run_python(code, cwd=tmp_path)
