"""A Sudoku board in the terminal, redrawn while it is denoised."""

import time
from typing import TYPE_CHECKING, Any

from rich.columns import Columns
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

if TYPE_CHECKING:
    import torch
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase


class LiveBoard:
    """
    Streamer for `generate` (`put`, `put_draft`, `end`) that draws the draft of a board.

    Given cells are bold, cells of this step green, cells of earlier steps plain, open cells dots.

    Args:
        live: the terminal's live region.
        tokenizer: of the model.
        puzzle: rows of the puzzle, "." for open cells.
        title: above the draft.
        delay: seconds to wait after every step, so that eyes can follow.
    """

    def __init__(
        self, live: Live, tokenizer: "PreTrainedTokenizerBase", puzzle: list[str], title: str, delay: float
    ) -> None:
        self.live, self.tokenizer, self.puzzle, self.title, self.delay = live, tokenizer, puzzle, title, delay
        self.previous: list[str] = []
        self.written: list[str] = []
        self.num_steps = 0
        self.is_prompt = True

    def put_draft(self, value: "torch.Tensor", **kwargs: Any) -> None:
        """A step's state of what is not final yet."""
        self._show(self.written + self._tokens(value))

    def put(self, value: "torch.Tensor") -> None:
        """Final tokens; the first call brings the prompt, which is not shown."""
        if self.is_prompt:
            self.is_prompt = False
            return
        self.written += self._tokens(value.flatten())
        self._show(self.written)

    def end(self) -> None:
        """Draw the finished board without highlights."""
        self.previous = self.written
        self._draw(self.written)

    def _tokens(self, value: "torch.Tensor") -> list[str]:
        tokens = self.tokenizer.convert_ids_to_tokens(value.flatten().tolist())
        return ["." if token == self.tokenizer.mask_token else token for token in tokens]

    def _show(self, tokens: list[str]) -> None:
        if tokens == self.previous:
            return
        self.num_steps += 1
        self._draw(tokens)
        self.previous = tokens
        time.sleep(self.delay)

    def _draw(self, tokens: list[str]) -> None:
        board = Text()
        size = len(self.puzzle)
        for r in range(size):
            for c in range(size):
                index = r * (size + 1) + c
                token = tokens[index] if index < len(tokens) else "."
                old = self.previous[index] if index < len(self.previous) else "."
                style = "bold" if self.puzzle[r][c] != "." else "bright_green" if token != old else ""
                board.append(token if len(token) == 1 and token.strip() else ".", style=style)
                board.append(" " if c < size - 1 else "\n" if r < size - 1 else "")
        panels = [puzzle_panel(self.puzzle)]
        panels.append(Panel(board, title=f"{self.title}, forward {self.num_steps}", expand=False))
        self.live.update(Columns(panels), refresh=True)


def puzzle_panel(puzzle: list[str]) -> Panel:
    """The rows of a puzzle in a frame."""
    return Panel(Text("\n".join(" ".join(row) for row in puzzle), style="bold"), title="puzzle", expand=False)


def draw_puzzle(console: "Console", puzzle: list[str]) -> None:
    """Draw the rows of a puzzle."""
    console.print(puzzle_panel(puzzle))


__all__ = ["LiveBoard", "draw_puzzle", "puzzle_panel"]
