"""What the published checkpoints' cards say is in their results, and the models do what the cards say."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_latent.cli.loading import load
from hf_latent.evaluation import solve_puzzles
from hf_latent.tasks import SudokuTask

ROOT = Path(__file__).resolve().parents[3] / "model_cards"
CHECKPOINTS = sorted(path.parent for path in ROOT.glob("*/model.safetensors"))


def test_there_are_published_checkpoints():
    assert [folder.name for folder in CHECKPOINTS] == ["sudoku-4x4", "sudoku-6x6"]


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_every_number_of_a_card_is_in_its_results(folder):
    report = json.loads((folder / "decoding_results.json").read_text())
    card = ModelCard.load(folder / "README.md")
    measured = [round(result["accuracy"], 4) for result in report["results"]]
    assert [entry.metric_value for entry in card.data.eval_results] == measured
    for result in report["results"]:
        row = f"{result['accuracy']:.3f} ± {result['standard_error']:.3f} | {result['num_examples']} | "
        assert row + f"{result['forwards_per_example']:.2f} | {result['tokens_per_forward']:.2f} |" in card.text
    assert report["command"] in card.text


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_med_needs_2_5_times_fewer_forwards_for_at_most_one_point(folder):
    """The promise of the method, for the checkpoint's own threshold, on at least 500 held-out puzzles."""
    results = json.loads((folder / "decoding_results.json").read_text())["results"]
    one = next(r for r in results if r["settings"]["decoding"] == "low_confidence")
    own = json.loads((folder / "generation_config.json").read_text())
    assert own["decoding"] == "med"
    chosen = {"decoding": "med", "entropy_threshold": own["entropy_threshold"], "seed": 0}
    med = next(r for r in results if r["settings"] == chosen)
    assert one["num_examples"] >= 500
    assert one["tokens_per_forward"] == 1.0
    assert one["forwards_per_example"] / med["forwards_per_example"] >= 2.5
    assert med["accuracy"] >= one["accuracy"] - 0.01


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_a_packaged_model_solves_puzzles_it_has_never_seen(folder):
    """Other puzzles than those of the card: 40 solved at the card's rate fall below 34 with odds under 1e-4."""
    about = json.loads((folder / "task.json").read_text())
    task = SudokuTask(about["size"])
    model, tokenizer = load(folder.name)
    found = task.generate(40, seed=99, split="test", num_givens=tuple(about["num_givens"]))
    result = solve_puzzles(model, tokenizer, task, [p | task.format(p) for p in found])
    assert result.num_correct >= 34
    assert result.forwards_per_example < task.completion_length / 2.5
