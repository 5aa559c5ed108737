"""Sudoku on 4x4, 6x6 and 9x9 boards: generate, format, verify, and a character tokenizer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from hf_latent.tasks.drawing import inclusive_range, progress, split_of_key
from hf_latent.tasks.sudoku_solver import BOXES, SudokuSolver
from hf_latent.tasks.symbols import before_eos, symbol_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast

__all__ = ["SudokuTask", "extract_board", "sudoku_tokenizer"]

DEFAULT_GIVENS = {4: (4, 10), 6: (12, 20), 9: (26, 40)}
MAX_MISSES = 2000


class SudokuTask:
    """Fill a board so that every row, column and box holds each digit once.

    One instance of `SudokuTask(4)`, formatted (every character is one token):

    ```
    prompt      "1..4\\n....\\n2..3\\n.32.\\n=\\n"
    completion  "1234\\n3412\\n2143\\n4321"
    ```

    A board is a string of rows joined by newlines, "." (or "0" on input) being an empty cell. Train and test never
    share a puzzle: the side is a function of the puzzle itself (see [`SudokuTask.split_of`]), whatever the seeds.

    Tokens: prompt and completion (with `<eos>`) have 22 and 20 for size 4, 44 and 42 for 6, 92 and 90 for 9.

    Args:
        size (`int`): 4 (boxes of 2x2), 6 (boxes of 2 rows x 3 columns) or 9 (boxes of 3x3).
        num_givens (`tuple[int, int]`, `int` or `None`): inclusive range of the given cells of generated puzzles; by
            default 4..10, 12..20 and 26..40. A number alone is both ends.
        unique (`bool`): whether generated puzzles have exactly one solution each.
        num_guesses (`tuple[int, int]`, `int` or `None`): inclusive range of [`SudokuTask.difficulty`] of generated
            puzzles; any if `None`. Others are drawn and thrown away.

    Changelog: version 1, first release.
    """

    name = "sudoku"
    version = 1

    def __init__(
        self,
        size: int = 9,
        *,
        num_givens: tuple[int, int] | int | None = None,
        unique: bool = True,
        num_guesses: tuple[int, int] | int | None = None,
    ) -> None:
        if size not in BOXES:
            raise ValueError(f"`size` must be one of {sorted(BOXES)}, got {size!r}.")
        self.size, self.unique = size, unique
        self.num_givens = inclusive_range("num_givens", num_givens, DEFAULT_GIVENS[size], size**2)
        self.num_guesses = None if num_guesses is None else inclusive_range("num_guesses", num_guesses)
        if self.num_guesses is not None and not unique:
            raise ValueError(f"`num_guesses` needs `unique=True`, got {num_guesses!r} and {unique!r}.")
        self._solver = SudokuSolver(size)

    @property
    def completion_length(self) -> int:
        """Tokens of a completion: the cells, the newlines between rows, and the end-of-sequence token."""
        return self.size * (self.size + 1)

    # Generator

    def generate(
        self,
        num_puzzles: int,
        seed: int,
        *,
        split: str = "train",
        num_givens: tuple[int, int] | int | None = None,
        unique: bool | None = None,
    ) -> list[dict[str, Any]]:
        """Distinct puzzles, the same on every platform for the same arguments.

        Args:
            num_puzzles (`int`): how many; `ValueError` if no new one turns up in 2000 draws.
            seed (`int`): seeds the generator; has no influence on the split a puzzle belongs to.
            split (`str`): "train" (9 puzzles in 10) or "test".
            num_givens (`tuple[int, int]`, `int` or `None`): inclusive range, by default the task's. The number is
                drawn uniformly; a board which is minimal before it is reached keeps its clues if they are within the
                range.
            unique (`bool` or `None`): whether each puzzle has exactly one solution, by default as the task says. If
                not, `solution` is one of several.

        Returns:
            `list[dict]`: "puzzle" and "solution" (boards) and "num_givens".
        """
        if split not in ("train", "test"):
            raise ValueError(f'`split` must be "train" or "test", got {split!r}.')
        low, high = self.num_givens
        if num_givens is not None:
            low, high = inclusive_range("num_givens", num_givens, most=self.size**2)
        unique = self.unique if unique is None else unique
        rng = random.Random(f"sudoku {self.size} {seed}")  # a string is hashed by SHA-512: platform-independent
        found: dict[str, dict[str, Any]] = {}
        misses = 0
        with progress(num_puzzles, f"drawing {self.size}x{self.size} sudokus") as advance:
            while len(found) < num_puzzles:
                solution = self._solver.draw_board(rng)
                givens = self._dig(solution, rng.randint(low, high), unique, rng)
                puzzle, count = self._render(givens), sum(given.bit_count() for given in givens)
                is_new = count <= high and puzzle not in found and self.split_of(puzzle) == split
                if is_new and (not unique or self._is_wanted(puzzle)):
                    found[puzzle] = {"puzzle": puzzle, "solution": self._render(solution), "num_givens": count}
                    misses = 0
                    advance(1)
                elif (misses := misses + 1) == MAX_MISSES:
                    raise ValueError(
                        f"Found only {len(found)} of {num_puzzles} {split} puzzles with `num_givens`={num_givens!r} "
                        f"and `unique`={unique}: ask for fewer puzzles or more givens."
                    )
        return list(found.values())

    def split_of(self, puzzle: str) -> str:
        """ "test" for one puzzle in ten, else "train": a hash of the puzzle with its digits renamed by appearance.

        Renaming the digits of a puzzle therefore never moves it to the other side.
        """
        names: dict[str, str] = {".": "."}
        return split_of_key("".join(names.setdefault(char, str(len(names))) for char in self._cells(puzzle)))

    def count_solutions(self, puzzle: str, *, limit: int = 2) -> int:
        """Number of solutions of `puzzle`, counted up to `limit`."""
        return len(self._solver.solutions(self._candidates(puzzle), limit))

    def difficulty(self, instance: dict[str, Any]) -> int:
        """Guesses that solving the puzzle takes: see [`SudokuSolver.count_guesses`]. 0 means that singles suffice."""
        return self._solver.count_guesses(self._candidates(instance["puzzle"]))

    def _is_wanted(self, puzzle: str) -> bool:
        if self.num_guesses is None:
            return True
        return self.num_guesses[0] <= self.difficulty({"puzzle": puzzle}) <= self.num_guesses[1]

    def _candidates(self, puzzle: str) -> list[int]:
        cells = self._cells(puzzle)
        digits = [sum(1 << i for i, char in enumerate(cells) if char == str(d + 1)) for d in range(self.size)]
        return self._solver.candidates(digits)

    def _dig(self, solution: list[int], target: int, unique: bool, rng: random.Random) -> list[int]:
        """Empty cells in random order until `target` givens are left or, if `unique`, no cell can be spared."""
        givens, left = list(solution), self.size**2
        for cell in rng.sample(range(left), left):
            if left <= target:
                break
            bit = 1 << cell
            digit = next(d for d in range(self.size) if givens[d] & bit)
            givens[digit] ^= bit
            if unique:
                candidates = self._solver.candidates(givens)
                candidates[digit] ^= bit  # a solution with another digit here is a second one
                if self._solver.solutions(candidates, 1):
                    givens[digit] ^= bit
                    continue
            left -= 1
        return givens

    # Formatter

    def format(self, instance: dict[str, Any]) -> dict[str, str]:
        """The prompt and the completion of an instance (of any mapping with "puzzle" and "solution")."""
        return {
            "prompt": self._rows(self._cells(instance["puzzle"])) + "\n=\n",
            "completion": self._rows(self._cells(instance["solution"])),
        }

    def dataset(self, num_puzzles: int, seed: int, **kwargs: Any) -> Dataset:
        """`generate(num_puzzles, seed, **kwargs)` as a dataset with the columns of `format` and of the instances."""
        from datasets import Dataset

        instances = self.generate(num_puzzles, seed, **kwargs)
        return Dataset.from_list([self.format(instance) | instance for instance in instances])

    def _cells(self, board: str) -> str:
        rows = board.strip("\n").replace("0", ".").split("\n")
        allowed = "." + "123456789"[: self.size]
        if len(rows) != self.size or any(len(row) != self.size or set(row) - set(allowed) for row in rows):
            raise ValueError(
                f"A board has {self.size} rows of {self.size} characters from {allowed!r}, got {board!r}."
            )
        return "".join(rows)

    def _rows(self, cells: str) -> str:
        return "\n".join(cells[i : i + self.size] for i in range(0, self.size**2, self.size))

    def _render(self, digits: list[int]) -> str:
        cells = ["."] * self.size**2
        for digit, bits in enumerate(digits):
            for i in range(self.size**2):
                if bits >> i & 1:
                    cells[i] = str(digit + 1)
        return self._rows("".join(cells))

    # Verifier

    def verify(self, puzzle: str, answer: str) -> bool:
        """Whether `answer`, read by [`extract_board`], is a completion of `puzzle`: any one if it has several."""
        givens = self._cells(puzzle)
        try:
            cells = self._cells(extract_board(answer))
        except ValueError:
            return False
        kept = all(given in (".", cell) for given, cell in zip(givens, cells, strict=True))
        return kept and all({cells[i] for i in unit} == set("123456789"[: self.size]) for unit in self._solver.units)

    def is_solved(self, instance: dict[str, Any], completion: str) -> bool:
        """[`SudokuTask.verify`] for an instance."""
        return self.verify(instance["puzzle"], completion)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """See [`sudoku_tokenizer`]."""
        return sudoku_tokenizer(self.size)


def extract_board(text: str) -> str:
    """The answer in a decoded completion: what precedes the first `<eos>`, without `<pad>` or blanks at its end."""
    return before_eos(text)


def sudoku_tokenizer(size: int = 9) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character and the special tokens `<pad>`, `<eos>` and `<mask>`.

    The 15 tokens are the same for every size, which sets `model_max_length` only; nothing is added to a text and
    decoding restores it exactly. "<eos>" in a text is the one end-of-sequence token.

    Args:
        size (`int`): the largest board whose puzzle and solution fit in `model_max_length`.
    """
    return symbol_tokenizer("\n.=123456789", model_max_length=2 * SudokuTask(size).completion_length + 2)
