"""What a step of the denoising loop is about: where its rows are, and what the host must know of them."""

from typing import NamedTuple

import torch

from hf_latent.generation.model_calls.predictor import Predictor
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.rows import Rows, columns_of_blocks
from hf_latent.generation.state.settings import DenoisingSettings


class Survey(NamedTuple):
    """What the coming step is about. Lists have an entry for each of the `A` rows and are known to the host."""

    selected: torch.Tensor  # (A, L) bool: positions of the rows' blocks that may be written
    read: torch.Tensor  # (A, L) bool: those and the open ones of the answer; `selected` itself without an answer
    num_open: list[int]  # open positions of the block
    counts: list[int]  # how many positions are read
    facts: list[list[int]]  # what `Predictor.measure` asks for

    def select(self, numbers: list[int], rows: torch.Tensor) -> "Survey":
        """These rows, given on the host and on the device."""
        num_open, counts, *facts = ([fact[i] for i in numbers] for fact in (self.num_open, self.counts, *self.facts))
        selected = self.selected[rows]
        return Survey(selected, selected if self.read is self.selected else self.read[rows], num_open, counts, facts)


def survey(canvas: Canvas, rows: Rows, predictor: Predictor, settings: DenoisingSettings) -> Survey:
    """
    Book the last forward, move rows whose block is written to their next one, and see what there is to do.

    The one host sync of most steps; where a row enters a block, there is another.
    """
    view = _look(canvas, rows, predictor)
    written = []
    for i, (row, num_open) in enumerate(zip(rows.each, view.num_open, strict=True)):
        row.see(num_open)
        if row.is_written(settings):
            written.append(i)
    if not written:
        return view
    for i in written:
        rows.each[i].enter_next_block(settings)
    rows.here = columns_of_blocks(canvas, rows.blocks)
    view = _look(canvas, rows, predictor)
    for i in written:
        rows.each[i].see(view.num_open[i])
    return view


def _look(canvas: Canvas, rows: Rows, predictor: Predictor) -> Survey:
    in_block = canvas.masked & rows.here
    selected = predictor.narrow(canvas, rows, in_block)
    read = selected | (canvas.masked & canvas.answer) if canvas.has_answer else selected
    numbers = [in_block.sum(-1)]
    if read is not in_block:
        numbers.append(read.sum(-1))
    verdicts = rows.facts()
    numbers += verdicts + predictor.measure(canvas, read)
    told: list[list[int]] = [numbers[0].tolist()] if len(numbers) == 1 else torch.stack(numbers).tolist()
    num_open = told.pop(0)
    counts = num_open if read is in_block else told.pop(0)
    rows.book(told[: len(verdicts)])
    return Survey(selected, read, num_open, counts, told[len(verdicts) :])


def indices_of(selected: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the true elements of `(A, L)` in row-major order; `count`, known, spares a sync."""
    if selected.is_cpu:
        rows, columns = selected.nonzero(as_tuple=True)
        return rows, columns
    return sorted_indices(selected, count)


def sorted_indices(selected: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`indices_of` without asking the device how many there are."""
    flat = (~selected).flatten().to(torch.uint8).argsort(stable=True)[:count]
    return flat // selected.shape[1], flat % selected.shape[1]


__all__ = ["Survey", "indices_of", "survey"]
