"""
Where each row of a denoising run is: its block, its step, its forwards.

The host counts. What a forward decides on the device (`StepDecisions`) reaches it with the next step's `plan_step`, in
the one sync that a step needs anyway, so that counting costs no device operation.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from hf_latent.generation.beliefs.score_check import first_invalid_column, raise_invalid_scores
from hf_latent.generation.commit.schedule import steps_of_block
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.settings import DenoisingSettings

# A step past any schedule: a decided block takes no idle steps.
PAST_ALL_STEPS = 2**31 - 1


@dataclass
class RowState:
    """
    A row that is still being written.

    Args:
        num_blocks: its blocks.
        num_steps: its current block's share of `max_denoising_steps`, or `steps_per_block`, less what only refined of
            it; 0 without.
        refining: whether the block is in its first phase.
        block: the block it is at.
        step: steps done in the block; forwards that only refine are none.
        num_masked: masks of the block.
        num_masked_at_start: masks that the block had at its start.
        num_refined: forwards of the block that only refined.
        committed: whether the last forward of the block committed something.
        num_post: forwards of the block in which nothing was open any more.
        edited: whether the last forward replaced a token.
        remasked: whether the last forward made a mask of a token.
    """

    num_blocks: int
    num_steps: int
    refining: bool
    block: int = 0
    step: int = 0
    num_masked: int = 0
    num_masked_at_start: int = 0
    num_refined: int = 0
    committed: bool = False
    num_post: int = 0
    edited: bool = False
    remasked: bool = False

    @property
    def is_last_step(self) -> bool:
        """Whether the coming step is the last of the block's schedule, or later; never without a schedule."""
        return self.is_last_step_after(0)

    def is_last_step_after(self, num_pending: int) -> bool:
        """The same, `num_pending` forwards after those that are recorded."""
        return 0 < self.num_steps <= self.step + num_pending + 1

    @property
    def done(self) -> bool:
        """Whether nothing is left to be written."""
        return self.block >= self.num_blocks

    def record_forward(self, refined: bool, stopped: bool, finished: bool, edited: bool, remasked: bool) -> None:
        """Count a forward of which `StepDecisions` say this."""
        self.num_post += self.num_masked == 0
        self.edited, self.remasked = edited, remasked
        self.num_refined += refined
        if refined and self.num_steps > 1:  # `refine_or_stop` leaves the last to commit
            self.num_steps -= 1
        self.refining = self.refining and refined
        self.step = PAST_ALL_STEPS if stopped else self.step + (not refined)
        if finished:
            self.block = self.num_blocks

    def update_num_masked(self, num_masked: int) -> None:
        """Say how many positions of the block are masked; once between two forwards."""
        if self.step == self.num_refined == 0:
            self.num_masked_at_start = num_masked
        # What takes tokens back has committed others, maybe as many.
        self.committed, self.num_masked = self.remasked or num_masked < self.num_masked, num_masked

    def enter_next_block(self, settings: DenoisingSettings) -> None:
        """Start anew, behind the block that is written."""
        self.block += 1
        self.step = self.num_refined = self.num_masked = self.num_post = 0
        self.refining = settings.refines
        self.num_steps = _share_of_steps(self.block, self.num_blocks, settings)

    def block_is_written(self, settings: DenoisingSettings) -> bool:
        """Whether its block is."""
        if self.done or self.num_masked > 0:
            return False
        if settings.edits:
            # Ends: a forward either has open positions, of which it commits one at least (or only refines, of which
            # there are `refinement_steps` at most), or it is one of `max_post_steps`; no edit opens a position.
            settled = self.num_post > 0 and not self.edited
            return settled or self.num_post >= settings.max_post_steps
        if settings.steps_per_block is not None:
            return True
        # A schedule with more steps than tokens runs all its steps, as the reference does.
        return settings.rule.adaptive or self.step >= self.num_steps


class StepDecisions(NamedTuple):
    """
    What the last forward decided for each row, `(A,)` bool each; None: for no row.

    Args:
        refined: it only refined, nothing was committed.
        stopped: its block was committed as a whole.
        finished: the row ended, or left its reasoning with its answer.
        edited: a token of its block was replaced.
        remasked: a token of its block became a mask.
    """

    refined: torch.Tensor | None = None
    stopped: torch.Tensor | None = None
    finished: torch.Tensor | None = None
    edited: torch.Tensor | None = None
    remasked: torch.Tensor | None = None

    def finish(self, rows: torch.Tensor) -> "StepDecisions":
        """These, and that `rows` `(A,)` have finished."""
        refined = None if self.refined is None else self.refined & ~rows
        finished = rows if self.finished is None else self.finished | rows
        return self._replace(refined=refined, finished=finished)


@dataclass
class ActiveRows:
    """
    The rows that are still being written: `A` of the batch's `B` rows, with `L` columns.

    Args:
        states: what the host knows of them.
        batch_index (`torch.LongTensor` of shape `(A,)`): where they are in the batch.
        in_current_block (`torch.BoolTensor` of shape `(A, L)`): columns of the block each row is at, written or not.
        num_forwards: forwards so far, the same for all.
        num_refinement_passes (`torch.LongTensor` of shape `(A,)`, *optional*):
            those of them that only refined; None while there is none.
        num_committed (`torch.LongTensor` of shape `(A,)`): positions that the last forward committed.
        decisions: of the last forward, not yet recorded in `states`.
        invalid_columns (`torch.LongTensor` of shape `(A,)`, *optional*):
            of the last forward, the first column at which no token could be chosen, `L` without; not yet looked at.
        checked_scores: the positions, their normalizers and whether decoding is greedy: for the message.
    """

    states: list[RowState]
    batch_index: torch.Tensor
    in_current_block: torch.Tensor
    num_committed: torch.Tensor
    num_forwards: int = 0
    num_refinement_passes: torch.Tensor | None = None
    decisions: StepDecisions | None = None
    invalid_columns: torch.Tensor | None = None
    checked_scores: tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, bool] | None = None

    @property
    def noise_step(self) -> torch.Tensor:
        """The clock of the noise, int64 `(A,)`: forwards that did not only refine."""
        refined = (
            torch.zeros_like(self.batch_index) if self.num_refinement_passes is None else self.num_refinement_passes
        )
        return self.num_forwards - refined

    @property
    def blocks(self) -> list[int]:
        """The block each row is at."""
        return [row.block for row in self.states]

    def select(self, numbers: list[int], rows: torch.Tensor) -> None:
        """Keep these rows, given on the host and on the device; their forwards are recorded."""
        self.states = [self.states[i] for i in numbers]
        self.batch_index, self.in_current_block = self.batch_index[rows], self.in_current_block[rows]
        self.num_committed = self.num_committed[rows]
        self.num_refinement_passes = None if self.num_refinement_passes is None else self.num_refinement_passes[rows]

    def advance(self, decisions: StepDecisions) -> None:
        """Count a forward."""
        self.num_forwards += 1
        self.decisions = decisions
        if decisions.refined is not None:
            self.num_refinement_passes = (
                decisions.refined.long()
                if self.num_refinement_passes is None
                else self.num_refinement_passes + decisions.refined
            )

    def check_scores(
        self, indices: tuple[torch.Tensor, torch.Tensor], normalizer: torch.Tensor | None, greedy: bool
    ) -> None:
        """Note at which of the positions `indices` no token could be chosen; `normalizer` `(N,)` is a `Belief`'s."""
        if normalizer is None or normalizer.numel() == 0:
            return
        self.invalid_columns = first_invalid_column(indices, normalizer, *self.in_current_block.shape)
        self.checked_scores = indices, normalizer, greedy

    def raise_invalid(self, columns: list[int]) -> None:
        """Raise `ValueError` for the first of the `invalid_columns` as the host knows them."""
        self.invalid_columns = None
        length = self.in_current_block.shape[1]
        for number, column in enumerate(columns):
            if column < length and self.checked_scores is not None:
                (row_index, column_index), normalizer, greedy = self.checked_scores
                position = ((row_index == number) & (column_index == column)).nonzero()[0]
                raise_invalid_scores(int(self.batch_index[number]), column, float(normalizer[position]), greedy)

    def pending_tensors(self) -> list[torch.Tensor]:
        """What the host has to read, in this order, before `record_decisions`: `(A,)` each."""
        decisions = [] if self.decisions is None else [v for v in self.decisions if v is not None]
        return decisions if self.invalid_columns is None else [self.invalid_columns, *decisions]

    def record_decisions(self, pending: list[list[int]]) -> None:
        """Count the last forward, given the values of `pending_tensors`."""
        values = iter(pending)
        if self.invalid_columns is not None:
            self.raise_invalid(next(values))
        if self.decisions is None:
            return
        flags = [next(values) if v is not None else [0] * len(self.states) for v in self.decisions]
        for row, *decided in zip(self.states, *flags, strict=True):
            row.record_forward(*map(bool, decided))
        self.decisions = None


def initial_rows(canvas: Canvas, settings: DenoisingSettings) -> ActiveRows:
    """Every row of the batch at its first block."""
    states = [
        RowState(count, _share_of_steps(0, count, settings), settings.refines) for count in canvas.num_blocks.tolist()
    ]
    batch_index = torch.arange(len(states), device=canvas.ids.device)
    num_committed = torch.zeros_like(batch_index)
    return ActiveRows(states, batch_index, block_columns(canvas, [0] * len(states)), num_committed)


def block_columns(canvas: Canvas, blocks: list[int]) -> torch.Tensor:
    """Columns `(A, L)`, bool, of one block of each row."""
    return canvas.block_index == torch.tensor(blocks, device=canvas.ids.device)[:, None]


def _share_of_steps(block: int, num_blocks: int, settings: DenoisingSettings) -> int:
    if settings.steps_per_block is not None:
        return settings.steps_per_block
    if settings.max_denoising_steps is None:
        return 0
    return steps_of_block(block, num_blocks, settings.max_denoising_steps)


__all__ = ["ActiveRows", "RowState", "StepDecisions", "block_columns", "initial_rows"]
