"""A bundle stands alone, is put in place whole, and keeps what is not part of the checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hf_latent.hub import bundle
from hf_latent.hub.bundles import bundling


def test_a_bundle_loads_generates_the_same_and_has_a_card(sudoku_model, tokenizer, tmp_path):
    """`verify` (the default) has loaded it in a process that cannot import hf-latent; here it is loaded with it."""
    folder = bundle(sudoku_model, tokenizer, tmp_path / "mine")
    names = {path.name for path in folder.iterdir()}
    assert {"README.md", "config.json", "model.safetensors", "modeling_llada.py", "tokenizer.json"} <= names
    assert not {name for name in names if name.startswith(".") or name.endswith((".bin", ".pt"))}
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    prompt = tokenizer("1...\n", return_tensors="pt")["input_ids"]
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    expected = sudoku_model.generate(prompt, max_new_tokens=8)
    assert torch.equal(loaded.generate(prompt, max_new_tokens=8), expected)
    assert AutoTokenizer.from_pretrained(folder).decode(expected[0]) == tokenizer.decode(expected[0])


def test_a_bundle_does_not_say_where_its_tokenizer_came_from(sudoku_model, tokenizer, tmp_path):
    """transformers writes whether it was loaded from a folder, and offline."""
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    once = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", local_files_only=True)
    once.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())["local_files_only"] is True
    folder = bundle(sudoku_model, once, tmp_path / "mine", verify=False)
    expected = bundle(sudoku_model, tokenizer, tmp_path / "other", verify=False)
    config = (folder / "tokenizer_config.json").read_text()
    assert config == (expected / "tokenizer_config.json").read_text()
    assert "local" not in config


def test_a_second_bundle_replaces_the_checkpoint_and_keeps_everything_else(sudoku_model, tokenizer, tmp_path):
    folder = bundle(sudoku_model, tokenizer, tmp_path / "mine", verify=False)
    (folder / "README.md").write_text("written by hand")
    (folder / "plots").mkdir()
    (folder / "plots" / "curve.png").write_bytes(b"png")
    (folder / "results.json").write_text("{}")
    for stale in ("model-00001-of-00002.safetensors", "modeling_old.py", "optimizer.pt", "training_args.bin"):
        (folder / stale).write_bytes(b"stale")
    sudoku_model.generation_config.decoding = "med"
    bundle(sudoku_model, tokenizer, folder, verify=False)
    assert (folder / "README.md").read_text() == "written by hand"
    assert (folder / "plots" / "curve.png").read_bytes() == b"png"
    assert (folder / "results.json").exists()
    names = {path.name for path in folder.iterdir()}
    assert not names & {"model-00001-of-00002.safetensors", "modeling_old.py", "optimizer.pt", "training_args.bin"}
    assert json.loads((folder / "generation_config.json").read_text())["decoding"] == "med"


def test_an_interrupted_bundle_leaves_the_earlier_one_whole(sudoku_model, tokenizer, tmp_path, monkeypatch):
    folder = bundle(sudoku_model, tokenizer, tmp_path / "mine", verify=False)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bundling, "check_loads_without_us", fail)
    with torch.no_grad():
        sudoku_model.lm_head.weight.zero_()
    with pytest.raises(KeyboardInterrupt):
        bundle(sudoku_model, tokenizer, folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_folder_that_needs_us_is_not_put_in_place(sudoku_model, tokenizer, tmp_path, monkeypatch):
    """The check runs for real: a module that imports hf-latent is smuggled into the folder."""
    from hf_latent.modeling import travel

    sources = travel.travelling_sources

    def smuggle(*args: object) -> dict[str, str]:
        return {name: f"import hf_latent\n{text}" for name, text in sources(*args).items()}

    monkeypatch.setattr(travel, "travelling_sources", smuggle)
    with pytest.raises(RuntimeError, match="mine does not load without hf-latent"):
        bundle(sudoku_model, tokenizer, tmp_path / "mine")
    assert not (tmp_path / "mine").exists()


def test_models_that_cannot_travel_are_refused_by_name(sudoku_model, tokenizer, tmp_path):
    llama = LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    with pytest.raises(ValueError, match="LlamaForCausalLM"):
        bundle(llama, None, tmp_path / "llama")
    adapted = get_peft_model(sudoku_model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    with pytest.raises(ValueError, match="merge_and_unload"):
        bundle(adapted, tokenizer, tmp_path / "adapted")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="`folder` must be a folder"):
        bundle(sudoku_model, tokenizer, tmp_path / "file")
