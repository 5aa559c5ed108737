"""Runs that are interrupted, shared or extended give the records of one run; what changed is measured anew."""

import copy
import math

import pytest
import torch

from hf_latent.data.identity import identify
from hf_latent.evaluation import solve_puzzles
from hf_latent.evaluation.metric_specs import MetricOptions, build_metric
from hf_latent.evaluation.metrics import Choice, Likelihood
from hf_latent.evaluation.sharded_runs import (
    Shard,
    collect,
    count_missing,
    run,
    run_key,
    settings_of,
    store_of,
)
from hf_latent.tasks import SudokuTask

RANDOM = {"decoding": "random", "temperature": 1.0, "seed": 5}
SAMPLES = {"estimator": "masked_count", "num_samples": 4, "seed": 5}


def exact_match(limit=5):
    return build_metric("sudoku-4x4", MetricOptions(limit=limit, task_seed=0), {})


def likelihood():
    return build_metric("sudoku-4x4:likelihood", MetricOptions(limit=5, task_seed=0), {})


def choice():
    contexts, choices = ["12", "34", "1.", "2.", "3."], [["1", "2", "34"]] * 5
    return Choice("choice", contexts, choices, [0, 1, 2, 0, 1])


MEASURES = [(exact_match, RANDOM), (likelihood, SAMPLES), (choice, SAMPLES)]


def records_of(store):
    """Without seconds, which are never alike."""
    return {key: {k: v for k, v in r.items() if k != "seconds"} for key, r in store.read().items()}


def assert_same(records, others):
    assert records.keys() == others.keys()
    for key, record in records.items():
        for name, value in record.items():
            known = others[key][name]
            assert known == (pytest.approx(value, rel=1e-4) if isinstance(value, float | list) else value), name


@pytest.mark.parametrize(("make", "settings"), MEASURES, ids=["exact_match", "likelihood", "choice"])
def test_an_interrupted_and_a_shared_run_make_the_records_of_one(make, settings, sudoku_model, tokenizer, tmp_path):
    """Interrupted behind every batch, then finished by two processes: nothing is lost, made twice, or other."""
    metric = make()
    whole = store_of(tmp_path / "whole", "k", Shard())
    run(metric, settings, sudoku_model, tokenizer, whole, batch_size=16)
    assert len(whole.read()) == 5

    class Interrupt(Exception):
        pass

    def stop(num):
        raise Interrupt

    pieces = store_of(tmp_path / "pieces", "k", Shard())
    for done in (1, 2):
        with pytest.raises(Interrupt):
            run(metric, settings, sudoku_model, tokenizer, pieces, batch_size=1, on_done=stop)
        assert len(pieces.read()) == done
        assert count_missing(metric, pieces) == 5 - done
    made = []
    for process in (0, 1):
        shard = Shard(process, 2)
        store = store_of(tmp_path / "pieces", "k", shard)
        run(metric, settings, sudoku_model, tokenizer, store, batch_size=2, shard=shard, on_done=made.append)
    assert sum(made) == 3
    assert len(list(pieces.folder.glob("part-*.jsonl"))) == 2
    assert_same(records_of(pieces), records_of(whole))
    one, other = (collect(metric, settings, store) for store in (whole, pieces))
    assert other["value"] == pytest.approx(one["value"], rel=1e-4)
    assert other["num_examples"] == 5
    run(metric, settings, sudoku_model, tokenizer, whole, batch_size=16, on_done=stop)  # makes nothing


def test_more_examples_keep_those_that_are_made(sudoku_model, tokenizer, tmp_path):
    store = store_of(tmp_path, "k", Shard())
    run(exact_match(3), RANDOM, sudoku_model, tokenizer, store, batch_size=8)
    assert count_missing(exact_match(5), store) == 2
    with pytest.raises(ValueError, match="2 of 5 examples of sudoku-4x4"):
        collect(exact_match(5), RANDOM, store)
    assert collect(exact_match(2), RANDOM, store)["num_examples"] == 2


def test_a_changed_example_is_measured_anew(sudoku_model, tokenizer, tmp_path):
    store = store_of(tmp_path, "k", Shard())
    rows = [{"prompt": "12", "completion": "34"}, {"prompt": "1", "completion": "2"}]
    run(Likelihood("x", rows), SAMPLES, sudoku_model, tokenizer, store, batch_size=8)
    changed = [rows[0], {"prompt": "1", "completion": "3"}]
    assert count_missing(Likelihood("x", changed), store) == 1


def test_a_run_is_another_with_other_weights_settings_or_layout(sudoku_model, tokenizer):
    """A retrained model in the same folder must not inherit the old one's results."""
    before = identify(sudoku_model, tokenizer)
    assert identify(copy.deepcopy(sudoku_model), tokenizer) == before
    other = copy.deepcopy(sudoku_model)
    with torch.no_grad():
        other.get_input_embeddings().weight[3, 1] += 1e-3  # one value of all
    metric = exact_match()
    keys = [
        run_key(before, metric, RANDOM),
        run_key(identify(other, tokenizer), metric, RANDOM),
        run_key(before, metric, RANDOM | {"seed": 6}),
        run_key(before, likelihood(), RANDOM),
        run_key(before, build_metric("sudoku-6x6", MetricOptions(limit=2), {}), RANDOM),
    ]
    assert len(set(keys)) == len(keys)
    assert run_key(before, exact_match(2), RANDOM) == keys[0], "the number of examples is not part of it"


def test_the_summary_is_that_of_solving_at_once(sudoku_model, tokenizer, tmp_path):
    metric, store = exact_match(), store_of(tmp_path, "k", Shard())
    run(metric, RANDOM, sudoku_model, tokenizer, store, batch_size=2)
    task = SudokuTask(4)
    puzzles = [p | task.format(p) for p in task.generate(5, 0, split="test")]
    result = solve_puzzles(sudoku_model, tokenizer, task, puzzles, **RANDOM).to_dict()
    summary = collect(metric, RANDOM, store)
    for name in ("accuracy", "forwards_per_example", "tokens_per_forward", "num_examples"):
        assert summary[name] == result[name]
    for name in ("leftmost_share", "leftmost_distance"):
        assert summary[name] == pytest.approx(result[name], rel=1e-5)
    assert summary["metric"] == "accuracy"


def test_a_choice_is_right_where_its_likelihood_is_largest(sudoku_model, tokenizer, tmp_path):
    metric, store = choice(), store_of(tmp_path, "k", Shard())
    run(metric, SAMPLES, sudoku_model, tokenizer, store, batch_size=8)
    right = 0
    for number, record in enumerate(store.read().values()):
        best = max(range(3), key=lambda i: record["scores"][i])
        assert record["correct"] == (best == metric.answers[number])
        per_byte = [record["scores"][i] / len(c) for i, c in enumerate(metric.choices[number])]
        assert record["correct_per_byte"] == (per_byte.index(max(per_byte)) == metric.answers[number])
        right += record["correct"]
    summary = collect(metric, SAMPLES, store)
    assert summary["accuracy"] == summary["value"] == right / 5
    assert summary["standard_error"] == pytest.approx(math.sqrt(right / 5 * (1 - right / 5) / 5))


def test_settings_are_decoders_or_draws():
    grid, samples = [{"decoding": "med"}], {"estimator": "chain", "num_samples": 1}
    assert settings_of(exact_match(), grid, samples, 3) == [{"decoding": "med", "seed": 3}]
    assert settings_of(likelihood(), grid, samples, 3) == [{**samples, "seed": 3}]
