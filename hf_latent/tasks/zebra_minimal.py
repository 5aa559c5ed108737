"""The clues of a zebra puzzle that cannot be left out: by sets of assignments or, where those are large, by search."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from hf_latent.tasks.zebra_clues import CLUES, Clue, Houses, ZebraSolver, holds

__all__ = ["ClueReducer"]

# Assignments of which a set is held as the bits of one number: 4 houses with 4 attributes have 331,776.
MOST_ASSIGNMENTS = 1 << 20


class ClueReducer:
    """
    Find the clues of which none can be left out without a second solution.

    Up to `MOST_ASSIGNMENTS`, the assignments that a clue allows are the bits of a number, made once for each clue:
    what several clues allow is their `&`. Beyond, second solutions are searched for, and each that was found answers
    for all clues that it contradicts.

    Args:
        solver: of the puzzle's size.
    """

    def __init__(self, solver: ZebraSolver) -> None:
        self.solver = solver
        self.num_houses, self.num_attributes = solver.num_houses, solver.num_attributes
        self.orders = math.factorial(self.num_houses)
        self.is_small = self.orders**self.num_attributes <= MOST_ASSIGNMENTS
        self._allowed: dict[Clue, int] = {}
        if self.is_small:
            # [value][house] -> orders of one attribute's values, as bits; the first has every value in its house.
            places = list(itertools.permutations(range(self.num_houses)))
            self.everything = (1 << self.orders**self.num_attributes) - 1
            self._at = [[self._spread(a, places, v, h) for v, h in self._cells()] for a in range(self.num_attributes)]

    def minimal(self, clues: Sequence[Clue], houses: Houses) -> list[Clue] | None:
        """
        Clues of which none can be left out, from the front of `clues`; `None` if all leave a second solution.

        Args:
            clues: different ones, all true of `houses`.
            houses: the solution, `[attribute][value] -> house`.
        """
        return self._by_sets(clues, houses) if self.is_small else self._by_search(clues, houses)

    # By sets

    def _by_sets(self, clues: Sequence[Clue], houses: Houses) -> list[Clue] | None:
        # With every value renamed to its house, all puzzles have one solution and share few sets, which stay cached.
        only = 1
        # The shortest front that has one solution, and what is allowed before each of its clues.
        allowed: list[int] = []
        front: list[int] = []
        left = self.everything
        for clue in clues:
            kind, (attribute, value), second = clue
            if not isinstance(second, int):
                second = second[0], houses[second[0]][second[1]]
            renamed = Clue(kind, (attribute, houses[attribute][value]), second)
            mask = self._allowed.get(renamed) or self._allow(renamed)
            allowed.append(mask)
            front.append(left)
            left &= mask
            if left == only:
                break
        else:
            return None
        kept, behind = [], self.everything
        for number in range(len(front) - 1, -1, -1):
            if front[number] & behind != only:
                kept.append(clues[number])
                behind &= allowed[number]
        return kept[::-1]

    def _allow(self, clue: Clue) -> int:
        """Assignments that a clue allows."""
        (attribute, value), second = clue.first, clue.second
        first = self._at[attribute][value * self.num_houses : (value + 1) * self.num_houses]
        if isinstance(second, int):
            found = first[second]
        else:
            others = self._at[second[0]][second[1] * self.num_houses : (second[1] + 1) * self.num_houses]
            found = 0
            for house, bits in enumerate(first):
                agreeing = 0
                for other, its_bits in enumerate(others):
                    if CLUES[clue.kind](house, other):
                        agreeing |= its_bits
                found |= bits & agreeing
        self._allowed[clue] = found
        return found

    def _cells(self) -> itertools.product[tuple[int, ...]]:
        return itertools.product(range(self.num_houses), repeat=2)

    def _spread(self, attribute: int, places: list[tuple[int, ...]], value: int, house: int) -> int:
        """Assignments in which a value has a house. The number of an assignment has a digit for each attribute."""
        run = self.orders**attribute  # of assignments that differ in the attributes before
        bits = sum(((1 << run) - 1) << rank * run for rank, order in enumerate(places) if order[value] == house)
        size, whole = run * self.orders, self.orders**self.num_attributes
        while size < whole:
            bits |= bits << size
            size *= 2
        return bits & ((1 << whole) - 1)

    # By search

    def _by_search(self, clues: Sequence[Clue], houses: Houses) -> list[Clue] | None:
        if self.solver.another(clues, houses) is not None:
            return None
        few, enough = 0, len(clues)
        contradicted: list[int] = []  # the clues, as bits, that each second solution contradicts
        while enough - few > 1:
            middle = (few + enough) // 2
            other = self.solver.another(clues[:middle], houses)
            if other is None:
                enough = middle
                continue
            contradicted.append(self._contradicts(clues, other))
            few = (contradicted[-1] & -contradicted[-1]).bit_length() - 1  # all fronts before the first of them
        kept = (1 << enough) - 1
        for number in range(enough - 2, -1, -1):  # the last one is needed
            bit = 1 << number
            if any(clash & kept == bit for clash in contradicted):
                continue
            others = [clue for i, clue in enumerate(clues) if kept >> i & 1 and i != number]
            other = self.solver.another(others, houses, against=clues[number])
            if other is None:
                kept ^= bit
            else:
                contradicted.append(self._contradicts(clues, other))
        return [clue for i, clue in enumerate(clues) if kept >> i & 1]

    @staticmethod
    def _contradicts(clues: Sequence[Clue], houses: Houses) -> int:
        return sum(1 << i for i, clue in enumerate(clues) if not holds(clue, houses))
