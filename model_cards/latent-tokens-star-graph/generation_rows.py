# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""Where each row of a denoising run is: its block, its step, its forwards."""

from dataclasses import dataclass

import torch

from .generation_canvas import Canvas
from .generation_progress import Progress
from .generation_schedule import steps_of_block
from .generation_settings import DenoisingSettings


@dataclass
class Rows:
    """State of the rows that are still being written, `(A,)` each: `A` of the batch's `B` rows."""

    index: torch.Tensor  # where the row is in the batch
    block: torch.Tensor  # block it is at
    step: torch.Tensor  # steps done in that block; forwards that only refine are none
    num_steps: torch.Tensor  # its share of `max_denoising_steps`; 0 without
    num_at_start: torch.Tensor  # masks the block had at its start
    total_steps: torch.Tensor  # forwards so far
    drawn: torch.Tensor  # those of them that did not only refine: the clock of the noise
    refined: torch.Tensor  # forwards of the block that only refined
    refining: torch.Tensor  # bool: whether the block is in its first phase
    moved: torch.Tensor  # bool: whether the last forward of the block committed something

    def select(self, rows: torch.Tensor) -> "Rows":
        """These of the rows."""
        return Rows(*(value[rows] for value in vars(self).values()))


def first_rows(canvas: Canvas, settings: DenoisingSettings) -> Rows:
    """Every row of the batch at its first block."""
    zeros = torch.zeros(canvas.ids.shape[0], dtype=torch.long, device=canvas.ids.device)
    in_first_block = (canvas.masked & (canvas.block_index == 0)).sum(-1)
    return Rows(
        index=torch.arange(len(zeros), device=zeros.device),
        block=zeros,
        step=zeros.clone(),
        num_steps=_share_of_steps(canvas, zeros, settings),
        num_at_start=in_first_block,
        total_steps=zeros.clone(),
        drawn=zeros.clone(),
        refined=zeros.clone(),
        refining=zeros == (0 if settings.refines else 1),
        moved=zeros > 0,
    )


def in_current_block(canvas: Canvas, rows: Rows) -> torch.Tensor:
    """Positions `(A, L)` that are still open in the block each row is at."""
    return canvas.masked & (canvas.block_index == rows.block[:, None])


def find_finished(in_block: torch.Tensor, rows: Rows, settings: DenoisingSettings) -> torch.Tensor:
    """Rows `(A,)` whose block is written; `in_block` `(A, L)`: what is open in it."""
    finished = ~in_block.any(-1)
    if settings.max_denoising_steps is not None and not settings.rule.adaptive:
        # A schedule with more steps than tokens runs all its steps, as the reference does.
        finished = finished & (rows.step >= rows.num_steps)
    return finished


def enter_next_blocks(canvas: Canvas, rows: Rows, finished: torch.Tensor, settings: DenoisingSettings) -> None:
    """Move the rows `finished` to their next block."""
    rows.block = rows.block + finished
    rows.step = torch.where(finished, 0, rows.step)
    rows.num_steps = _share_of_steps(canvas, rows.block, settings)
    rows.num_at_start = torch.where(finished, in_current_block(canvas, rows).sum(-1), rows.num_at_start)
    rows.refined = torch.where(finished, 0, rows.refined)
    rows.refining = (rows.refining | finished) if settings.refines else rows.refining
    rows.moved = rows.moved & ~finished


def _share_of_steps(canvas: Canvas, block: torch.Tensor, settings: DenoisingSettings) -> torch.Tensor:
    if settings.max_denoising_steps is None:
        return torch.zeros_like(block)
    return steps_of_block(block, canvas.num_blocks, settings.max_denoising_steps)


def advance(
    rows: Rows, commit: torch.Tensor, hold: torch.Tensor | None, stop: torch.Tensor | None, progress: Progress
) -> None:
    """Count the forward."""
    stepped: torch.Tensor | int = 1
    if hold is not None and stop is not None:
        stepped = (~hold).long()
        rows.refined = rows.refined + hold
        rows.refining = rows.refining & hold
        progress.num_refinement_passes.index_add_(0, rows.index, hold.long())
        rows.moved = commit.any(-1)
    rows.step = rows.step + stepped
    if stop is not None:
        # Past any schedule: a decided block takes no idle steps.
        rows.step = torch.where(stop, torch.iinfo(torch.int32).max, rows.step)
    rows.drawn = rows.drawn + stepped
    rows.total_steps = rows.total_steps + 1
    progress.put("num_forward_passes", rows.index, rows.total_steps)


__all__ = ["Rows", "advance", "enter_next_blocks", "find_finished", "first_rows", "in_current_block"]
