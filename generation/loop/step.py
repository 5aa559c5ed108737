"""The plan of a step: at which block its rows are, what is predicted, and what the host must know of it."""

from typing import NamedTuple

import torch

from hf_latent.generation.model_calls.predictor import Predictor
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.rows import ActiveRows, block_columns
from hf_latent.generation.state.settings import DenoisingSettings


class StepPlan(NamedTuple):
    """The positions of the coming step. Lists have an entry for each of the `A` rows and are known to the host."""

    selected: torch.Tensor  # (A, L) bool: positions of the rows' blocks that may be written
    to_predict: torch.Tensor  # (A, L) bool: those, what is editable, and what is open of the answer; may be `selected`
    editable: torch.Tensor | None  # (A, L) bool: written positions of the rows' blocks that may be revised, if any may
    verified: torch.Tensor | None  # (A, L) bool: written positions of the rows' blocks that are verified, if any are
    num_masked: list[int]  # open positions of the block
    num_to_predict: list[int]  # how many positions are predicted
    num_verified: list[int]  # how many are verified of each row; empty if none ever is
    host_values: list[list[int]]  # those of `Predictor.host_values`, if it gives any

    def in_block(self, indices: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor | None:
        """Which of the predicted positions `indices` `(N,)` are `selected`; None: all."""
        return None if self.selected is self.to_predict else self.selected[indices]

    def select(self, numbers: list[int], rows: torch.Tensor) -> "StepPlan":
        """These rows, given on the host and on the device."""
        num_masked, num_to_predict, num_verified, *host_values = (
            [values[i] for i in numbers] if values else []
            for values in (self.num_masked, self.num_to_predict, self.num_verified, *self.host_values)
        )
        selected = self.selected[rows]
        return StepPlan(
            selected,
            selected if self.to_predict is self.selected else self.to_predict[rows],
            None if self.editable is None else self.editable[rows],
            None if self.verified is None else self.verified[rows],
            num_masked,
            num_to_predict,
            num_verified,
            host_values,
        )


def plan_step(canvas: Canvas, rows: ActiveRows, predictor: Predictor, settings: DenoisingSettings) -> StepPlan:
    """
    Count the last forward, move rows whose block is written to their next one, and find what there is to predict.

    The one host sync of most steps; where a row enters a block, there is another.
    """
    plan = _find_positions(canvas, rows, predictor, settings)
    written = []
    for i, (row, num_masked) in enumerate(zip(rows.states, plan.num_masked, strict=True)):
        row.update_num_masked(num_masked)
        if row.block_is_written(settings):
            written.append(i)
    if not written:
        return plan
    for i in written:
        rows.states[i].enter_next_block(settings)
    rows.in_current_block = block_columns(canvas, rows.blocks)
    plan = _find_positions(canvas, rows, predictor, settings)
    for i in written:
        rows.states[i].update_num_masked(plan.num_masked[i])
    return plan


def _find_positions(canvas: Canvas, rows: ActiveRows, predictor: Predictor, settings: DenoisingSettings) -> StepPlan:
    in_block = canvas.masked & rows.in_current_block
    selected = predictor.select_candidates(canvas, rows, in_block)
    to_predict = selected | (canvas.masked & canvas.answer) if canvas.has_answer else selected
    editable = verified = None
    if settings.edits:
        editable = predictor.select_editable(canvas, rows, rows.in_current_block & ~canvas.masked)
        to_predict = to_predict | editable
    numbers = [in_block.sum(-1)]
    if settings.verifies:
        # Fewer are taken back than the forward before has committed: where that was one, none.
        verified = rows.in_current_block & ~canvas.masked & (rows.num_committed > 1)[:, None]
        numbers.append(verified.sum(-1))
    if to_predict is not in_block:
        numbers.append(to_predict.sum(-1))
    pending = rows.pending_tensors()
    numbers += pending + predictor.host_values(canvas, to_predict)
    on_host: list[list[int]] = [numbers[0].tolist()] if len(numbers) == 1 else torch.stack(numbers).tolist()
    num_masked = on_host.pop(0)
    num_verified = [] if verified is None else on_host.pop(0)
    num_to_predict = num_masked if to_predict is in_block else on_host.pop(0)
    rows.record_decisions(on_host[: len(pending)])
    host_values = on_host[len(pending) :]
    return StepPlan(selected, to_predict, editable, verified, num_masked, num_to_predict, num_verified, host_values)


def true_indices(selected: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the true elements of `(A, L)` in row-major order; `count`, known, spares a sync."""
    if selected.is_cpu:
        rows, columns = selected.nonzero(as_tuple=True)
        return rows, columns
    return sorted_true_indices(selected, count)


def sorted_true_indices(selected: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`true_indices` without asking the device how many there are."""
    flat = (~selected).flatten().to(torch.uint8).argsort(stable=True)[:count]
    return flat // selected.shape[1], flat % selected.shape[1]


__all__ = ["StepPlan", "plan_step", "true_indices"]
