"""Boards as bit sets: count solutions, draw full boards, and say how many guesses a puzzle takes."""

from __future__ import annotations

import random

__all__ = ["BOXES", "SudokuSolver"]

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # rows, columns


class SudokuSolver:
    """
    Solve boards by singles and, where there is none, by guessing.

    A board is a list of bit sets, one for each digit: cell `i` (row by row) is the bit `1 << i`, set where the digit
    may still stand. A full board has every cell in one of them.

    Args:
        size (`int`): 4, 6 or 9, the sides of `BOXES`.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        height, width = BOXES[size]
        names = [
            (("row", r), ("column", c), ("box", r // height, c // width)) for r in range(size) for c in range(size)
        ]
        self.units = [[i for i, of in enumerate(names) if u in of] for u in sorted({u for of in names for u in of})]
        self.full = (1 << size * size) - 1
        self._unit_bits = [sum(1 << i for i in unit) for unit in self.units]
        # Cell i as the bit 1 << i -> the cells whose digit it does not forbid.
        self._keep = {
            1 << i: sum(1 << j for j in range(size * size) if j == i or not set(names[i]) & set(names[j]))
            for i in range(size * size)
        }

    def candidates(self, givens: list[int]) -> list[int]:
        """Where each digit may stand, of a board that holds `givens` alone: nothing is concluded yet."""
        free = self.full & ~sum(givens)
        return [free | given for given in givens]

    def draw_board(self, rng: random.Random) -> list[int]:
        """A full board. Not all boards are equally likely, but all are possible."""
        return self._search([self.full] * self.size, 1, rng=rng)[0]

    def solutions(self, candidates: list[int], limit: int) -> list[list[int]]:
        """Up to `limit` solutions."""
        return self._search(candidates, limit)

    def count_guesses(self, candidates: list[int]) -> int:
        """
        Digits tried by a search through all solutions; 0 if singles alone solve the board.

        The search writes naked singles (a cell that may take one digit) and hidden singles (a digit with one place in
        a row, column or box) until there is none, then tries every digit of the first cell with two candidates (with
        more, where none has two), and so on with each. Failed tries count like the right one: the number says how
        much there is to look ahead, not how lucky the order was.
        """
        tries = 0
        waiting = [(candidates, 0)]
        while waiting:
            state, done = waiting.pop()
            board, done, few = self._propagate(state, done, hidden=True)
            if not few:
                continue
            options = self._narrowed(board, few & -few)
            tries += len(options)
            waiting += [(option, done) for option in options]
        return tries

    def _search(
        self, candidates: list[int], limit: int, *, rng: random.Random | None = None, done: int = 0
    ) -> list[list[int]]:
        # Hidden singles would change which boards a seed draws, and cost more than they save there.
        board, done, few = self._propagate(candidates, done, hidden=rng is None)
        if not board:
            return []
        if not few:
            return [board]
        options = self._narrowed(board, few & -few)
        if rng is not None:
            rng.shuffle(options)
        solutions: list[list[int]] = []
        for option in options:
            solutions += self._search(option, limit - len(solutions), rng=rng, done=done)
            if len(solutions) >= limit:
                break
        return solutions

    def _propagate(self, candidates: list[int], done: int, *, hidden: bool) -> tuple[list[int], int, int]:
        """
        Write singles until there is none.

        Returns:
            The board (empty if it contradicts itself), the cells whose digit is written and struck out elsewhere, and
            the open cells with two candidates, or all open cells if none has two.
        """
        board = list(candidates)
        while True:
            once = twice = thrice = 0
            for cells in board:
                thrice |= twice & cells
                twice |= once & cells
                once |= cells
            if once != self.full:
                return [], done, 0
            single = once & ~twice & ~done
            if not single:
                if not twice:
                    return board, done, 0
                if hidden and self._keep_hidden(board, twice):
                    continue
                return board, done, (twice & ~thrice) or twice
            done |= single
            for digit, cells in enumerate(board):
                placed, kept = cells & single, cells
                while placed:
                    bit = placed & -placed
                    placed ^= bit
                    kept &= self._keep[bit]
                board[digit] = kept

    def _keep_hidden(self, board: list[int], unsure: int) -> bool:
        """Strike every other digit out of the cells where a digit has its one place; whether there was any."""
        places = [0] * self.size
        for digit, cells in enumerate(board):
            if not cells & unsure and cells.bit_count() == self.size:
                continue
            for unit in self._unit_bits:
                here = cells & unit
                if not here:
                    board[:] = [0] * self.size  # the digit has no place: a contradiction
                    return True
                if not here & (here - 1):
                    places[digit] |= here & unsure
        found = 0
        for digit, bits in enumerate(places):
            if bits:
                found |= bits
                for other in range(self.size):
                    if other != digit:
                        board[other] &= ~bits
        return found != 0

    def _narrowed(self, board: list[int], bit: int) -> list[list[int]]:
        """The boards in which the cell `bit` takes one of its digits."""
        digits = [d for d in range(self.size) if board[d] & bit]
        return [[cells if d == digit else cells & ~bit for d, cells in enumerate(board)] for digit in digits]
