"""Folders of every family carry their code: where hf_latent is not installed they load, compute and are saved."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

FAMILIES = ("sdar", "sdar-moe", "fast-dllm", "llada2", "llada-moe", "illada")
# Runs in a process of its own: loads each folder, computes, saves it again.
STRANGER = """
import sys
import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForCausalLM
torch.set_num_threads(1)
ids, found = torch.tensor([[5, 6, 51, 7, 51, 51, 9, 51, 3]]), {}
for name in sys.argv[1:]:
    model = AutoModelForCausalLM.from_pretrained(name, trust_remote_code=True)
    with torch.no_grad():
        found[name] = model(ids).logits
        if getattr(model, "is_block_causal", False):
            found[f"{name} noisy"] = model(ids, clean_ids=ids.clamp(max=50)).logits
    model.save_pretrained(f"again/{name}")
    assert type(AutoModel.from_pretrained(f"again/{name}", trust_remote_code=True)).__name__ == type(model).__name__
save_file({name: value.contiguous() for name, value in found.items()}, "logits.safetensors")
"""


@pytest.fixture(scope="module")
def visited(build: Any, run_stranger: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one of each family, where a stranger has been."""
    root = tmp_path_factory.mktemp("families")
    for name in FAMILIES:
        build(name).save_pretrained(root / name)
    run_stranger(STRANGER, root, *FAMILIES)
    return root


def test_a_stranger_computes_the_same(visited, build):
    found = load_file(visited / "logits.safetensors")
    ids = torch.tensor([[5, 6, 51, 7, 51, 51, 9, 51, 3]])
    for name in FAMILIES:
        model = build(name)
        with torch.no_grad():
            torch.testing.assert_close(found[name], model(ids).logits, atol=1e-5, rtol=1e-5)
            if f"{name} noisy" in found:
                expected = model(ids, clean_ids=ids.clamp(max=50)).logits
                torch.testing.assert_close(found[f"{name} noisy"], expected, atol=1e-5, rtol=1e-5)
    assert len(found) == len(FAMILIES) + 4


@pytest.mark.parametrize("name", FAMILIES)
def test_what_a_stranger_saves_is_what_we_saved(visited, name):
    first, again = (load_file(path / "model.safetensors") for path in (visited / name, visited / "again" / name))
    assert first.keys() == again.keys() and all(torch.equal(first[key], again[key]) for key in first)
    fields = [json.loads((path / "config.json").read_text()) for path in (visited / name, visited / "again" / name)]
    assert fields[0] == fields[1]
    code = [{path.name: path.read_text() for path in folder.glob("*.py")} for folder in (visited / name,)]
    assert code[0] == {path.name: path.read_text() for path in (visited / "again" / name).glob("*.py")}
    # Here, our own classes are taken, and read it.
    assert type(AutoModelForCausalLM.from_pretrained(visited / "again" / name)).__module__.startswith("hf_latent.")
