"""Two releases of a checkpoint in one process run their own code each, and folders in `generation/` change no name."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import hf_latent.generation
from hf_latent.hub import bundle_decoder
from hf_latent.modeling.travel import DIGEST, flat_name, package_sources, with_digest

ROOT = Path(__file__).resolve().parents[2]
NEXT = "\nRELEASE = 'next'\n"
# What a process finds that loads the first release, in every way, and then the second.
STRANGER = """
import json, sys
sys.modules["hf_latent"] = None  # any import of it raises
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin
def release(thing):
    package = thing.__module__.rpartition(".")[0]
    return getattr(sys.modules[package + ".generation_noise"], "RELEASE", "first")
found = {"model": [], "from_config": [], "decoder": [], "saved again": []}
for root in ("a", "b"):
    config = AutoConfig.from_pretrained(f"{root}/model", trust_remote_code=True)
    found["from_config"].append(release(type(AutoModel.from_config(config, trust_remote_code=True))))
    model = AutoModelForCausalLM.from_pretrained(f"{root}/model", trust_remote_code=True)
    found["model"].append(release(type(model)))
    model.save_pretrained(f"{root}/again/model")
    again = AutoModelForCausalLM.from_pretrained(f"{root}/again/model", trust_remote_code=True)
    found["saved again"].append(release(type(again)))
    decoder = GenerationMixin().load_custom_generate(f"{root}/decoder", trust_remote_code=True)
    found["decoder"].append(release(decoder.func if hasattr(decoder, "func") else decoder))
print(json.dumps(found))
"""


def code_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in folder.glob("*.py")}


def change(folder: Path, names: list[str]) -> None:
    """Make a folder that of the next release: another module far behind those that are loaded by name."""
    sources = code_of(folder)
    sources["generation_noise.py"] += NEXT
    for name, text in with_digest(sources, names).items():
        (folder / name).write_text(text, encoding="utf-8")


@pytest.mark.parametrize("case", ["llada"], indirect=True)
def test_two_releases_in_one_process_run_their_own_code(case: Any, model: Any, tmp_path: Path) -> None:
    """The second ran the first one's: the configuration classes of both were the same to transformers."""
    for root in ("a", "b"):
        model.save_pretrained(tmp_path / root / "model")
        bundle_decoder("med", tmp_path / root / "decoder", verify=False)
    change(tmp_path / "b" / "model", ["configuration_llada", "modeling_llada"])
    change(tmp_path / "b" / "decoder" / "custom_generate", ["generate"])
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {way: ["first", "next"] for way in ("model", "from_config", "decoder", "saved again")}
    for root in ("a", "b"):
        assert code_of(tmp_path / root / "again" / "model") == code_of(tmp_path / root / "model")


def test_the_digest_is_of_all_modules_and_in_those_that_are_loaded_by_name() -> None:
    sources = {"main.py": "# header\nfrom .far import x\n", "far.py": "# header\nx = 1\n", "other.py": "# header\n"}
    stamped = with_digest(sources, ["main", "other"])
    assert stamped["far.py"] == sources["far.py"]
    assert stamped["main.py"].splitlines()[0] == "# header"
    assert stamped["main.py"].splitlines()[1] == stamped["other.py"].splitlines()[1]
    assert stamped["main.py"].splitlines()[1].startswith(DIGEST)
    assert (
        with_digest(stamped, ["main", "other"])
        == stamped
        == with_digest(dict(reversed(sources.items())), ["main", "other"])
    )
    digests = {stamped["main.py"].splitlines()[1]}
    for change in (
        {"far.py": "# header\nx = 2\n"},
        {"more.py": ""},
        {"far.py": "# header\nx = 1\n# header\n", "other.py": ""},
    ):
        digests.add(with_digest(sources | change, ["main"])["main.py"].splitlines()[1])
    assert len(digests) == 4


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up part of `generation/` in folders, beside what there is."""
    files = {
        "chosen/__init__.py": "",
        "chosen/late_rule.py": "from hf_latent.generation.chosen.deep.ranks import rank\n"
        "from hf_latent.generation.commit.schedule import uniform_quota\n\n\n"
        "def choose(x):\n    from hf_latent.generation.held.cell import twice\n\n    return twice(rank(x))\n",
        "chosen/deep/__init__.py": "",
        "chosen/deep/ranks.py": "def rank(x):\n    return x + 1\n",
        "held/__init__.py": "",
        "held/cell.py": "def twice(x):\n    return 2 * x\n",
        "held/ranks.py": "from hf_latent.generation.chosen.deep.ranks import rank\n",
        "held/through.py": "from hf_latent.generation.chosen import late_rule\n",
    }
    for name, text in files.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(hf_latent.generation, "__path__", [*hf_latent.generation.__path__, str(tmp_path / "tree")])
    return tmp_path


def test_modules_in_folders_are_flat_in_a_checkpoint_and_work_there(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = package_sources(["hf_latent.generation.chosen.late_rule"])
    names = ["generation_cell.py", "generation_late_rule.py", "generation_ranks.py", "generation_schedule.py"]
    assert sorted(sources) == names
    (tree / "somewhere").mkdir()
    for name, text in sources.items():
        assert "hf_latent." not in text
        (tree / "somewhere" / name).write_text(text)
    monkeypatch.syspath_prepend(str(tree))
    assert importlib.import_module("somewhere.generation_late_rule").choose(2) == 6


def test_two_modules_of_one_flat_name_and_packages_are_refused_by_name(tree: Path) -> None:
    """One of them would have been left out in silence."""
    with pytest.raises(
        ValueError, match=r"`hf_latent\.generation\..*ranks` and `hf_latent\.generation\..*ranks` would both"
    ):
        package_sources(["hf_latent.generation.held.ranks"])
    with pytest.raises(ValueError, match=r"`hf_latent\.generation\.chosen` is a package, which does not travel"):
        package_sources(["hf_latent.generation.held.through"])
    with pytest.raises(ModuleNotFoundError, match="nowhere"):
        package_sources(["hf_latent.generation.nowhere.rules"])


def test_every_travelling_module_has_a_flat_name_of_its_own() -> None:
    modules = [
        "hf_latent." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for room in ("generation", "modeling")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py"
    ]
    assert len({flat_name(module) for module in modules}) == len(modules) > 40
    assert (
        flat_name("hf_latent.generation.commit.rules")
        == flat_name("hf_latent.generation.commit.rules")
        == "generation_rules"
    )
    assert flat_name("hf_latent.generation.state.settings.configuration_generation") == "configuration_generation"
    assert flat_name("hf_latent.modeling.latent_token.backbone") == "modeling_latent_token_backbone"
