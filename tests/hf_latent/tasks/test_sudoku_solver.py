"""Guesses against a second solver that is written with sets and rescans the whole board."""

from __future__ import annotations

import pytest

from hf_latent.tasks import SudokuTask
from hf_latent.tasks.sudoku_solver import BOXES

# Needs guesses: published by Arto Inkala in 2012 as the hardest he knew.
INKALA = "8........\n..36.....\n.7..9.2..\n.5...7...\n....457..\n...1...3.\n..1....68\n..85...1.\n.9....4.."


def units_of(size: int) -> list[list[tuple[int, int]]]:
    height, width = BOXES[size]
    cells = [(r, c) for r in range(size) for c in range(size)]
    names = [lambda r, c: ("r", r), lambda r, c: ("c", c), lambda r, c: ("b", r // height, c // width)]
    groups: dict = {}
    for name in names:
        for cell in cells:
            groups.setdefault(name(*cell), []).append(cell)
    return list(groups.values())


def settle(board: dict[tuple[int, int], set[int]], units: list) -> bool:
    """Naked and hidden singles until nothing changes; whether no contradiction was met."""
    before = None
    while before != board:
        before = {cell: set(options) for cell, options in board.items()}
        for unit in units:
            for cell in unit:
                if len(board[cell]) == 1:
                    for other in unit:
                        if other != cell:
                            board[other] -= board[cell]
            for digit in set().union(*before.values()):
                places = [cell for cell in unit if digit in board[cell]]
                if not places:
                    return False
                if len(places) == 1:
                    board[places[0]] = {digit}
        if not all(board.values()):
            return False
    return True


def guesses(board: dict[tuple[int, int], set[int]], units: list) -> int:
    """As the docstring of `count_guesses` says."""
    if not settle(board, units):
        return 0
    open_cells = [cell for cell in sorted(board) if len(board[cell]) > 1]
    if not open_cells:
        return 0
    cell = next((cell for cell in open_cells if len(board[cell]) == 2), open_cells[0])
    return sum(
        1 + guesses({other: set(options) for other, options in board.items()} | {cell: {digit}}, units)
        for digit in board[cell]
    )


def reference(puzzle: str, size: int) -> int:
    rows = puzzle.split("\n")
    digits = set(range(1, size + 1))
    board = {
        (r, c): digits & ({int(rows[r][c])} if rows[r][c] != "." else digits) for r in range(size) for c in range(size)
    }
    return guesses(board, units_of(size))


@pytest.mark.parametrize(("size", "givens", "unique"), [(4, (2, 6), False), (6, (8, 12), True), (9, (24, 28), True)])
def test_guesses_are_those_of_a_search_that_rescans_the_board(
    size: int, givens: tuple[int, int], unique: bool
) -> None:
    """A digit whose last place is gone, or a single that was overlooked, would add guesses."""
    task = SudokuTask(size, num_givens=givens, unique=unique)
    found = task.generate(15, 3)
    counts = [task.difficulty(item) for item in found]
    assert counts == [reference(item["puzzle"], size) for item in found]
    if size != 6:
        assert any(counts)


def test_a_puzzle_known_to_be_hard_takes_guesses_and_has_one_solution() -> None:
    task = SudokuTask(9)
    assert task.count_solutions(INKALA) == 1
    assert task.difficulty({"puzzle": INKALA}) == reference(INKALA, 9) > 20


def test_only_puzzles_within_the_range_of_guesses_are_drawn() -> None:
    hard = SudokuTask(9, num_givens=(24, 28), num_guesses=(4, 20))
    easy = SudokuTask(9, num_givens=(24, 28), num_guesses=0)
    assert all(4 <= reference(item["puzzle"], 9) <= 20 for item in hard.generate(3, 0))
    assert all(reference(item["puzzle"], 9) == 0 for item in easy.generate(3, 0))


def test_the_task_holds_the_defaults_of_its_generator() -> None:
    task = SudokuTask(4, num_givens=3, unique=False)
    assert {item["num_givens"] for item in task.generate(5, 0)} == {3}
    assert task.generate(5, 0) == SudokuTask(4).generate(5, 0, num_givens=3, unique=False)
    assert min(item["num_givens"] for item in task.generate(5, 0, num_givens=(8, 9), unique=True)) >= 8


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`num_givens` must be a range within 0..16, got 17"):
        SudokuTask(4, num_givens=17)
    with pytest.raises(ValueError, match=r"`num_guesses` must be a range of whole numbers from 0, got \(3, 1\)"):
        SudokuTask(4, num_guesses=(3, 1))
    with pytest.raises(ValueError, match="`num_guesses` needs `unique=True`"):
        SudokuTask(4, num_guesses=2, unique=False)
