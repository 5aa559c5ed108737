"""Countdown: exact arithmetic, every number once; answers are judged as a second reading of them says."""

from __future__ import annotations

import itertools
import json
import os
import re
from fractions import Fraction
from pathlib import Path

import pytest

from hf_latent.tasks import CountdownTask, countdown_tokenizer
from hf_latent.tasks.countdown import reachable

PUZZLE, SOLUTION = "39,22,92,10,89", "39+92=131,22*10=220,220-131=89"  # the instance of the docstring
SHARED = Path(os.environ.get("HF_LATENT_SHARED") or Path(__file__).parents[4] / "shared")
DATA = sorted(SHARED.glob("data/countdown/test_*.jsonl"))


def is_chain(puzzle: str, answer: str) -> bool:
    """With fractions and lists instead of the task's own code."""
    *left, target = map(int, puzzle.split(","))
    for step in answer.split(","):
        match = re.fullmatch(r"(\d+)([-+*/])(\d+)=(\d+)", step)
        if not match:
            return False
        a, b, c = (int(match[i]) for i in (1, 3, 4))
        for number in (a, b):
            if number not in left:
                return False
            left.remove(number)
        if match[2] == "/" and b == 0:
            return False
        values = {"+": a + b, "-": a - b, "*": a * b, "/": Fraction(a, b or 1)}
        if values[match[2]] != c:
            return False
        left.append(c)
    return left == [target]


# Generator


@pytest.mark.parametrize("num_numbers", [2, 3, 4, 5, 6])
def test_generated_puzzles_come_with_a_solution(num_numbers: int) -> None:
    task = CountdownTask(num_numbers)
    for puzzle in task.generate(100, 0):
        numbers = [int(number) for number in puzzle["puzzle"].split(",")]
        assert is_chain(puzzle["puzzle"], puzzle["solution"]) and task.is_solved(puzzle, puzzle["solution"])
        assert len(numbers) == num_numbers + 1
        assert all(1 <= number <= 99 for number in numbers) and numbers[-1] >= 10
        results = [int(step.split("=")[1]) for step in puzzle["solution"].split(",")]
        assert len(results) == num_numbers - 1 and all(1 <= result <= 999 for result in results)
        assert task.difficulty(puzzle) == puzzle["solution"].count("*") + puzzle["solution"].count("/")


def test_targets_of_generated_puzzles_are_reachable_by_brute_force() -> None:
    for puzzle in CountdownTask(3).generate(50, 0):
        *numbers, target = (int(number) for number in puzzle["puzzle"].split(","))
        assert target in reachable(numbers)


def test_brute_force_finds_what_is_known_by_hand() -> None:
    """2 and 3: sum, product, difference; a division only where it leaves nothing over."""
    assert reachable([2, 3]) == {5, 6, 1}
    assert reachable([6, 3]) == {9, 18, 3, 2}
    assert reachable([7]) == {7}
    assert 24 in reachable([2, 3, 4]) and 25 not in reachable([2, 3, 4])


def test_ranges_are_kept() -> None:
    task = CountdownTask(3, numbers=(2, 9), targets=(100, 120), largest=200)
    for puzzle in task.generate(30, 0):
        *numbers, target = (int(number) for number in puzzle["puzzle"].split(","))
        assert all(2 <= number <= 9 for number in numbers) and 100 <= target <= 120
        assert all(int(step.split("=")[1]) <= 200 for step in puzzle["solution"].split(","))


def test_every_operation_occurs_and_none_is_idle() -> None:
    text = ",".join(puzzle["solution"] for puzzle in CountdownTask().generate(300, 0))
    assert all(sign in text for sign in "+-*/")
    assert not re.search(r"[*/]1=|\b1\*|\b0[-+*/]|=0\b", text)


def test_splits_never_meet_in_whatever_order_numbers_stand() -> None:
    """Two numbers up to 20 have few puzzles: splits by seed alone would collide."""
    task = CountdownTask(2, numbers=(1, 20))

    def keys(split: str, seed: int, num: int) -> list[tuple]:
        found = [list(map(int, p["puzzle"].split(","))) for p in task.generate(num, seed, split=split)]
        return [(*sorted(numbers), target) for *numbers, target in found]

    train, test = keys("train", 1, 200), keys("test", 2, 20)
    assert len(set(train)) == 200 and len(set(test)) == 20
    assert not set(train) & set(test)
    for *numbers, target in train:
        sides = {task.split_of(",".join(map(str, [*order, target]))) for order in itertools.permutations(numbers)}
        assert sides == {"train"}


# Verifier


@pytest.mark.skipif(not DATA, reason="the evaluation data is not beside the repository")
def test_published_solutions_are_right_and_others_are_judged_as_by_a_second_reading() -> None:
    """500 problems each of 3, 4 and 5 numbers: right as they are, wrong for the problem after them."""
    for path in DATA:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        task = CountdownTask(rows[0]["input"].count(","))
        assert all(task.verify(row["input"], row["output"]) for row in rows)
        for row, other in zip(rows, rows[1:] + rows[:1], strict=True):
            changed = row["output"].replace("+", "-", 1)
            for puzzle, answer in ((other["input"], row["output"]), (row["input"], changed)):
                assert task.verify(puzzle, answer) == is_chain(puzzle, answer)
            assert not task.verify(other["input"], row["output"]) or other["input"] == row["input"]


def test_all_chains_of_three_small_numbers_are_judged_as_by_a_second_reading() -> None:
    """Every pair of calculations with these numbers and results."""
    task = CountdownTask(3)
    steps = [f"{a}{s}{b}={c}" for a in (1, 2, 4, 8) for s in "+-*/" for b in (1, 2, 4) for c in (2, 4, 8)]
    right = 0
    for first, second in itertools.product(steps, steps):
        answer = f"{first},{second}"
        expected = is_chain("1,2,4,8", answer)
        assert task.verify("1,2,4,8", answer) == expected
        right += expected
    assert right > 2, "several chains are right"


@pytest.mark.parametrize(
    "answer",
    [
        "39+92=131,10*22=220,220-131=89",
        "22*10=220,39+92=131,220-131=89",
        "92+39=131,22*10=220,220-131=89",
    ],
)
def test_other_ways_to_the_target_are_right(answer: str) -> None:
    assert CountdownTask().verify(PUZZLE, answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "39+92=131",
        "39+92=131,22*10=220",
        "39+92=132,22*10=220,220-132=88",
        "39+92=131,22*10=220,220-131=88",
        "39+92=131,22*10=220,131-220=89",  # negative
        "39+92=131,22*10=220,220-131=89,89+0=89",
        "39+92=131,39*10=390,390-131=259",  # 39 twice
        "89+39=128,128-39=89",  # the target is not given
        "39+92=131,22*10=220,220-131=089",
        "39 + 92 = 131,22*10=220,220-131=89",
        "39+92=131;22*10=220;220-131=89",
        "39+92=131,22*10=220,220-131=89,",
        "39+92=131,22*10=220,220-131=<mask>9",
        "39+92=131,22*10=220,220-131=" + "8" * 5000,
        "10/0=89",
    ],
)
def test_wrong_answers_are_wrong(answer: str) -> None:
    """The long one would make `int` raise."""
    assert not CountdownTask().verify(PUZZLE, answer)


def test_divisions_leave_nothing_over_and_zero_divides_nothing() -> None:
    task = CountdownTask(2)
    assert task.verify("12,4,3", "12/4=3")
    assert not task.verify("13,4,3", "13/4=3")
    assert not task.verify("4,12,3", "4/12=3")
    assert CountdownTask(3).verify("5,5,7,7", "5-5=0,0+7=7")
    assert not CountdownTask(3).verify("5,5,7,7", "5-5=0,7/0=7")


# Formatter and tokenizer


@pytest.mark.parametrize("options", [{}, {"num_numbers": 3, "largest": 9999}, {"num_numbers": 6}])
def test_completions_are_filled_up_to_the_length_announced(options: dict) -> None:
    task, tokenizer = CountdownTask(**options), countdown_tokenizer()
    for puzzle in task.generate(200, 0):
        text = task.format(puzzle)
        whole = text["prompt"] + text["completion"] + "<eos>"
        ids = tokenizer(whole)["input_ids"]
        assert tokenizer.decode(ids) == whole
        assert len(ids) - len(tokenizer(text["prompt"])["input_ids"]) == task.completion_length
        assert task.is_solved(puzzle, text["completion"] + "<eos>")


def test_the_longest_chain_just_fits() -> None:
    task = CountdownTask(3)
    longest = "999-900=99,999/111=99"
    assert len(longest) <= task.completion_length - 1
    assert task.completion_length - 1 == len("999-999=999,999-999=99")
    assert len(countdown_tokenizer()) == 20


def test_an_instance_is_formatted_as_in_the_docstring() -> None:
    text = CountdownTask().format({"puzzle": PUZZLE, "solution": SOLUTION})
    assert text["prompt"] == PUZZLE + "\n"
    assert text["completion"] == SOLUTION + "<eos>" * (34 - len(SOLUTION))
    assert CountdownTask().is_solved({"puzzle": PUZZLE}, SOLUTION)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_numbers": 1}, "`num_numbers` must be within 2..6, got 1"),
        ({"numbers": (5, 1000)}, r"`numbers` must be a range within 0..999, got \(5, 1000\)"),
        ({"targets": (0, 9)}, r"`targets` must be from 1 on, got \(0, 9\)"),
        ({"largest": 50}, r"`largest` must be within 99\.\.99999 .*, got 50"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CountdownTask(**options)
    with pytest.raises(ValueError, match="Found only 0 of 1 train puzzles of 2 numbers"):
        CountdownTask(2, numbers=(2, 3), targets=(90, 99)).generate(1, 0)
