"""Zebra puzzles against brute force over all assignments: solutions, guesses, what counts as an answer."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from hf_latent.tasks import ZebraTask, zebra_tokenizer
from hf_latent.tasks.zebra_clues import CLUES, Clue, CluePools, ZebraSolver, holds, house_key
from hf_latent.tasks.zebra_minimal import ClueReducer

PUZZLE, SOLUTION = "=A2B1;@B23;@A32", "231\n132"  # the instance of the docstring
SIZES = [(2, 3), (3, 2), (3, 3), (4, 2)]


def assignments(num_houses: int, num_attributes: int) -> list[tuple]:
    """Every `[attribute][value] -> house`."""
    return list(itertools.product(itertools.permutations(range(num_houses)), repeat=num_attributes))


def true_clues(houses: Sequence[Sequence[int]], kind: str) -> list[Clue]:
    """All clues of a kind that are true of an assignment."""
    pools = CluePools(len(houses[0]), len(houses), kind)
    return [pools.clues[number] for number in pools.true_of(houses)[0]]


def says(text: str, rows: list[str]) -> bool:
    """What a clue means, read from its text and from the rows of an answer, without the task's own code."""
    houses = {f"{'ABCDEF'[a]}{value}": house for a, row in enumerate(rows) for house, value in enumerate(row, 1)}
    first = houses[text[1:3]]
    if text[0] == "@":
        return first == int(text[3])
    second = houses[text[3:5]]
    return {
        "=": first == second,
        "!": first != second,
        "~": first - second in (1, -1),
        "<": first < second,
        "-": second - first == 1,
    }[text[0]]


def answers(num_houses: int, num_attributes: int) -> list[list[str]]:
    """The rows of every possible answer."""
    rows = ["".join(p) for p in itertools.permutations("123456"[:num_houses])]
    return [list(of) for of in itertools.product(rows, repeat=num_attributes)]


# Generator


@pytest.mark.parametrize("size", SIZES)
def test_a_generated_puzzle_has_one_solution_and_no_clue_to_spare(size: tuple[int, int]) -> None:
    """Of all answers, one makes all clues true; without any one clue there are more."""
    everything = answers(*size)
    for puzzle in ZebraTask(*size).generate(6, 0):
        clues = puzzle["puzzle"].split(";")
        right = [rows for rows in everything if all(says(clue, rows) for clue in clues)]
        assert ["\n".join(rows) for rows in right] == [puzzle["solution"]]
        assert puzzle["num_clues"] == len(clues) == len(set(clues))
        for left_out in clues:
            assert sum(all(says(clue, rows) for clue in clues if clue != left_out) for rows in everything) > 1


@pytest.mark.parametrize("size", [(4, 4), (5, 5), (6, 6)])
def test_larger_puzzles_have_one_solution(size: tuple[int, int]) -> None:
    task = ZebraTask(*size)
    for puzzle in task.generate(3, 1):
        assert task.count_solutions(puzzle["puzzle"], limit=3) == 1
        assert all(says(clue, puzzle["solution"].split("\n")) for clue in puzzle["puzzle"].split(";"))


def test_all_kinds_of_clues_occur_and_only_those_asked_for() -> None:
    kinds = {clue[0] for puzzle in ZebraTask().generate(20, 0) for clue in puzzle["puzzle"].split(";")}
    assert kinds == set(CLUES)
    few = ZebraTask(3, 3, clues="=<")
    assert {clue[0] for puzzle in few.generate(10, 0) for clue in puzzle["puzzle"].split(";")} == set("=<")


def test_clues_that_cannot_tell_the_houses_apart_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"Found only 0 of 1 train 3x3 zebra puzzles with `clues`='='"):
        ZebraTask(3, 3, clues="=").generate(1, 0)


def test_true_clues_are_those_that_hold() -> None:
    """Each kind: of all clues that can be written, the true ones, symmetric ones once."""
    houses = [[2, 0, 1], [0, 1, 2]]
    rows = ["231", "123"]
    items = [f"{a}{v}" for a in "AB" for v in "123"]
    for kind in "=!~<-":
        pairs = itertools.combinations(items, 2) if kind in "=!~" else itertools.permutations(items, 2)
        expected = {kind + x + y for x, y in pairs if says(kind + x + y, rows) and (x[0] != y[0] or kind in "~<-")}
        found = [ZebraTask(3, 2).parse(text)[0] for text in expected]
        assert sorted(true_clues(houses, kind)) == sorted(found)
    assert {(c.first, c.second) for c in true_clues(houses, "@")} == {
        ((a, v), houses[a][v]) for a in range(2) for v in range(3)
    }


# Solver


@pytest.mark.parametrize("size", SIZES)
def test_solutions_are_those_of_brute_force(size: tuple[int, int]) -> None:
    """True and contradicting clues, few and many: a house struck out too much or too little changes the set."""
    rng = random.Random(0)
    every, solver = assignments(*size), ZebraSolver(*size)
    several = none = 0
    for _ in range(60):
        pools = [true_clues(rng.choice(every), kind) for kind in CLUES]
        clues = [rng.choice(pool) for pool in rng.choices([p for p in pools if p], k=rng.randint(0, 6))]
        expected = sorted(houses for houses in every if all(holds(clue, houses) for clue in clues))
        found = [tuple(map(tuple, houses)) for houses in solver.solutions(clues, limit=10**6)]
        assert sorted(found) == expected
        several, none = several + (len(found) > 1), none + (not found)
    assert several and none


def test_guesses_count_every_branch_of_the_search() -> None:
    """By hand: two houses, two attributes. Nothing known, both houses of A1 are tried, then both of B1 for each."""
    solver = ZebraSolver(2, 2)
    assert solver.count_guesses([]) == 2 + 2 * 2
    same = Clue("=", (0, 0), (1, 0))
    assert solver.count_guesses([same]) == 2
    assert solver.count_guesses([same, Clue("@", (0, 0), 0)]) == 0


def test_only_puzzles_within_the_range_of_guesses_are_drawn() -> None:
    task = ZebraTask(4, 3, num_guesses=(3, 8))
    assert all(3 <= task.difficulty(puzzle) <= 8 for puzzle in task.generate(5, 0))
    easy = ZebraTask(4, 3, num_guesses=0)
    assert {easy.difficulty(puzzle) for puzzle in easy.generate(5, 0)} == {0}


# Seeds and splits


def test_renaming_and_reordering_never_move_a_puzzle_to_the_other_side() -> None:
    """Attributes and values renamed, clues and sides shuffled: still one puzzle, which must not be in both splits."""
    rng = random.Random(0)
    task = ZebraTask(4, 3)
    for puzzle in task.generate(20, 0):
        letters = dict(zip("ABC", rng.sample("ABC", 3), strict=True))
        digits = {a: dict(zip("1234", rng.sample("1234", 4), strict=True)) for a in "ABC"}

        def renamed(item: str, letters: dict = letters, digits: dict = digits) -> str:
            return letters[item[0]] + digits[item[0]][item[1]]

        clues = []
        for clue in puzzle["puzzle"].split(";"):
            rest = clue[3:] if clue[0] == "@" else renamed(clue[3:])
            pair = [renamed(clue[1:3]), rest]
            clues.append(clue[0] + "".join(pair[::-1] if clue[0] in "=!~" else pair))
        rng.shuffle(clues)
        rows = puzzle["solution"].split("\n")
        changed = sorted(
            (letters[a], "".join(digits[a][value] for value in row)) for a, row in zip("ABC", rows, strict=True)
        )
        assert task.verify(";".join(clues), "\n".join(row for _, row in changed))
        keys = []
        for text, of in ((puzzle["puzzle"], rows), (";".join(clues), [row for _, row in changed])):
            keys.append(house_key(task.parse(text), [[row.index(v) for v in "1234"] for row in of]))
        assert keys[0] == keys[1]


def test_splits_never_meet() -> None:
    """3x2 puzzles are few: splits by seed alone would collide."""
    task = ZebraTask(3, 2)

    def keys(split: str, seed: int, num: int) -> list[str]:
        found = task.generate(num, seed, split=split)
        houses = [[[row.index(v) for v in "123"] for row in p["solution"].split("\n")] for p in found]
        return [house_key(task.parse(p["puzzle"]), of) for p, of in zip(found, houses, strict=True)]

    train, test = keys("train", 1, 200), keys("test", 2, 20)
    assert len(set(train)) == 200 and len(set(test)) == 20
    assert not set(train) & set(test)


# Verifier


def test_the_docstring_instance_is_right() -> None:
    task = ZebraTask(3, 2)
    assert task.count_solutions(PUZZLE) == 1
    assert task.format({"puzzle": PUZZLE, "solution": SOLUTION}) == {
        "prompt": "3B;=A2B1;@B23;@A32\n",
        "completion": "231\n132",
    }


@pytest.mark.parametrize("size", SIZES)
def test_of_all_answers_the_right_ones_are_accepted(size: tuple[int, int]) -> None:
    """Also of puzzles with several solutions: any of them counts."""
    task = ZebraTask(*size)
    puzzle = task.generate(1, 5)[0]["puzzle"]
    for text in (puzzle, ";".join(puzzle.split(";")[1:])):
        for rows in answers(*size):
            assert task.verify(text, "\n".join(rows)) == all(says(clue, rows) for clue in text.split(";"))


@pytest.mark.parametrize(
    "answer",
    ["", "231", "231\n132\n123", "231\n13", "231\n133", "231\n13<mask>", "231132", "<eos>231\n132", "231\n124", "x"],
)
def test_wrong_answers_are_wrong(answer: str) -> None:
    assert not ZebraTask(3, 2).verify(PUZZLE, answer)


@pytest.mark.parametrize("tail", ["", "<eos>", "<eos><pad>", "\n<eos>", "<eos>321"])
def test_what_follows_the_end_of_the_answer_does_not_matter(tail: str) -> None:
    assert ZebraTask(3, 2).is_solved({"puzzle": PUZZLE}, SOLUTION + tail)


@pytest.mark.parametrize("puzzle", ["", "=A1", "=A1C1", "=A4B1", "@A1B2", "?A1B1", "=A1B1;"])
def test_a_puzzle_which_is_none_is_refused(puzzle: str) -> None:
    with pytest.raises(ValueError, match="A clue of 3 houses and 2 attributes"):
        ZebraTask(3, 2).verify(puzzle, SOLUTION)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_houses": 1}, "`num_houses` must be within 2..6, got 1"),
        ({"num_attributes": 7}, "`num_attributes` must be within 2..6, got 7"),
        ({"clues": "=x"}, "`clues` must be some of the characters '=!~<-@', got '=x'"),
        ({"clues": ""}, "got ''"),
        ({"num_guesses": (2, 1)}, r"`num_guesses` must be a range of whole numbers from 0, got \(2, 1\)"),
    ],
)
def test_bad_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ZebraTask(**options)
    with pytest.raises(ValueError, match="'dev'"):
        ZebraTask().generate(1, 0, split="dev")


# Tokenizer


def test_lengths_are_those_announced_and_texts_survive() -> None:
    tokenizer = zebra_tokenizer()
    assert len(tokenizer) == 23
    for size in [(2, 2), (4, 4), (6, 6)]:
        task = ZebraTask(*size)
        text = task.format(task.generate(1, 0)[0])
        ids = tokenizer(text["prompt"] + text["completion"] + "<eos>")["input_ids"]
        assert tokenizer.decode(ids) == text["prompt"] + text["completion"] + "<eos>"
        assert len(ids) - len(tokenizer(text["prompt"])["input_ids"]) == task.completion_length
        assert len(ids) <= tokenizer.model_max_length


@pytest.mark.parametrize("size", [(2, 2), (3, 3), (2, 4), (4, 3)], ids=str)
def test_both_ways_to_the_clues_that_are_needed_agree_with_leaving_each_out(size: tuple[int, int]) -> None:
    """Sets of assignments and searches for a second solution against the definition, one clue after the other."""
    solver, rng = ZebraSolver(*size), random.Random(str(size))
    reducer = ClueReducer(solver)
    assert reducer.is_small

    def minimal(clues: list[Clue]) -> list[Clue] | None:
        counts = [len(solver.solutions(clues[:n])) for n in range(len(clues) + 1)]
        if counts[-1] != 1:
            return None
        kept = clues[: counts.index(1)]
        for clue in kept[::-1]:
            fewer = [other for other in kept if other != clue]
            kept = fewer if len(solver.solutions(fewer)) == 1 else kept
        return kept

    found = []
    for _ in range(40):
        houses = [rng.sample(range(size[0]), size[0]) for _ in range(size[1])]
        pools = [pool for kind in CLUES if (pool := true_clues(houses, kind))]
        clues = list(dict.fromkeys(rng.choice(rng.choice(pools)) for _ in range(rng.choice([2, 8, 30]))))
        found.append(minimal(clues))
        assert reducer.minimal(clues, houses) == found[-1]
        assert reducer._by_search(clues, houses) == found[-1]
    assert None in found and any(found)


def test_both_splits_at_once_are_the_splits_one_after_the_other() -> None:
    task = ZebraTask(3, 2)
    both = task.generate_splits({"test": 5, "train": 30}, 7)
    assert both == {split: task.generate(num, 7, split=split) for split, num in (("test", 5), ("train", 30))}


def test_what_takes_long_shows_progress(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr("hf_latent.tasks.drawing.PATIENCE", 0.0)
    ZebraTask(3, 2).generate(20, 0)
    assert "drawing 3x2 zebra puzzles" in capsys.readouterr().err
