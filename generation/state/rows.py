"""
Where each row of a denoising run is: its block, its step, its forwards.

The host keeps the books. What a forward decides on the device (`Verdicts`) reaches it with the next step's `survey`,
in the one sync that a step needs anyway, so that counting costs no device operation.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from hf_latent.generation.beliefs.score_check import first_fault, refuse_fault
from hf_latent.generation.commit.schedule import steps_of_block
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.settings import DenoisingSettings

# A step past any schedule: a decided block takes no idle steps.
PAST_ALL_STEPS = 2**31 - 1


@dataclass
class Row:
    """
    A row that is still being written.

    Args:
        num_blocks: its blocks.
        num_steps: its current block's share of `max_denoising_steps`, less what only refined of it; 0 without.
        refining: whether the block is in its first phase.
        block: the block it is at.
        step: steps done in the block; forwards that only refine are none.
        num_open: masks of the block.
        num_at_start: masks that the block had at its start.
        refined: forwards of the block that only refined.
        moved: whether the last forward of the block committed something.
    """

    num_blocks: int
    num_steps: int
    refining: bool
    block: int = 0
    step: int = 0
    num_open: int = 0
    num_at_start: int = 0
    refined: int = 0
    moved: bool = False

    @property
    def at_last_step(self) -> bool:
        """Whether the coming step is the last of the block's schedule, or later; never without a schedule."""
        return self.ends_with(0)

    def ends_with(self, num_unbooked: int) -> bool:
        """The same, `num_unbooked` forwards after those that are booked."""
        return 0 < self.num_steps <= self.step + num_unbooked + 1

    @property
    def done(self) -> bool:
        """Whether nothing is left to be written."""
        return self.block >= self.num_blocks

    def count(self, held: bool, stopped: bool, left: bool) -> None:
        """Book a forward, as `Verdicts` say."""
        self.refined += held
        if held and self.num_steps > 1:  # `hold_or_stop` leaves the last to commit
            self.num_steps -= 1
        self.refining = self.refining and held
        self.step = PAST_ALL_STEPS if stopped else self.step + (not held)
        if left:
            self.block = self.num_blocks

    def see(self, num_open: int) -> None:
        """Take notice of how many positions of the block are open; once between two forwards."""
        if self.step == self.refined == 0:
            self.num_at_start = num_open
        self.moved, self.num_open = num_open < self.num_open, num_open

    def enter_next_block(self, settings: DenoisingSettings) -> None:
        """Start anew, behind the block that is written."""
        self.block += 1
        self.step = self.refined = self.num_open = 0
        self.refining = settings.refines
        self.num_steps = _share_of_steps(self.block, self.num_blocks, settings)

    def is_written(self, settings: DenoisingSettings) -> bool:
        """Whether its block is."""
        if self.done or self.num_open > 0:
            return False
        # A schedule with more steps than tokens runs all its steps, as the reference does.
        return settings.rule.adaptive or self.step >= self.num_steps


class Verdicts(NamedTuple):
    """
    What the last forward decided for each row, `(A,)` bool each; None: for no row.

    Args:
        held: it only refined, nothing was committed.
        stopped: its block was committed as a whole.
        left: the row ended, or left its reasoning with its answer.
    """

    held: torch.Tensor | None = None
    stopped: torch.Tensor | None = None
    left: torch.Tensor | None = None

    def leave(self, rows: torch.Tensor) -> "Verdicts":
        """These, and that `rows` `(A,)` leave."""
        held = None if self.held is None else self.held & ~rows
        return Verdicts(held, self.stopped, rows if self.left is None else self.left | rows)


@dataclass
class Rows:
    """
    The rows that are still being written: `A` of the batch's `B` rows, with `L` columns.

    Args:
        each: what the host knows of them.
        index (`torch.LongTensor` of shape `(A,)`): where they are in the batch.
        here (`torch.BoolTensor` of shape `(A, L)`): columns of the block each row is at, written or not.
        num_forwards: forwards so far, the same for all.
        num_held (`torch.LongTensor` of shape `(A,)`, *optional*):
            those of them that only refined; None while there is none.
        verdicts: not yet booked.
        faults (`torch.LongTensor` of shape `(A,)`, *optional*):
            of the last forward, the first column at which no token could be chosen, `L` without; not yet looked at.
        total: what it read these from, and where: for the message.
    """

    each: list[Row]
    index: torch.Tensor
    here: torch.Tensor
    num_forwards: int = 0
    num_held: torch.Tensor | None = None
    verdicts: Verdicts | None = None
    faults: torch.Tensor | None = None
    total: tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor, bool] | None = None

    @property
    def drawn(self) -> torch.Tensor:
        """The clock of the noise, int64 `(A,)`: forwards that did not only refine."""
        held = torch.zeros_like(self.index) if self.num_held is None else self.num_held
        return self.num_forwards - held

    @property
    def blocks(self) -> list[int]:
        """The block each row is at."""
        return [row.block for row in self.each]

    def select(self, numbers: list[int], rows: torch.Tensor) -> None:
        """Keep these rows, given on the host and on the device; their forwards are booked."""
        self.each = [self.each[i] for i in numbers]
        self.index, self.here = self.index[rows], self.here[rows]
        self.num_held = None if self.num_held is None else self.num_held[rows]

    def advance(self, verdicts: Verdicts) -> None:
        """Count a forward."""
        self.num_forwards += 1
        self.verdicts = verdicts
        if verdicts.held is not None:
            self.num_held = verdicts.held.long() if self.num_held is None else self.num_held + verdicts.held

    def watch(self, at: tuple[torch.Tensor, torch.Tensor], total: torch.Tensor | None, greedy: bool) -> None:
        """Note at which of the positions `at` no token could be chosen; `total` `(N,)` is a `Belief`'s."""
        if total is None or total.numel() == 0:
            return
        self.faults = first_fault(at, total, *self.here.shape)
        self.total = at, total, greedy

    def check(self, columns: list[int]) -> None:
        """Raise `ValueError` for the first of the `faults` as the host knows them."""
        self.faults = None
        length = self.here.shape[1]
        for number, column in enumerate(columns):
            if column < length and self.total is not None:
                (at_row, at_column), total, greedy = self.total
                place = ((at_row == number) & (at_column == column)).nonzero()[0]
                refuse_fault(int(self.index[number]), column, float(total[place]), greedy)

    def facts(self) -> list[torch.Tensor]:
        """What the host has to be told before it can book the last forward."""
        verdicts = [] if self.verdicts is None else [v for v in self.verdicts if v is not None]
        return verdicts if self.faults is None else [self.faults, *verdicts]

    def book(self, facts: list[list[int]]) -> None:
        """Book the last forward, with `facts` as the host knows them."""
        told = iter(facts)
        if self.faults is not None:
            self.check(next(told))
        if self.verdicts is None:
            return
        values = [next(told) if v is not None else [0] * len(self.each) for v in self.verdicts]
        for row, held, stopped, left in zip(self.each, *values, strict=True):
            row.count(bool(held), bool(stopped), bool(left))
        self.verdicts = None


def first_rows(canvas: Canvas, settings: DenoisingSettings) -> Rows:
    """Every row of the batch at its first block."""
    each = [Row(count, _share_of_steps(0, count, settings), settings.refines) for count in canvas.num_blocks.tolist()]
    index = torch.arange(len(each), device=canvas.ids.device)
    return Rows(each, index, columns_of_blocks(canvas, [0] * len(each)))


def columns_of_blocks(canvas: Canvas, blocks: list[int]) -> torch.Tensor:
    """Columns `(A, L)`, bool, of one block of each row."""
    return canvas.block_index == torch.tensor(blocks, device=canvas.ids.device)[:, None]


def _share_of_steps(block: int, num_blocks: int, settings: DenoisingSettings) -> int:
    if settings.max_denoising_steps is None:
        return 0
    return steps_of_block(block, num_blocks, settings.max_denoising_steps)


__all__ = ["Row", "Rows", "Verdicts", "columns_of_blocks", "first_rows"]
