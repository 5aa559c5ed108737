"""Clues about who lives where: what each says of two houses, and a search for the houses that all clues allow."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["CLUES", "Clue", "CluePools", "Houses", "ZebraSolver", "holds", "house_key"]


class Clue(NamedTuple):
    """
    One clue.

    Args:
        kind (`str`): one of `CLUES`.
        first (`tuple[int, int]`): attribute and value, both from 0.
        second (`tuple[int, int]` or `int`): another of those, or for "@" the house, from 0.
    """

    kind: str
    first: tuple[int, int]
    second: tuple[int, int] | int


# Kind to: what it says of the houses of both, counted from the left. With "@" the second is a house itself.
CLUES: dict[str, Callable[[int, int], bool]] = {
    "=": lambda a, b: a == b,  # in one house
    "!": lambda a, b: a != b,  # not in one house
    "~": lambda a, b: abs(a - b) == 1,  # next to each other
    "<": lambda a, b: a < b,  # somewhere to the left of
    "-": lambda a, b: a + 1 == b,  # immediately to the left of
    "@": lambda a, b: a == b,  # in that house
}
SYMMETRIC = "=!~"
Houses = Sequence[Sequence[int]]  # [attribute][value] -> house


def holds(clue: Clue, houses: Houses) -> bool:
    """Whether a clue is true of an assignment `[attribute][value] -> house`."""
    attribute, value = clue.first
    second = clue.second if isinstance(clue.second, int) else houses[clue.second[0]][clue.second[1]]
    return CLUES[clue.kind](houses[attribute][value], second)


class CluePools:
    """
    All clues that may be drawn, by kind, and which of them are true.

    Args:
        num_houses, num_attributes (`int`): sizes.
        kinds (`str`): of `CLUES`.
    """

    def __init__(self, num_houses: int, num_attributes: int, kinds: str) -> None:
        items = [(a, v) for a in range(num_attributes) for v in range(num_houses)]
        self.num_houses = num_houses
        self.clues: list[Clue] = []
        self._ends: list[int] = []  # of the kinds, among all clues
        first, second, table = [], [], []
        says = [CLUES[kind](a, b) for kind in kinds for a in range(num_houses) for b in range(num_houses)]
        for number, kind in enumerate(kinds):
            for clue, i, j in _possible(kind, items, num_houses):
                self.clues.append(clue)
                first.append(i)
                second.append(j)
                table.append(number * num_houses**2)
            self._ends.append(len(self.clues))
        self._says = np.array(says)
        self._first, self._second, self._table = (np.array(x, dtype=np.int64) for x in (first, second, table))

    def true_of(self, houses: Houses) -> list[list[int]]:
        """For each kind, the numbers of its `clues` that are true of an assignment, in order."""
        at = np.array([*(house for row in houses for house in row), *range(self.num_houses)])
        says = self._says[self._table + at[self._first] * self.num_houses + at[self._second]]
        (true,) = says.nonzero()
        ends = np.searchsorted(true, self._ends).tolist()
        numbers = true.tolist()
        return [numbers[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]


def _possible(kind: str, items: list[tuple[int, int]], num_houses: int) -> Iterator[tuple[Clue, int, int]]:
    """
    Clues of a kind, symmetric ones once, none that is always true, with the numbers of what they compare: values, and
    behind them the houses themselves.
    """
    for i, x in enumerate(items):
        if kind == "@":
            for house in range(num_houses):
                yield Clue(kind, x, house), i, len(items) + house
            continue
        for j, y in enumerate(items):
            if i != j and (i < j or kind not in SYMMETRIC) and (x[0] != y[0] or kind not in "=!"):
                yield Clue(kind, x, y), i, j


def house_key(clues: Sequence[Clue], houses: Houses) -> str:
    """
    The clues with every value replaced by its house, sorted.

    Renaming attributes or values, another order of the clues or of the two sides of a symmetric clue leave it as it
    is; puzzles that differ in more may share it.
    """
    parts = []
    for clue in clues:
        first = houses[clue.first[0]][clue.first[1]]
        if isinstance(clue.second, int):
            parts.append(f"@{first}")
            continue
        second = houses[clue.second[0]][clue.second[1]]
        if clue.kind in SYMMETRIC:
            first, second = sorted((first, second))
        same = "*" if clue.first[0] == clue.second[0] else ""
        parts.append(f"{clue.kind}{first}{second}{same}")
    return ";".join(sorted(parts))


class ZebraSolver:
    """
    Find the assignments that clues allow, by striking houses out and, where nothing follows, by guessing.

    A state is a bit set of houses for each value of each attribute (value `v` of attribute `a` at
    `a * num_houses + v`).

    Args:
        num_houses, num_attributes (`int`): sizes.
    """

    def __init__(self, num_houses: int, num_attributes: int) -> None:
        self.num_houses, self.num_attributes = num_houses, num_attributes
        self.full = (1 << num_houses) - 1
        houses = range(num_houses)

        def table(says: Callable[[int, int], bool]) -> list[int]:
            """For each set of houses of one side: the houses of the other side that agree with one of them."""
            return [
                sum(1 << b for b in houses if any(bits >> a & 1 and says(a, b) for a in houses))
                for bits in range(self.full + 1)
            ]

        # Houses of the second from those of the first, and the other way round.
        def both_ways(says: Callable[[int, int], bool]) -> tuple[list[int], list[int]]:
            return table(says), table(lambda a, b: says(b, a))

        self._tables = {kind: both_ways(says) for kind, says in CLUES.items()}
        self._denials = {kind: both_ways(lambda a, b, says=says: not says(a, b)) for kind, says in CLUES.items()}

    def another(self, clues: Sequence[Clue], houses: Houses, *, against: Clue | None = None) -> Houses | None:
        """
        An assignment that `clues` allow, other than `houses`; `None` if there is none.

        Args:
            against: a clue, true of `houses`, that it is to contradict: what follows from the contradiction is struck
                out, too, which finds it sooner.
        """
        for state, _ in self._search(clues, against):
            if state is not None:
                found = self._houses_of(state)
                if found != houses:
                    return found
        return None

    def _houses_of(self, state: Sequence[int]) -> list[list[int]]:
        houses = [bits.bit_length() - 1 for bits in state]
        return [houses[i : i + self.num_houses] for i in range(0, len(houses), self.num_houses)]

    def solutions(self, clues: Sequence[Clue], limit: int = 2) -> list[list[list[int]]]:
        """Up to `limit` assignments `[attribute][value] -> house`."""
        found = []
        for state, _ in self._search(clues):
            if state is not None:
                found.append(self._houses_of(state))
                if len(found) == limit:
                    break
        return found

    def count_guesses(self, clues: Sequence[Clue]) -> int:
        """
        Houses tried by a search through all solutions; 0 if striking out alone solves the puzzle.

        Struck out is, until nothing changes: what a single clue forbids, the house of a value for all others of its
        attribute, and the other houses of a value that is the only one of its attribute left for a house. Then every
        house of the value with the fewest is tried, the first of these values, and so on. Failed tries count like the
        right one.
        """
        return sum(guesses for _, guesses in self._search(clues))

    def _search(self, clues: Sequence[Clue], against: Clue | None = None) -> Iterator[tuple[list[int] | None, int]]:
        """Each solution with 0, and each branching with the number of its branches and `None`."""
        start = [self.full] * (self.num_houses * self.num_attributes)
        links = []
        for kind, (attribute, value), second in clues:
            first = attribute * self.num_houses + value
            if isinstance(second, int):
                start[first] &= 1 << second
            else:
                links.append((first, second[0] * self.num_houses + second[1], *self._tables[kind]))
        if against is not None:
            first = against.first[0] * self.num_houses + against.first[1]
            if isinstance(against.second, int):
                start[first] &= ~(1 << against.second)
            else:
                second = against.second[0] * self.num_houses + against.second[1]
                links.append((first, second, *self._denials[against.kind]))
        waiting = [start]
        while waiting:
            state = waiting.pop()
            if not self._propagate(state, links):
                continue
            open_sizes = [(bits.bit_count(), i) for i, bits in enumerate(state) if bits & (bits - 1)]
            if not open_sizes:
                yield state, 0
                continue
            num, i = min(open_sizes)
            yield None, num
            options = [1 << house for house in range(self.num_houses) if state[i] >> house & 1]
            waiting += [[*state[:i], option, *state[i + 1 :]] for option in options]

    def _propagate(self, state: list[int], links: list[tuple[int, int, list[int], list[int]]]) -> bool:
        """Strike out in place; whether every value has a house left."""
        before: list[int] = []
        while before != state:
            before = list(state)
            for first, second, forward, backward in links:
                state[second] &= forward[state[first]]
                state[first] &= backward[state[second]]
            for begin in range(0, len(state), self.num_houses):
                if not self._keep_apart(state, begin):
                    return False
        return True

    def _keep_apart(self, state: list[int], begin: int) -> bool:
        """Strike out within the attribute whose values begin there; whether its houses can all be taken."""
        end = begin + self.num_houses
        once = twice = single = 0
        for bits in state[begin:end]:
            twice |= once & bits
            once |= bits
            if not bits & (bits - 1):
                if not bits or bits & single:
                    return False
                single |= bits
        if once != self.full:
            return False
        only = once & ~twice
        for i in range(begin, end):
            bits = state[i]
            if bits & (bits - 1):
                alone = bits & only
                if alone & (alone - 1):
                    return False  # the only value for two houses
                state[i] = alone or bits & ~single
        return True
