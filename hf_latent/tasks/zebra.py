"""Zebra (Einstein) puzzles: houses in a row, attributes, clues with one solution; a character tokenizer."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_latent.tasks.drawing import draw_from, draw_splits, inclusive_range
from hf_latent.tasks.symbols import before_eos, symbol_tokenizer
from hf_latent.tasks.zebra_clues import CLUES, Clue, CluePools, ZebraSolver, holds, house_key
from hf_latent.tasks.zebra_minimal import ClueReducer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

__all__ = ["ZebraTask", "zebra_tokenizer"]

LETTERS, DIGITS = "ABCDEF", "123456"
MAX_CLUES = 64  # drawn before those that say nothing new are dropped
_CLUE = re.compile(r"@([A-F])([1-6])([1-6])|([=!~<-])([A-F])([1-6])([A-F])([1-6])")


class ZebraTask:
    """Say which value of each attribute belongs to which house, from clues that leave one possibility.

    One instance of `ZebraTask(3, 2)`, formatted (every character is one token):

    ```
    prompt      "3B;=A2B1;@B23;@A32\\n"
    completion  "231\\n132"
    ```

    Houses are numbered 1, 2, ... from the left. Attributes are letters, their values digits: `A3` is the third value
    of attribute A (say, the Norwegian). The prompt begins with the number of houses and the last attribute, then
    come the clues; `x` and `y` being values of any attributes:

    ```
    =xy  in one house                 ~xy  next door               <xy  somewhere to the left of
    !xy  not in one house             -xy  the next house to the left of         @x2  in house 2
    ```

    The completion has a row for each attribute: its values from the first house to the last. It has
    `num_attributes * (num_houses + 1)` tokens with `<eos>`. No clue can be left out: without it there is a second
    solution. Train and test never share a puzzle, also after renaming values and attributes
    ([`~hf_latent.tasks.zebra_clues.house_key`]).

    Tokens of the default (4 houses, 4 attributes): prompts of 49 to 81 (in 200 puzzles), completions of 20. Of 3x3: 25
    to 45 and 12; of 5x5: 89 to 113 and 30.

    Args:
        num_houses (`int`): 2..6.
        num_attributes (`int`): 2..6.
        clues (`str`): the kinds of clues that are used, some of `=!~<-@`. Each kind is drawn equally often; which ones
            are left at the end depends on how much they say.
        num_guesses (`tuple[int, int]`, `int` or `None`): inclusive range of [`ZebraTask.difficulty`] of generated
            puzzles; any if `None`. Others are drawn and thrown away.

    Changelog: version 1, first release.
    """

    name = "zebra"
    version = 1

    def __init__(
        self,
        num_houses: int = 4,
        num_attributes: int = 4,
        *,
        clues: str = "".join(CLUES),
        num_guesses: tuple[int, int] | int | None = None,
    ) -> None:
        for name, value in (("num_houses", num_houses), ("num_attributes", num_attributes)):
            if value not in range(2, 7):
                raise ValueError(f"`{name}` must be within 2..6, got {value!r}.")
        if not clues or set(clues) - set(CLUES) or len(set(clues)) != len(clues):
            raise ValueError(f"`clues` must be some of the characters {''.join(CLUES)!r}, got {clues!r}.")
        self.num_houses, self.num_attributes, self.clues = num_houses, num_attributes, clues
        self.num_guesses = None if num_guesses is None else inclusive_range("num_guesses", num_guesses)
        self._solver = ZebraSolver(num_houses, num_attributes)
        self._reducer = ClueReducer(self._solver)
        self._pools = CluePools(num_houses, num_attributes, clues)
        self._known: dict[str, Clue] = {}  # clues by their text

    @property
    def completion_length(self) -> int:
        """Tokens of a completion: the values, the newlines between rows, and the end-of-sequence token."""
        return self.num_attributes * (self.num_houses + 1)

    # Generator

    def generate(self, num_puzzles: int, seed: int, *, split: str = "train") -> list[dict[str, Any]]:
        """Distinct puzzles with one solution each, the same on every platform for the same arguments.

        Args:
            num_puzzles (`int`): how many; `ValueError` if no new one turns up in 2000 draws.
            seed (`int`): seeds the generator; has no influence on the split a puzzle belongs to.
            split (`str`): "train" (9 puzzles in 10) or "test".

        Returns:
            `list[dict]`: "puzzle" (clues joined by ";"), "solution" (rows joined by newlines), "num_clues".
        """
        return self.generate_splits({split: num_puzzles}, seed)[split]

    def generate_splits(self, nums: Mapping[str, int], seed: int) -> dict[str, list[dict[str, Any]]]:
        """[`ZebraTask.generate`] for each split and number of `nums`, with every puzzle drawn once."""
        sizes = f"{self.num_houses}x{self.num_attributes} zebra puzzles"
        rng = random.Random(f"zebra {self.num_houses} {self.num_attributes} {self.clues} {seed}")
        found = draw_splits(
            nums,
            lambda: self._draw(rng),
            lambda puzzle: puzzle["key"],
            what=f"{sizes} with `clues`={self.clues!r} and `num_guesses`={self.num_guesses}",
        )
        return {
            split: [{name: value for name, value in puzzle.items() if name != "key"} for puzzle in puzzles]
            for split, puzzles in found.items()
        }

    def _draw(self, rng: random.Random) -> dict[str, Any] | None:
        size = self.num_houses
        houses = [rng.sample(range(size), size) for _ in range(self.num_attributes)]
        pools = [pool for pool in self._pools.true_of(houses) if pool]
        drawn = dict.fromkeys(draw_from(rng, pools, MAX_CLUES))
        clues = self._reducer.minimal([self._pools.clues[number] for number in drawn], houses)
        if clues is None or (self.num_guesses is not None and not self._is_wanted(clues)):
            return None
        rng.shuffle(clues)
        for i, clue in enumerate(clues):
            if clue.kind in "=!~" and not isinstance(clue.second, int) and rng.random() < 0.5:
                clues[i] = Clue(clue.kind, clue.second, clue.first)
        return {
            "puzzle": ";".join(map(render_clue, clues)),
            "solution": render_solution(houses),
            "num_clues": len(clues),
            "key": house_key(clues, houses),
        }

    def _is_wanted(self, clues: Sequence[Clue]) -> bool:
        low, high = self.num_guesses or (0, 0)
        return low <= self._solver.count_guesses(clues) <= high

    def count_solutions(self, puzzle: str, *, limit: int = 2) -> int:
        """Number of solutions of a puzzle, counted up to `limit`."""
        return len(self._solver.solutions(self.parse(puzzle), limit))

    def difficulty(self, instance: dict[str, Any]) -> int:
        """Guesses that solving the puzzle takes: see [`ZebraSolver.count_guesses`]. 0 means that striking out does."""
        return self._solver.count_guesses(self.parse(instance["puzzle"]))

    # Formatter

    def format(self, instance: dict[str, Any]) -> dict[str, str]:
        """The prompt and the completion of a puzzle."""
        header = f"{self.num_houses}{LETTERS[self.num_attributes - 1]}"
        return {"prompt": f"{header};{instance['puzzle']}\n", "completion": instance["solution"]}

    def dataset(self, num_puzzles: int, seed: int, *, split: str = "train") -> Dataset:
        """`generate(...)` as a dataset with the columns of `format` and of the puzzles."""
        from datasets import Dataset

        puzzles = self.generate(num_puzzles, seed, split=split)
        return Dataset.from_list([self.format(puzzle) | puzzle for puzzle in puzzles])

    def parse(self, puzzle: str) -> list[Clue]:
        """
        The clues of a puzzle.

        Raises:
            ValueError: for what is no clue, or one of more houses or attributes than the task's.
        """
        return [self._known.get(text) or self._parse(text) for text in puzzle.split(";")]

    def _parse(self, text: str) -> Clue:
        """One clue; right ones are remembered, there are few."""
        match = _CLUE.fullmatch(text)
        letters, digits = re.findall("[A-F]", text), re.findall("[1-6]", text)
        if (
            match is None
            or any(LETTERS.index(letter) >= self.num_attributes for letter in letters)
            or any(int(digit) > self.num_houses for digit in digits)
        ):
            raise ValueError(
                f"A clue of {self.num_houses} houses and {self.num_attributes} attributes is like =A1B2 or @A12, "
                f"got {text!r}."
            )
        items = [(LETTERS.index(a), int(v) - 1) for a, v in zip(letters, digits, strict=False)]
        clue = Clue(text[0], items[0], int(digits[1]) - 1 if text[0] == "@" else items[1])
        self._known[text] = clue
        return clue

    # Verifier

    def verify(self, puzzle: str, answer: str) -> bool:
        """Whether `answer`, read up to `<eos>`, gives every house a value of each attribute and all clues are true."""
        clues, rows = self.parse(puzzle), before_eos(answer).split("\n")
        values = sorted(DIGITS[: self.num_houses])
        if len(rows) != self.num_attributes or any(sorted(row) != values for row in rows):
            return False
        houses = [[row.index(value) for value in values] for row in rows]
        return all(holds(clue, houses) for clue in clues)

    def is_solved(self, instance: dict[str, Any], completion: str) -> bool:
        """[`ZebraTask.verify`] for an instance."""
        return self.verify(instance["puzzle"], completion)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """See [`zebra_tokenizer`]."""
        return zebra_tokenizer()


def render_clue(clue: Clue) -> str:
    """As it stands in a prompt."""
    second = clue.second + 1 if isinstance(clue.second, int) else render_item(clue.second)
    return f"{clue.kind}{render_item(clue.first)}{second}"


def render_item(item: tuple[int, int]) -> str:
    """`A1` for the first value of the first attribute."""
    return LETTERS[item[0]] + DIGITS[item[1]]


def render_solution(houses: Sequence[Sequence[int]]) -> str:
    """A row for each attribute, its values by house, of an assignment `[attribute][value] -> house`."""
    return "\n".join("".join(DIGITS[row.index(house)] for house in range(len(row))) for row in houses)


def zebra_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character: 23 with the special tokens, the same for every size of puzzle."""
    return symbol_tokenizer(["\n", ";", *CLUES, *LETTERS, *DIGITS], model_max_length=512)
