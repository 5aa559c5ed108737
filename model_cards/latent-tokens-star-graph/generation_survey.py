# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""What a step of the denoising loop is about: where its rows are, and what the host must know of them."""

from dataclasses import dataclass
from typing import Any

import torch

from .generation_canvas import Canvas
from .generation_predictor import Predictor
from .generation_rows import Rows, find_finished, in_current_block
from .generation_settings import DenoisingSettings


@dataclass(frozen=True)
class Survey:
    """What the coming step is about. Lists have an entry for each of the `A` rows and are known to the host."""

    in_block: torch.Tensor  # (A, L) bool: open positions of the block each row is at
    selected: torch.Tensor  # (A, L) bool: those that may be written
    read: torch.Tensor  # (A, L) bool: those and the open ones of the answer
    is_finished: torch.Tensor  # (A,) bool
    finished: list[int]  # whether the row's block is written
    done: list[int]  # whether the row is
    blocks: list[int]
    counts: list[int]  # how many positions are read
    facts: list[list[int]]  # what `Predictor.measure` asks for

    def select(self, rows: torch.Tensor, numbers: list[int]) -> "Survey":
        """These rows, given on the device and on the host."""

        def pick(value: Any) -> Any:
            return value[rows] if isinstance(value, torch.Tensor) else [value[i] for i in numbers]

        values = {name: pick(value) for name, value in vars(self).items() if name != "facts"}
        return Survey(**values, facts=[pick(fact) for fact in self.facts])


def survey(canvas: Canvas, rows: Rows, predictor: Predictor, settings: DenoisingSettings) -> Survey:
    """Look at all rows. The one host sync of most steps; where a row enters a block, it is looked at once more."""
    in_block = in_current_block(canvas, rows)
    selected = predictor.narrow(canvas, rows, in_block)
    read = selected | (canvas.masked & canvas.answer) if canvas.has_answer else selected
    is_finished = find_finished(in_block, rows, settings)
    flags = [is_finished.long(), (rows.block >= canvas.num_blocks).long()]
    numbers = [rows.block, read.sum(-1), *predictor.measure(canvas, read)]
    finished, done, blocks, counts, *facts = torch.stack([*flags, *numbers]).tolist()
    return Survey(in_block, selected, read, is_finished, finished, done, blocks, counts, facts)


def indices_of(selected: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the true elements of `(A, L)` in row-major order; `count`, known, spares a sync."""
    if selected.device.type == "cpu":
        rows, columns = selected.nonzero(as_tuple=True)
        return rows, columns
    return sorted_indices(selected, count)


def sorted_indices(selected: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`indices_of` without asking the device how many there are."""
    flat = (~selected).flatten().to(torch.uint8).argsort(stable=True)[:count]
    return flat // selected.shape[1], flat % selected.shape[1]


__all__ = ["Survey", "indices_of", "survey"]
