"""Sudoku on 4x4, 6x6 and 9x9 boards: generate, format, verify, and a character tokenizer."""

from __future__ import annotations

import hashlib
import random
import re
from typing import TYPE_CHECKING, Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["SudokuTask", "extract_board", "sudoku_tokenizer"]

BOXES = {4: (2, 2), 6: (2, 3), 9: (3, 3)}  # rows, columns
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

    Args:
        size (`int`): 4 (boxes of 2x2), 6 (boxes of 2 rows x 3 columns) or 9 (boxes of 3x3).

    Changelog: version 1, first release.
    """

    name = "sudoku"
    version = 1

    def __init__(self, size: int = 9) -> None:
        if size not in BOXES:
            raise ValueError(f"`size` must be one of {sorted(BOXES)}, got {size!r}.")
        self.size = size
        height, width = BOXES[size]
        names = [
            (("row", r), ("column", c), ("box", r // height, c // width)) for r in range(size) for c in range(size)
        ]
        self._units = [[i for i, of in enumerate(names) if u in of] for u in sorted({u for of in names for u in of})]
        self._full = (1 << size * size) - 1
        # Cell i as the bit 1 << i -> the cells whose digit it does not forbid.
        self._keep = {
            1 << i: sum(1 << j for j in range(size * size) if j == i or not set(names[i]) & set(names[j]))
            for i in range(size * size)
        }

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
        unique: bool = True,
    ) -> list[dict[str, Any]]:
        """Distinct puzzles, the same on every platform for the same arguments.

        Args:
            num_puzzles (`int`): how many; `ValueError` if no new one turns up in 2000 draws.
            seed (`int`): seeds the generator; has no influence on the split a puzzle belongs to.
            split (`str`): "train" (9 puzzles in 10) or "test".
            num_givens (`tuple[int, int]`, `int` or `None`): inclusive range, by default a moderate one for the size.
                The number is drawn uniformly; a board which is minimal before it is reached keeps its clues if they
                are within the range.
            unique (`bool`): whether each puzzle has exactly one solution. If not, `solution` is one of several.

        Returns:
            `list[dict]`: "puzzle" and "solution" (boards) and "num_givens".
        """
        if split not in ("train", "test"):
            raise ValueError(f'`split` must be "train" or "test", got {split!r}.')
        num_givens = DEFAULT_GIVENS[self.size] if num_givens is None else num_givens
        low, high = (num_givens, num_givens) if isinstance(num_givens, int) else num_givens
        if not 0 <= low <= high <= self.size**2:
            raise ValueError(f"`num_givens` must be a range within 0..{self.size**2}, got {num_givens!r}.")
        rng = random.Random(f"sudoku {self.size} {seed}")  # a string is hashed by SHA-512: platform-independent
        found: dict[str, dict[str, Any]] = {}
        misses = 0
        while len(found) < num_puzzles:
            solution = self._solve([self._full] * self.size, 1, rng=rng)[0]
            givens = self._dig(solution, rng.randint(low, high), unique, rng)
            puzzle, count = self._render(givens), sum(given.bit_count() for given in givens)
            if count <= high and puzzle not in found and self.split_of(puzzle) == split:
                found[puzzle] = {"puzzle": puzzle, "solution": self._render(solution), "num_givens": count}
                misses = 0
            elif (misses := misses + 1) == MAX_MISSES:
                raise ValueError(
                    f"Found only {len(found)} of {num_puzzles} {split} puzzles with `num_givens`={num_givens!r} and "
                    f"`unique`={unique}: ask for fewer puzzles or more givens."
                )
        return list(found.values())

    def split_of(self, puzzle: str) -> str:
        """ "test" for one puzzle in ten, else "train": a hash of the puzzle with its digits renamed by appearance.

        Renaming the digits of a puzzle therefore never moves it to the other side.
        """
        names: dict[str, str] = {".": "."}
        canonical = "".join(names.setdefault(char, str(len(names))) for char in self._cells(puzzle))
        return "test" if int(hashlib.sha256(canonical.encode()).hexdigest(), 16) % 10 == 0 else "train"

    def count_solutions(self, puzzle: str, *, limit: int = 2) -> int:
        """Number of solutions of `puzzle`, counted up to `limit`."""
        cells = self._cells(puzzle)
        digits = [sum(1 << i for i, char in enumerate(cells) if char == str(d + 1)) for d in range(self.size)]
        return len(self._solve(self._candidates(digits), limit))

    def _candidates(self, givens: list[int]) -> list[int]:
        free = self._full & ~sum(givens)
        return [free | given for given in givens]

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
                candidates = self._candidates(givens)
                candidates[digit] ^= bit  # a solution with another digit here is a second one
                if self._solve(candidates, 1):
                    givens[digit] ^= bit
                    continue
            left -= 1
        return givens

    def _solve(self, candidates: list[int], limit: int, *, rng: random.Random | None = None, done: int = 0) -> list:
        """Up to `limit` solutions, each one bit set of cells per digit, like `candidates` (the cells it may take)."""
        candidates = list(candidates)
        while True:
            once = twice = thrice = 0
            for cells in candidates:
                thrice |= twice & cells
                twice |= once & cells
                once |= cells
            if once != self._full:
                return []
            single = once & ~twice & ~done
            if not single:
                break
            done |= single
            for digit, cells in enumerate(candidates):
                placed, kept = cells & single, cells
                while placed:
                    bit = placed & -placed
                    placed ^= bit
                    kept &= self._keep[bit]
                candidates[digit] = kept
        if not twice:
            return [candidates]
        branch = (twice & ~thrice) or twice
        bit = branch & -branch
        digits = [d for d in range(self.size) if candidates[d] & bit]
        if rng is not None:
            rng.shuffle(digits)
        solutions: list[list[int]] = []
        for digit in digits:
            narrowed = [cells if d == digit else cells & ~bit for d, cells in enumerate(candidates)]
            solutions += self._solve(narrowed, limit - len(solutions), rng=rng, done=done)
            if len(solutions) >= limit:
                break
        return solutions

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
        return kept and all({cells[i] for i in unit} == set("123456789"[: self.size]) for unit in self._units)

    def is_solved(self, instance: dict[str, Any], completion: str) -> bool:
        """[`SudokuTask.verify`] for an instance."""
        return self.verify(instance["puzzle"], completion)

    def tokenizer(self) -> PreTrainedTokenizerFast:
        """See [`sudoku_tokenizer`]."""
        return sudoku_tokenizer(self.size)


def extract_board(text: str) -> str:
    """The answer in a decoded completion: what precedes the first `<eos>`, without `<pad>` or blanks at its end."""
    return re.sub(r"(<pad>|\s)+\Z", "", text.partition("<eos>")[0])


def sudoku_tokenizer(size: int = 9) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character and the special tokens `<pad>`, `<eos>` and `<mask>`.

    The 15 tokens are the same for every size, which sets `model_max_length` only; nothing is added to a text and
    decoding restores it exactly. "<eos>" in a text is the one end-of-sequence token.

    Args:
        size (`int`): the largest board whose puzzle and solution fit in `model_max_length`.
    """
    special = ["<pad>", "<eos>", "<mask>"]
    vocabulary = {token: i for i, token in enumerate([*special, "\n", ".", "=", *"123456789"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="<mask>",
        clean_up_tokenization_spaces=False,
        model_max_length=2 * SudokuTask(size).completion_length + 2,
    )
