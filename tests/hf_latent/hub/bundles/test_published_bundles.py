"""The published checkpoints keep no copy of the library, and have its code wherever they go."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_latent.checkpoints.loading import load
from hf_latent.hub import bundle, check_card, pull, push
from hf_latent.hub.bundles.travelling_code import family_sources

ROOT = Path(__file__).resolve().parents[4] / "model_cards"
PUBLISHED = sorted(path.parent for path in ROOT.glob("*/model.safetensors"))
PROMPT = [[5, 6, 7, 8, 9, 10, 11, 12]]
NEW_TOKENS = 16
# Of several folders, in a process that cannot import hf-latent: folder to ids.
STRANGER = """
import json, sys
sys.modules["hf_latent"] = None  # any import of it raises
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
prompt, number = torch.tensor(json.loads(sys.argv[1])), int(sys.argv[2])
found = {}
for folder in sys.argv[3:]:
    AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    found[folder] = model.generate(prompt, max_new_tokens=number).tolist()
print(json.dumps(found))
"""


def ids_elsewhere(folders: list[Path], tmp_path: Path) -> dict[str, list[list[int]]]:
    """What each folder's model writes where hf-latent is not installed."""
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", STRANGER, json.dumps(PROMPT), str(NEW_TOKENS), *map(str, folders)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def code_of(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text("utf-8") for path in folder.glob("*.py")}


def model_type_of(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text())["model_type"]


def test_no_generated_code_is_in_the_repository() -> None:
    """A change of `generation/` was committed six times: in the library and in five published folders."""
    assert len(PUBLISHED) == 5
    assert [path for path in ROOT.rglob("*.py") if path.parent != ROOT] == []
    assert list(ROOT.rglob("bundle.json")) == []
    for path in ROOT.glob("*/config.json"):
        assert "auto_map" not in json.loads(path.read_text()), path


def test_every_published_checkpoint_is_bundled_and_writes_the_same_without_the_library(tmp_path: Path) -> None:
    expected = {}
    for published in PUBLISHED:
        model, tokenizer = load(published.name, autoregressive=True)
        folder = bundle(model, tokenizer, tmp_path / published.name, verify=False)
        assert code_of(folder) == family_sources(model_type_of(folder))
        assert (folder / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()
        expected[str(folder)] = model.generate(torch.tensor(PROMPT), max_new_tokens=NEW_TOKENS).tolist()
    assert ids_elsewhere([tmp_path / published.name for published in PUBLISHED], tmp_path) == expected


@pytest.mark.parametrize("name", ["arithmetic", "latent-tokens-star-graph"])
def test_a_pushed_folder_has_the_code_that_its_card_speaks_of(name: str, hub: Any, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in sorted((ROOT / name).iterdir())}
    plan = push(ROOT / name, f"user/{name}")
    assert {path: path.stat().st_mtime_ns for path in sorted((ROOT / name).iterdir())} == before
    folder = pull(f"user/{name}", tmp_path / name)
    assert code_of(folder) == family_sources(model_type_of(folder))
    assert set(family_sources(model_type_of(folder))) | {"bundle.json"} <= {file.path for file in plan.files}
    fields = json.loads((folder / "config.json").read_text())
    assert set(fields.pop("auto_map")) == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
    assert fields == json.loads((ROOT / name / "config.json").read_text())
    assert (folder / "README.md").read_bytes() == (ROOT / name / "README.md").read_bytes()
    assert check_card(folder).is_valid
    model, _ = load(name, autoregressive=True)
    expected = model.generate(torch.tensor(PROMPT), max_new_tokens=NEW_TOKENS).tolist()
    assert ids_elsewhere([folder], tmp_path) == {str(folder): expected}


def test_a_folder_without_code_is_written_by_bundle(sudoku_model: Any, tokenizer: Any, tmp_path: Path) -> None:
    """As the recipes publish into `model_cards/`; an earlier bundle there loses its copies."""
    folder = bundle(sudoku_model, tokenizer, tmp_path / "mine", verify=False)
    assert code_of(folder) and (folder / "bundle.json").exists()
    bundle(sudoku_model, tokenizer, folder, with_code=False)
    assert not code_of(folder) and not (folder / "bundle.json").exists()
    assert "auto_map" not in json.loads((folder / "config.json").read_text())
    assert AutoModelForCausalLM.from_pretrained(folder).num_parameters() == sudoku_model.num_parameters()


def test_code_that_is_there_is_never_overwritten_by_a_push(hub: Any, bundled: Path, tmp_path: Path) -> None:
    """What somebody has changed is refused, also where other modules are missing; nobody's work is replaced."""
    folder = shutil.copytree(bundled, tmp_path / "mine")
    (folder / "generation_rules.py").write_text("CHANGED = True\n")
    (folder / "generation_noise.py").unlink()
    with pytest.raises(ValueError, match=r"generation_rules\.py differs from the module of that name"):
        push(folder, "user/mine", verify=False)
    assert (folder / "generation_rules.py").read_text() == "CHANGED = True\n"
    (folder / "generation_rules.py").unlink()
    push(folder, "user/mine", verify=False)
    assert code_of(pull("user/mine", tmp_path / "pulled")) == family_sources("llada")
