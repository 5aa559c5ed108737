"""Tasks by name: options, splits, columns, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import hf_latent
from hf_latent.tasks import TASKS, AnswerFirstTask, SudokuTask, ZebraTask, get_task, load_task

SMALL = {
    "answer_first": {"kind": "rotation"},
    "arithmetic": {"num_steps": (2, 2)},
    "countdown": {"num_numbers": 3},
    "star_graph": {"degree": 3},
    "sudoku": {"size": 4, "num_givens": (6, 8)},
    "zebra": {"num_houses": 3, "num_attributes": 2},
}


def test_every_task_is_tried_here() -> None:
    assert set(SMALL) == set(TASKS)


@pytest.mark.parametrize("name", SMALL)
def test_splits_hold_what_was_asked_for_and_nothing_twice(name: str) -> None:
    data = load_task(name, num_train=60, num_validation=15, num_test=25, seed=3, **SMALL[name])
    assert {split: len(rows) for split, rows in data.items()} == {"train": 60, "validation": 15, "test": 25}
    prompts = [prompt for rows in data.values() for prompt in rows["prompt"]]
    assert len(set(prompts)) == len(prompts)
    task = get_task(name, **SMALL[name])
    test = task.generate(25, 3, split="test")
    assert data["test"]["completion"] == [task.format(instance)["completion"] for instance in test]
    assert {tuple(rows.column_names[:3]) for rows in data.values()} == {("prompt", "completion", "difficulty")}


@pytest.mark.parametrize("name", SMALL)
def test_rows_are_judged_by_the_task_of_the_same_name(name: str) -> None:
    """Their own completion is right, that of a row with another one is not; difficulty is the task's."""
    rows = load_task(name, num_train=20, num_validation=1, num_test=1, **SMALL[name])["train"]
    task = get_task(name, **SMALL[name])
    for row in rows:
        assert task.is_solved(row, row["completion"])
        assert row["difficulty"] == task.difficulty(row) >= 0
    assert sum(task.is_solved(a, b["completion"]) for a in rows for b in rows) < 20 * 20


@pytest.mark.parametrize("name", SMALL)
def test_the_same_seed_gives_the_same_rows_and_another_seed_others(name: str) -> None:
    sizes = {"num_train": 10, "num_validation": 3, "num_test": 3}
    first, again, other = (load_task(name, **sizes, seed=seed, **SMALL[name]) for seed in (0, 0, 1))
    for split in first:
        assert first[split].to_list() == again[split].to_list()
        assert first[split].to_list() != other[split].to_list()


@pytest.mark.parametrize("name", SMALL)
def test_no_seed_makes_a_test_row_a_training_row(name: str) -> None:
    train = load_task(name, num_train=200, num_validation=1, num_test=1, seed=0, **SMALL[name])["train"]
    test = load_task(name, num_train=1, num_validation=1, num_test=40, seed=1, **SMALL[name])["test"]
    assert not set(train["prompt"]) & set(test["prompt"])


@pytest.mark.parametrize("name", SMALL)
def test_tokenizers_know_every_token_of_their_task(name: str) -> None:
    """What a model is to write fits in the positions that it is given, mask and end have a token."""
    task = get_task(name, **SMALL[name])
    tokenizer = task.tokenizer()
    assert None not in (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id)
    for instance in task.generate(20, 0):
        text = task.format(instance)
        ids = tokenizer(text["completion"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids
        assert len(ids) <= task.completion_length
        if name not in ("answer_first",):  # sums of three to five numbers
            assert len(ids) == task.completion_length


def test_names_may_say_sizes() -> None:
    task = get_task("zebra-5x3")
    assert (task.num_houses, task.num_attributes) == (5, 3)
    assert get_task("sudoku-6x6", num_givens=14).size == 6
    assert get_task("countdown-5").num_numbers == 5
    star = get_task("star_graph-3x6")
    assert (star.degree, star.path_length) == (3, 6)
    assert [type(get_task(name)) for name in ("sudoku", "zebra", "answer_first")] == [
        SudokuTask,
        ZebraTask,
        AnswerFirstTask,
    ]


def test_options_may_be_what_json_makes_of_them() -> None:
    """A configuration file has lists, no tuples."""
    rows = load_task("sudoku", num_train=5, num_validation=1, num_test=1, size=4, num_givens=[6, 7])["train"]
    assert all(6 <= num <= 7 for num in rows["num_givens"])


@pytest.mark.parametrize("name", ["kakuro", "zebra-4", "sudoku-4x6", "arithmetic-2", "zebra-4x4x4", "", "zebra-"])
def test_an_unknown_name_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(ValueError, match=r"must be one of answer_first, .*, zebra, or with") as info:
        load_task(name)
    assert repr(name) in str(info.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("zebra", {"houses": 4}, r"`zebra` has no options \['houses'\]: it takes num_houses, num_attributes, clues"),
        (
            "sudoku",
            {"sizes": 4, "unique_": 1},
            r"\['sizes', 'unique_'\]: it takes size, num_givens, unique, num_guesses",
        ),
        ("zebra-4x4", {"num_houses": 4}, r"'zebra-4x4' gives \['num_houses'\] already"),
        ("sudoku-5x5", {}, "`size` must be one of"),
        ("sudoku", {"num_test": 0}, "`num_test` must be at least 1, got 0"),
        ("sudoku", {"num_train": -3}, "`num_train` must be at least 1, got -3"),
    ],
)
def test_what_is_wrong_is_said(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_task(name, **options)


def test_the_package_offers_them_without_loading_datasets(run_python: Callable[..., str]) -> None:
    assert hf_latent.load_task is load_task and hf_latent.get_task is get_task
    run_python("import sys, hf_latent; hf_latent.get_task('zebra'); sys.exit('datasets' in sys.modules)")
