"""Countdown: reach a number with calculations; generate, format, verify exactly, and a character tokenizer."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from hf_latent.tasks.drawing import draw_splits, inclusive_range, split_of_key
from hf_latent.tasks.symbols import before_eos, symbol_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

__all__ = ["CountdownTask", "countdown_tokenizer"]

MAX_MISSES = 50_000  # a narrow range of targets is seldom met
_STEP = re.compile(r"(0|[1-9]\d*)([-+*/])(0|[1-9]\d*)=(0|[1-9]\d*)")


class CountdownTask:
    """Use every number once, in calculations that end at the target.

    One instance of `CountdownTask(4)`, formatted (every character is one token), as in the evaluation data of
    arXiv 2410.14157:

    ```
    prompt      "39,22,92,10,89\\n"
    completion  "39+92=131,22*10=220,220-131=89<eos>...<eos>"
    ```

    The last number of the prompt is the target. Each calculation takes two of the numbers that are there and leaves
    its result in their place, so that `num_numbers - 1` calculations leave one number: the target. All numbers are
    whole and none is negative. Any such chain is right, not only the one that the puzzle was made from; there are
    often several. Completions are filled up with `<eos>` to `completion_length`, which chains of generated puzzles
    never exceed. Train and test never share numbers and target, in whatever order.

    Tokens of the default: prompts of 11 to 15, completions of 35 (23, 47 and 59 with 3, 5 and 6 numbers).

    Args:
        num_numbers (`int`): 2..6.
        numbers (`tuple[int, int]`): inclusive range of the numbers, within 1..999.
        targets (`tuple[int, int]`): inclusive range of the target, within 1..999.
        largest (`int`): of all results on the way, at least the largest target. With its digits grow completions.

    Changelog: version 1, first release.
    """

    name = "countdown"
    version = 1

    def __init__(
        self,
        num_numbers: int = 4,
        *,
        numbers: tuple[int, int] = (1, 99),
        targets: tuple[int, int] = (10, 99),
        largest: int = 999,
    ) -> None:
        if num_numbers not in range(2, 7):
            raise ValueError(f"`num_numbers` must be within 2..6, got {num_numbers!r}.")
        self.num_numbers, self.largest = num_numbers, largest
        self.numbers = inclusive_range("numbers", numbers, most=999)
        self.targets = inclusive_range("targets", targets, most=999)
        for name, ends in (("numbers", self.numbers), ("targets", self.targets)):
            if ends[0] < 1:
                raise ValueError(f"`{name}` must be from 1 on, got {ends!r}.")
        if not self.targets[1] <= largest <= 99_999:
            raise ValueError(
                f"`largest` must be within {self.targets[1]}..99999 (`targets` ends there), got {largest!r}."
            )

    @property
    def completion_length(self) -> int:
        """Tokens of a completion, `<eos>` included: of the longest chain there is room for."""
        digits = len(str(max(self.largest, self.numbers[1])))
        return (self.num_numbers - 1) * (3 * digits + 3) + len(str(self.targets[1])) - digits

    # Generator

    def generate(self, num_puzzles: int, seed: int, *, split: str = "train") -> list[dict[str, Any]]:
        """Distinct puzzles with one of their solutions, the same on every platform for the same arguments.

        Numbers are drawn uniformly, then two of them and an operation that is allowed, and so on; what does not end
        at a target is thrown away. No calculation takes or gives 0, none multiplies or divides by 1.

        Args:
            num_puzzles (`int`): how many; `ValueError` if no new one turns up in 50,000 draws.
            seed (`int`): seeds the generator; has no influence on the split a puzzle belongs to.
            split (`str`): "train" (9 puzzles in 10) or "test".

        Returns:
            `list[dict]`: "puzzle" (`"39,22,92,10,89"`, the target last), "solution" (without `<eos>`).
        """
        return self.generate_splits({split: num_puzzles}, seed)[split]

    def generate_splits(self, nums: Mapping[str, int], seed: int) -> dict[str, list[dict[str, Any]]]:
        """[`CountdownTask.generate`] for each split and number of `nums`, with every puzzle drawn once."""
        rng = random.Random(f"countdown {self.num_numbers} {self.numbers} {self.targets} {self.largest} {seed}")
        options = f"{self.num_numbers} numbers, {self.numbers=}, {self.targets=}, {self.largest=}".replace("self.", "")
        return draw_splits(nums, lambda: self._draw(rng), key_of, what=f"puzzles of {options}", max_misses=MAX_MISSES)

    def _draw(self, rng: random.Random) -> dict[str, Any] | None:
        numbers = [rng.randint(*self.numbers) for _ in range(self.num_numbers)]
        left, steps = list(numbers), []
        while len(left) > 1:
            a, b = (left.pop(rng.randrange(len(left))) for _ in range(2))
            options = [
                (sign, x, y, z)
                for sign, x, y, z in results(a, b)
                if 0 < z <= self.largest and not (sign in "*/" and 1 in (x, y))
            ]
            if not options:
                return None
            sign, x, y, z = rng.choice(options)
            steps.append(f"{x}{sign}{y}={z}")
            left.append(z)
        if not self.targets[0] <= left[0] <= self.targets[1]:
            return None
        return {"puzzle": ",".join(map(str, [*numbers, *left])), "solution": ",".join(steps)}

    def split_of(self, puzzle: str) -> str:
        """ "test" for one puzzle in ten, else "train": a hash of target and sorted numbers."""
        return split_of_key(key_of({"puzzle": puzzle}))

    def difficulty(self, instance: dict[str, Any]) -> int:
        """Multiplications and divisions in the known solution: there may be one with fewer."""
        return sum(char in "*/" for char in instance["solution"])

    # Formatter

    def format(self, instance: dict[str, Any]) -> dict[str, str]:
        """The prompt and the completion of a puzzle, without the last `<eos>`: the trainer adds it."""
        filling = "<eos>" * (self.completion_length - 1 - len(instance["solution"]))
        return {"prompt": instance["puzzle"] + "\n", "completion": instance["solution"] + filling}

    def dataset(self, num_puzzles: int, seed: int, *, split: str = "train") -> Dataset:
        """`generate(...)` as a dataset with the columns of `format` and of the puzzles."""
        from datasets import Dataset

        puzzles = self.generate(num_puzzles, seed, split=split)
        return Dataset.from_list([self.format(puzzle) | puzzle for puzzle in puzzles])

    # Verifier

    def verify(self, puzzle: str, answer: str) -> bool:
        """
        Whether `answer`, read up to `<eos>`, is a chain of right calculations from the numbers to the target.

        Results of any size count, also 0, and 1 as a factor; nothing negative, no fraction, no number twice.
        """
        *numbers, target = (int(number) for number in puzzle.split(","))
        left = Counter(numbers)
        for step in before_eos(answer).split(","):
            match = _STEP.fullmatch(step)
            if match is None or len(step) > 64:
                return False
            a, sign, b, c = int(match[1]), match[2], int(match[3]), int(match[4])
            left.subtract((a, b))
            if min(left[a], left[b]) < 0 or (sign, a, b, c) not in results(a, b):
                return False
            left[c] += 1
        return +left == Counter([target])

    def is_solved(self, instance: dict[str, Any], completion: str) -> bool:
        """[`CountdownTask.verify`] for an instance."""
        return self.verify(instance["puzzle"], completion)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """See [`countdown_tokenizer`]."""
        return countdown_tokenizer()


def results(a: int, b: int) -> Iterator[tuple[str, int, int, int]]:
    """Calculations with both numbers, in either order, as sign, operands and result."""
    for x, y in ((a, b), (b, a)):
        yield "+", x, y, x + y
        yield "*", x, y, x * y
        if x >= y:
            yield "-", x, y, x - y
        if y and x % y == 0:
            yield "/", x, y, x // y


def reachable(numbers: Sequence[int]) -> set[int]:
    """All targets of these numbers, by trying every chain: for tests and for few numbers."""
    if len(numbers) == 1:
        return {numbers[0]}
    found: set[int] = set()
    for i, j in combinations(range(len(numbers)), 2):
        rest = [number for k, number in enumerate(numbers) if k not in (i, j)]
        for *_, result in results(numbers[i], numbers[j]):
            found |= reachable([*rest, result])
    return found


def key_of(puzzle: dict[str, Any]) -> str:
    """What a puzzle is, whatever the order of its numbers."""
    *numbers, target = (int(number) for number in puzzle["puzzle"].split(","))
    return f"{sorted(numbers)} {target}"


def countdown_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character: digits, signs, comma and newline, 20 with the special tokens."""
    return symbol_tokenizer("\n,+-*/=0123456789", model_max_length=256)
