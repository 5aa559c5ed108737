"""From training to a checked card by the commands of the README, and results that flow into cards."""

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import CliRunner

import hf_latent.cli as cli
from hf_latent import LatentTokenForCausalLM
from hf_latent.evaluation.grid import build_causal_grid
from hf_latent.evaluation.reports.report import read_entries
from hf_latent.hub import bundle, check_card, refresh_card
from hf_latent.tasks import star_graph_tokenizer

ROOT = Path(__file__).resolve().parents[3]


def run(*arguments: object):
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(sudoku_model, tokenizer, tmp_path) -> Path:
    folder = bundle(sudoku_model, tokenizer, tmp_path / "tiny", verify=False)
    (folder / "task.json").write_text(json.dumps({"task": "sudoku", "size": 4, "num_givens": [6, 10]}))
    refresh_card(folder)  # now that the task is known
    return folder


@pytest.fixture
def looking_ahead() -> tuple[LatentTokenForCausalLM, object]:
    """A random model that writes from left to right with latent tokens, and its tokenizer."""
    tokenizer = star_graph_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    model = LatentTokenForCausalLM.from_backbone(LlamaForCausalLM(config), tokenizer, num_latent_tokens=2)
    return model.eval(), tokenizer


def test_eval_puts_results_plots_and_a_valid_table_into_the_card(folder, tmp_path):
    """Would catch results that stay in the evaluation's own folder, and paths of this machine in what others see."""
    options = ("--limit", 4, "--decoding", "random,med", "--output", tmp_path / "out", "--card", folder)
    result = run("eval", folder, *options)
    assert result.exit_code == 0, result.output
    rows = read_entries(folder / "eval_results.json")
    assert [row["settings"]["decoding"] for row in rows] == ["random", "med"]
    assert str(tmp_path) not in (folder / "eval_results.json").read_text()
    text = (folder / "README.md").read_text()
    for row in rows:
        assert f"| accuracy | {row['value']:.3f} ± {row['standard_error']:.3f} | 4 |" in text
    assert "(sudoku-4x4_accuracy_over_seconds.png)" in text
    (folder / "README.md").write_text(text.replace("Not described.\n", "It knows nothing.\n"))
    assert check_card(folder).errors == []


def test_a_card_that_is_no_folder_is_refused_before_anything_is_measured(folder, tmp_path):
    result = run("eval", folder, "--limit", 2, "--output", tmp_path / "out", "--card", tmp_path / "none")
    assert isinstance(result.exception, ValueError) and "--card" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_check_exits_with_1_and_names_what_is_wrong(folder):
    result = run("card", "check", folder)
    assert result.exit_code == 0, result.output
    assert "valid" in result.output and "not measured" in result.output
    (folder / "weights.bin").write_bytes(b"x")
    result = run("card", "check", folder)
    assert result.exit_code == 1 and "weights.bin is a pickle" in result.output


def test_write_takes_a_title_of_one_folder(folder, tmp_path):
    assert run("card", "write", folder, "--title", "Tiny solver").exit_code == 0
    assert "# Tiny solver" in (folder / "README.md").read_text()
    result = run("card", "write", folder, folder, "--title", "x")
    assert isinstance(result.exception, ValueError) and "`--title`" in str(result.exception)


def test_latent_tokens_are_an_axis_of_the_grid(looking_ahead, tmp_path):
    """Would catch an evaluation that drops the number, and one that refuses models without commit rules."""
    folder = bundle(*looking_ahead, tmp_path / "ahead", verify=False)
    options = ("--num-latent-tokens", "0:2:1", "--set", "self_speculative=false,true", "--limit", 3)
    result = run("eval", folder, "--tasks", "star_graph-2x3", *options, "--output", tmp_path / "out", "--card", folder)
    assert result.exit_code == 0, result.output
    settings = [entry["settings"] for entry in read_entries(folder / "eval_results.json")]
    found = [(s["num_latent_tokens"], s.get("self_speculative")) for s in settings]
    assert found == [(0, False), (0, None), (1, False), (1, True), (2, False), (2, True)]
    assert "num_latent_tokens=2, self_speculative=True" in (folder / "README.md").read_text()


def test_a_model_that_writes_from_left_to_right_has_no_commit_rules(looking_ahead):
    model, _ = looking_ahead
    assert build_causal_grid(model, None, {}) == [{"num_latent_tokens": 2}]
    assert build_causal_grid(model, None, {"temperature": [0, 0.7]}) == [
        {"num_latent_tokens": 2, "do_sample": False},
        {"num_latent_tokens": 2, "temperature": 0.7, "do_sample": True},
    ]
    with pytest.raises(ValueError, match=r"`decoding` is for masked.*\['med'\]"):
        build_causal_grid(model, ["med"], {})
    with pytest.raises(ValueError, match="`entropy_threshold` is no argument"):
        build_causal_grid(model, None, {"entropy_threshold": [0.1]})
    with pytest.raises(ValueError, match="whole numbers from 0 on, got -1"):
        build_causal_grid(model, None, {"num_latent_tokens": [-1]})
