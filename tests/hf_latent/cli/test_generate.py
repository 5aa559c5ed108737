"""`hf-latent generate` with models that write from left to right."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from hf_latent import LatentTokenConfig
from hf_latent.cli import app
from hf_latent.tasks import sudoku_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny latent-token model beside its tokenizer."""
    torch.manual_seed(0)
    tokenizer = sudoku_tokenizer(4)
    text = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "initializer_range": 0.5,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    fields = {"attention": "semi_causal", "order": "left_to_right", "shift_logits": True, "num_latent_tokens": 2}
    model = AutoModelForCausalLM.from_config(
        LatentTokenConfig(text_config=text, mask_token_id=tokenizer.mask_token_id, **fields)
    )
    folder = tmp_path_factory.mktemp("latent")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def run(*arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(app, ["generate", *arguments, "--max-new-tokens", "12"])
    assert result.exit_code == 0, result.exception
    return result.stdout, result.stderr


def test_drafts_write_what_is_written_without_them(checkpoint: str) -> None:
    """And it is said how many forwards they took."""
    plain, cost = run(checkpoint, "12")
    drafted, less = run(checkpoint, "12", "--self-speculative")
    assert plain == drafted
    assert cost.startswith("12 forwards, 1.00") and int(less.split()[0]) <= 12


def test_latent_tokens_are_asked_for_and_change_what_is_written(checkpoint: str) -> None:
    texts = {run(checkpoint, "12", "--num-latent-tokens", str(number))[0] for number in range(6)}
    assert len(texts) > 1
    assert run(checkpoint, "12")[0] == run(checkpoint, "12", "--num-latent-tokens", "2")[0]


def test_a_checkpoint_that_says_how_much_it_writes_is_taken_at_its_word(checkpoint: str, tmp_path: Path) -> None:
    """The help says "the checkpoint's own, or 128"; models that write from left to right always wrote 128."""
    own = Path(shutil.copytree(checkpoint, tmp_path / "own"))
    (own / "generation_config.json").write_text(json.dumps({"max_new_tokens": 7}))
    for folder, number in ((checkpoint, 128), (own, 7)):
        result = CliRunner().invoke(app, ["generate", str(folder), "12"])
        assert result.stderr.splitlines()[-1].startswith(f"{number} forwards"), result.output


def test_sampling_follows_the_seed(checkpoint: str) -> None:
    texts = [run(checkpoint, "12", "--temperature", "1.5", "--seed", seed)[0] for seed in ("1", "2", "1")]
    assert texts[0] == texts[2] != texts[1]


@pytest.mark.parametrize("option", [["--decoding", "med"], ["--block-length", "4"], ["--infill"]])
def test_knobs_of_another_kind_of_model_are_refused_by_name(checkpoint: str, option: list[str]) -> None:
    result = CliRunner().invoke(app, ["generate", checkpoint, "12", *option])
    assert isinstance(result.exception, ValueError)
    assert option[0] in str(result.exception)


def test_a_masked_diffusion_model_drafts_nothing() -> None:
    result = CliRunner().invoke(app, ["generate", "sudoku-4x4", "12", "--self-speculative"])
    assert "--self-speculative" in str(result.exception)
