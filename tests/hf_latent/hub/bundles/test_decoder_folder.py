"""A decoder folder: what is refused, what is in it, what its card says, and what an interruption leaves."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from typer.testing import CliRunner

import hf_latent.cli as cli
from hf_latent import DiffusionGenerationConfig
from hf_latent.generation.commit.rules import RULES
from hf_latent.hub import bundle, bundle_decoder
from hf_latent.hub.bundles import decoder
from hf_latent.hub.bundles.decoder import DECODERS


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("medd", {}, "`name` must be one of 'low_confidence'.*got 'medd'. Did you mean 'med'"),
        ("med", {"entropy_treshold": 1.0}, "entropy_treshold.*`entropy_threshold`"),
        ("med", {"entropy_threshold": -1.0}, "`entropy_threshold` must be a number of at least 0.0, got -1.0"),
        ("med", {"decoding": "entropy"}, "`decoding`='entropy' makes it another decoder than 'med'"),
        ("med", {"latent_refinement": True}, "`latent_refinement`=True makes it another decoder"),
        ("lrd", {"latent_refinement": False}, "`latent_refinement`=False makes it another decoder"),
        ("med", {"num_beams": 3}, "`num_beams`=3 is not supported"),
        ("med", {"suppress_tokens": torch.tensor([1])}, "`suppress_tokens` must be"),
        ("med", {"entropy_threshold": float("inf")}, "`entropy_threshold` must be"),
    ],
)
def test_names_and_settings_are_checked_before_anything_is_written(tmp_path, name, settings, message):
    with pytest.raises(ValueError, match=message):
        bundle_decoder(name, tmp_path / "mine", **settings)
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="`folder` must be a folder"):
        bundle_decoder("med", tmp_path / "file")


def test_every_rule_has_a_name():
    assert {name for name, entry in DECODERS.items() if not entry.refines} == set(RULES)
    assert all(name == entry.decoding for name, entry in DECODERS.items() if not entry.refines)


def test_an_earlier_folder_keeps_what_is_not_the_decoder(tmp_path):
    folder = bundle_decoder("med", tmp_path / "mine", verify=False)
    (folder / "custom_generate" / "generation_old.py").write_text("stale")
    (folder / "custom_generate" / "requirements.txt").write_text("kept")
    (folder / "weights.bin").write_bytes(b"kept")
    bundle_decoder("lrd", folder, verify=False)
    assert not (folder / "custom_generate" / "generation_old.py").exists()
    assert (folder / "custom_generate" / "requirements.txt").read_text() == "kept"
    assert (folder / "weights.bin").exists()
    assert ModelCard.load(folder / "README.md").text.strip().startswith("# lrd:")
    # A card that we did not write, of a checkpoint for example, stays.
    (folder / "README.md").write_text("# By hand\n")
    bundle_decoder("med", folder, verify=False)
    assert (folder / "README.md").read_text() == "# By hand\n"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_interrupted_write_leaves_the_earlier_folder_whole(tmp_path, monkeypatch):
    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in sorted((tmp_path / "mine").rglob("*")) if path.is_file()}

    bundle_decoder("med", tmp_path / "mine", verify=False)
    before = content()

    def fail(*arguments: object) -> None:
        raise KeyboardInterrupt

    for step in ("run_without_us", "write_decoder_card"):
        with monkeypatch.context() as patch:
            patch.setattr(decoder, step, fail)
            with pytest.raises(KeyboardInterrupt):
                bundle_decoder("lrd", tmp_path / "mine", verify=step == "run_without_us")
        assert content() == before
        assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_decoder_that_needs_us_is_not_put_in_place(tmp_path, monkeypatch):
    """The check runs for real: a module that imports hf-latent is smuggled into the folder."""
    sources = decoder.package_sources

    def smuggle(*arguments: Any) -> dict[str, str]:
        return {name: f"{text}\nfrom hf_latent import LladaConfig\n" for name, text in sources(*arguments).items()}

    monkeypatch.setattr(decoder, "package_sources", smuggle)
    with pytest.raises(RuntimeError, match="mine does not load without hf-latent"):
        bundle_decoder("med", tmp_path / "mine")
    assert not list(tmp_path.iterdir())


def test_the_folder_holds_the_generation_code_and_nothing_of_models(tmp_path):
    folder = bundle_decoder("entropy_bound", tmp_path / "mine")
    names = {path.name for path in (folder / "custom_generate").iterdir()}
    assert {"generate.py", "generation_custom_generate.py", "generation_denoising.py"} <= names
    assert not {name for name in names if name.startswith("modeling_") or name == "generation_mixin.py"}
    for path in (folder / "custom_generate").iterdir():
        text = path.read_text()
        assert text.startswith("# Part of hf-latent")
        assert "save_pretrained so that" not in text
        ast.parse(text)


@pytest.mark.parametrize("name", DECODERS)
def test_the_card_says_what_is_true(name, tmp_path):
    folder = bundle_decoder(name, tmp_path / name, verify=False, block_length=16)
    card = ModelCard.load(folder / "README.md")
    assert card.data.library_name == "transformers"
    assert card.data.license == "apache-2.0"
    assert "custom_generate" in card.data.tags
    assert DECODERS[name].summary in card.text
    for paper in DECODERS[name].papers:
        assert paper in card.text
    (block,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    ast.parse(block)
    # Knobs: what generate.py sets, then what `DiffusionGenerationConfig` sets; each with a meaning.
    (assignment,) = [
        node
        for node in ast.parse((folder / "custom_generate" / "generate.py").read_text()).body
        if isinstance(node, ast.Assign)
    ]
    defaults = ast.literal_eval(assignment.value)
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| (.*) \|$", card.text, re.MULTILINE)
    stated = {knob: ast.literal_eval(value) for knob, value, _ in rows}
    assert all(meaning for _, _, meaning in rows)
    assert stated | defaults == stated
    assert defaults["decoding"] == DECODERS[name].decoding
    assert defaults["block_length"] == 16
    config = DiffusionGenerationConfig()
    for knob in stated.keys() - {"decoding", "latent_refinement", "block_length"}:
        assert stated[knob] == getattr(config, knob)
    for knob in re.findall(r"`(\w+)`", card.text.partition("Also: ")[2].partition("Where nobody")[0]):
        assert hasattr(config, knob) or knob in {"logits_processor", "streamer", "row_indices", "answer_mask"}


def test_the_code_of_the_card_runs_as_pasted(sudoku_model, tokenizer, tmp_path):
    """From within the folder, as the card says, with the name of a checkpoint filled in."""
    checkpoint = bundle(sudoku_model, tokenizer, tmp_path / "checkpoint", verify=False)
    folder = bundle_decoder("lrd_med", tmp_path / "mine", verify=False)
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    block = block.replace("path/to/checkpoint", str(checkpoint)).replace("your prompt", "1..4\\n")
    program = f'import sys\nsys.modules["hf_latent"] = None\n{block}'
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    process = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    inputs = tokenizer("1..4\n", return_tensors="pt", return_token_type_ids=False)
    expected = sudoku_model.generate(**inputs, decoding="med", latent_refinement=True, max_new_tokens=64)
    text = tokenizer.decode(expected[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert process.stdout == text + "\n"


def test_on_the_command_line(tmp_path):
    folder = tmp_path / "mine"
    result = CliRunner().invoke(cli.app, ["bundle-decoder", "med", str(folder), "--set", "entropy_threshold=0.5"])
    assert result.exit_code == 0, result.output
    assert "generate.py" in result.output
    assert '"entropy_threshold": 0.5' in (folder / "custom_generate" / "generate.py").read_text()
    refused = CliRunner().invoke(cli.app, ["bundle-decoder", "medd", str(folder)])
    assert "Did you mean 'med'" in str(refused.exception)
