"""Accuracy, forwards and tokens per forward are what was really done."""

import math

import pytest

from hf_latent.evaluation import solve_puzzles
from hf_latent.tasks import SudokuTask


def test_an_oracle_solves_all_but_the_puzzles_it_is_told_to_get_wrong(oracle, tokenizer, puzzles):
    result = solve_puzzles(oracle({1, 3}), tokenizer, SudokuTask(4), puzzles, batch_size=2, decoding="low_confidence")
    assert result.correct == (True, False, True, False, True)
    assert (result.num_correct, result.num_examples, result.accuracy) == (3, 5, 0.6)
    assert result.standard_error == pytest.approx(math.sqrt(0.6 * 0.4 / 5))


def test_forwards_are_those_of_the_decoder(oracle, tokenizer, puzzles):
    """One token per forward takes as many as there are tokens; an oracle is sure of all tokens at once under MED."""
    task = SudokuTask(4)
    one = solve_puzzles(oracle(), tokenizer, task, puzzles, decoding="low_confidence")
    all_at_once = solve_puzzles(oracle(), tokenizer, task, puzzles, decoding="med", entropy_threshold=0.1)
    assert (one.forwards_per_example, one.tokens_per_forward) == (20.0, 1.0)
    assert (all_at_once.forwards_per_example, all_at_once.tokens_per_forward) == (1.0, 20.0)
    assert all_at_once.accuracy == one.accuracy == 1.0
    assert all_at_once.settings == {"decoding": "med", "entropy_threshold": 0.1}


def test_progress_is_reported_for_every_batch_and_json_leaves_out_single_puzzles(oracle, tokenizer, puzzles):
    done: list[int] = []
    result = solve_puzzles(
        oracle(), tokenizer, SudokuTask(4), puzzles, batch_size=2, on_batch=done.append, decoding="med"
    )
    assert done == [2, 2, 1]
    assert "correct" not in result.to_dict()
    assert result.to_dict()["accuracy"] == 1.0


def test_no_puzzles_is_an_error(sudoku_model, tokenizer):
    with pytest.raises(ValueError, match="`puzzles`"):
        solve_puzzles(sudoku_model, tokenizer, SudokuTask(4), [])
