"""What the published checkpoints' cards say is in their results, and the models do what the cards say."""

import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_latent import ReasoningTemplate
from hf_latent.checkpoints.loading import load
from hf_latent.evaluation import describe, solve_puzzles
from hf_latent.tasks import ArithmeticTask, SudokuTask, get_task

ROOT = Path(__file__).resolve().parents[3] / "model_cards"
CHECKPOINTS = sorted(path.parent for path in ROOT.glob("*/decoding_results.json"))
AHEAD = ROOT / "latent-tokens-arithmetic"
STAR_GRAPH = ROOT / "latent-tokens-star-graph"
SUDOKU = [folder for folder in CHECKPOINTS if folder.name.startswith("sudoku")]
ARITHMETIC = ROOT / "arithmetic"


def test_there_are_published_checkpoints():
    assert [folder.name for folder in CHECKPOINTS] == ["arithmetic", "sudoku-4x4", "sudoku-6x6"]
    with_weights = {path.parent for path in ROOT.glob("*/model.safetensors")}
    assert with_weights == {*CHECKPOINTS, AHEAD, STAR_GRAPH}


def test_drafts_of_the_published_model_write_its_text_in_half_the_forwards():
    """The promise of self-speculative decoding, on problems that the card does not show."""
    model, tokenizer = load(str(AHEAD), autoregressive=True)
    task = ArithmeticTask()
    for problem in task.generate(6, 77, split="test"):
        inputs = tokenizer(task.format(problem)["prompt"], return_tensors="pt", return_token_type_ids=False)
        knobs = {"max_new_tokens": 96, "do_sample": False, "return_dict_in_generate": True}
        for number, judge in ((0, "plain"), (4, True)):
            without = model.generate(**inputs, num_latent_tokens=number, **knobs).sequences
            drafted = model.generate(**inputs, num_latent_tokens=4, self_speculative=judge, **knobs)
            assert drafted.sequences.tolist() == without.tolist()
            assert drafted.tokens_per_forward.item() > 2


def test_the_published_model_finds_its_way_with_latent_tokens_alone():
    """Guessing one of four arms, 40 graphs of 60 are solved with odds under 1e-11."""
    about = json.loads((STAR_GRAPH / "task.json").read_text())
    task = get_task(about["task"], **about["options"])
    model, tokenizer = load(str(STAR_GRAPH), autoregressive=True)
    graphs = [graph | task.format(graph) for graph in task.generate(60, 99, split="test")]
    solved = {
        number: solve_puzzles(model, tokenizer, task, graphs, num_latent_tokens=number).num_correct
        for number in (0, 1, 2)
    }
    assert solved[0] < 40
    assert min(solved[1], solved[2]) >= 58


@pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)
def test_every_number_of_a_card_is_in_its_results(folder):
    report = json.loads((folder / "decoding_results.json").read_text())
    card = ModelCard.load(folder / "README.md")
    measured = [round(result["accuracy"], 4) for result in report["results"]]
    assert [entry.metric_value for entry in card.data.eval_results] == measured
    for result in report["results"]:
        row = f"{result['accuracy']:.3f} ± {result['standard_error']:.3f} | {result['num_examples']} | "
        row += f"{result['forwards_per_example']:.2f} | {result['tokens_per_forward']:.2f} |"
        if folder == ARITHMETIC:
            settings = {name: value for name, value in result["settings"].items() if name != "block_length"}
            row = f"| {describe(settings)} | {100 * result['accuracy']:.1f} ± {100 * result['standard_error']:.1f} | "
            row += f"{result['forwards_per_example']:.2f} |"
        assert row in card.text
    assert report["command"] in card.text


@pytest.mark.parametrize("folder", SUDOKU, ids=lambda folder: folder.name)
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


@pytest.mark.parametrize("folder", SUDOKU, ids=lambda folder: folder.name)
def test_a_packaged_model_solves_puzzles_it_has_never_seen(folder):
    """Other puzzles than those of the card: 40 solved at the card's rate fall below 34 with odds under 1e-4."""
    about = json.loads((folder / "task.json").read_text())
    task = SudokuTask(about["size"])
    model, tokenizer = load(folder.name)
    found = task.generate(40, seed=99, split="test", num_givens=tuple(about["num_givens"]))
    result = solve_puzzles(model, tokenizer, task, [p | task.format(p) for p in found])
    assert result.num_correct >= 34
    assert result.forwards_per_example < task.completion_length / 2.5


def arithmetic_result(**settings):
    """The published result of these settings."""
    report = json.loads((ARITHMETIC / "decoding_results.json").read_text())
    block_length = json.loads((ARITHMETIC / "generation_config.json").read_text())["block_length"]
    wanted = {**settings, "block_length": block_length}
    return next(result for result in report["results"] if result["settings"] == wanted)


@pytest.mark.parametrize(("times_fewer", "knobs"), [(2.7, {}), (3.3, {"early_exit_threshold": 0.1})])
def test_reasoning_needs_fewer_forwards_for_at_most_half_a_point(times_fewer, knobs):
    """The promises of arXiv 2510.19990 on 1,000 held-out problems, for the checkpoint's own threshold."""
    own = json.loads((ARITHMETIC / "generation_config.json").read_text())
    one = arithmetic_result(decoding="entropy")
    med = arithmetic_result(decoding="med", entropy_threshold=own["entropy_threshold"], **knobs)
    assert one["num_examples"] >= 1000
    assert one["tokens_per_forward"] == 1.0
    assert one["forwards_per_example"] / med["forwards_per_example"] >= times_fewer
    assert med["accuracy"] >= one["accuracy"] - 0.005


def test_the_reasoning_model_answers_what_it_has_never_seen_and_cannot_without_reasoning():
    """Other problems than those of the card; five standard errors of 60 problems below the card's rate."""
    about = json.loads((ARITHMETIC / "task.json").read_text())
    task, (model, tokenizer) = ArithmeticTask(), load("arithmetic")
    template = ReasoningTemplate(about["reasoning_length"], about["answer_length"], about["delimiter"])
    problems = [p | task.format(p) for p in task.generate(60, seed=99, split="test")]
    result = solve_puzzles(model, tokenizer, task, problems, template=template, early_exit_threshold=0.1)
    own = model.generation_config.entropy_threshold
    published = arithmetic_result(decoding="med", entropy_threshold=own, early_exit_threshold=0.1)["accuracy"]
    assert result.accuracy >= published - 5 * (published * (1 - published) / 60) ** 0.5
    at_once = solve_puzzles(model, tokenizer, task, problems, template=template, early_exit_threshold=1e6)
    assert at_once.forwards_per_example == 1.0
    assert at_once.accuracy < result.accuracy / 2
