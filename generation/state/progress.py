"""What a denoising run writes down of itself: tokens, and when, how surely and in which order they came."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from hf_latent.generation.state.canvas import Canvas

# The statistics of choices are added up for steps with so many positions together.
POSITIONS_AT_ONCE = 2**18


@dataclass
class Progress:
    """
    What the loop has done. `B` rows of the whole batch, `L` canvas length. See `DiffusionGenerateOutput`.

    Args:
        ids, commit_step, commit_entropy, commit_log_prob: `(B, L)`, the last, if asked for, also where the position
            has been taken back since; num_forward_passes, num_refinement_passes, exit_step: `(B,)`.
        masked: `(B, L)` bool, positions still to be written.
        current_block_end: `(B,)` int64, first column behind the block that the row is at.
        block_is_final: `(B,)` bool, whether nothing of that block will change any more; kept for whoever watches.
        num_edits, num_remasked: `(B,)` int64, tokens that were replaced, or became masks again, if any may.
        choices: `(B, 4)` float32: forwards that committed by the rule, those of them that took the left-most mask,
            tokens committed by the rule, sum of their distances to the left-most mask. See `leftmost_statistics`.
        belief_kl, answer_entropy: one `(B,)` float32 a forward; nan for rows without.
        candidate, confidence: `(B, L)`, of the newest forward, if asked for.
    """

    ids: torch.Tensor
    masked: torch.Tensor
    commit_step: torch.Tensor
    commit_entropy: torch.Tensor
    commit_log_prob: torch.Tensor
    num_forward_passes: torch.Tensor
    num_refinement_passes: torch.Tensor
    exit_step: torch.Tensor
    current_block_end: torch.Tensor
    block_is_final: torch.Tensor
    choices: torch.Tensor
    num_edits: torch.Tensor | None = None
    num_remasked: torch.Tensor | None = None
    belief_kl: list[torch.Tensor] = field(default_factory=list)
    answer_entropy: list[torch.Tensor] = field(default_factory=list)
    candidate: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    _chosen: list[tuple[torch.Tensor, ...]] = field(default_factory=list)  # steps that `choices` lacks

    @classmethod
    def of(cls, canvas: Canvas) -> "Progress":
        """Nothing done yet."""
        batch_size, device = canvas.ids.shape[0], canvas.ids.device
        zeros = torch.zeros(batch_size, dtype=torch.long, device=device)
        return cls(
            ids=canvas.ids.clone(),
            masked=canvas.masked.clone(),
            commit_step=torch.full_like(canvas.ids, -1),
            commit_entropy=torch.full(canvas.ids.shape, float("nan"), device=device),
            commit_log_prob=torch.full(canvas.ids.shape, float("nan"), device=device),
            num_forward_passes=zeros,
            num_refinement_passes=zeros.clone(),
            exit_step=zeros - 1,
            current_block_end=zeros.clone(),
            block_is_final=torch.zeros(batch_size, dtype=torch.bool, device=device),
            choices=torch.zeros(batch_size, 4, device=device),
        )

    def set_rows(self, name: str, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Replace field `name` of the batch's `rows` `(A,)`, which stay in their order and only become fewer."""
        whole = getattr(self, name)
        setattr(self, name, values if len(rows) == len(whole) else whole.index_put((rows,), values))

    def get_rows(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """Field `name` of the batch's `rows`."""
        whole = getattr(self, name)
        return whole if len(rows) == len(whole) else whole[rows]

    def count_forwards(
        self, rows: torch.Tensor, num_forwards: int, num_refinement_passes: torch.Tensor | None
    ) -> None:
        """The batch's `rows` have had `num_forwards`; `num_refinement_passes` `(A,)`, if any, only refined."""
        self.set_rows("num_forward_passes", rows, torch.full_like(rows, num_forwards))
        if num_refinement_passes is not None:
            self.set_rows("num_refinement_passes", rows, num_refinement_passes)

    def clear(self, positions: torch.Tensor, fill_token_id: int) -> None:
        """Leave the `positions` `(B, L)`, bool, as if they had never been written."""
        self.ids = self.ids.masked_fill(positions, fill_token_id)
        self.commit_step = self.commit_step.masked_fill(positions, -1)
        self.commit_entropy = self.commit_entropy.masked_fill(positions, float("nan"))

    def forget_commits(self, rows: torch.Tensor, positions: torch.Tensor) -> None:
        """Forget when and how surely `positions` `(A, L)`, bool, of the batch's `rows` were written."""
        for name, nothing in (("commit_step", -1), ("commit_entropy", float("nan"))):
            self.set_rows(name, rows, self.get_rows(name, rows).masked_fill(positions, nothing))

    def count_revised(self, name: str, rows: torch.Tensor, revised: torch.Tensor) -> None:
        """Add tokens `(A, L)`, bool, of the batch's `rows` to `num_edits` or `num_remasked`."""
        if getattr(self, name) is None:
            setattr(self, name, torch.zeros(len(self.ids), dtype=torch.long, device=revised.device))
        self.set_rows(name, rows, self.get_rows(name, rows) + revised.sum(-1))

    def append_trace(self, values: list[torch.Tensor], rows: torch.Tensor, now: torch.Tensor) -> None:
        """Append `now` `(A,)` of the batch's `rows` to one of the traces."""
        if len(rows) < len(self.ids):
            now = torch.full((len(self.ids),), float("nan"), device=now.device).index_copy_(0, rows, now)
        values.append(now)

    def count_choices(self, rows: torch.Tensor, selected: torch.Tensor, chosen: torch.Tensor) -> None:
        """Add what a rule has `chosen` among the `selected` `(A, L)` to the statistics of the batch's `rows`."""
        is_full = len(self._chosen) * selected.numel() >= POSITIONS_AT_ONCE
        if self._chosen and (is_full or self._chosen[-1][0] is not rows):
            self._add_up_choices()
        self._chosen.append((rows, selected, chosen))

    def _add_up_choices(self) -> None:
        """Of several steps at once: a dozen operations are a lot for each."""
        if not self._chosen:
            return
        rows, *_ = self._chosen[-1]
        _, selected, chosen = (torch.stack(tensors) for tensors in zip(*self._chosen, strict=True))
        self._chosen.clear()
        columns = torch.arange(selected.shape[-1], device=selected.device)
        leftmost = torch.where(selected, columns, len(columns)).amin(-1, keepdim=True)
        distance = torch.where(chosen, columns - leftmost, 0).sum(-1)
        takes_leftmost = (chosen & (columns == leftmost)).any(-1)
        counts = torch.stack([chosen.any(-1), takes_leftmost, chosen.sum(-1), distance], -1).sum(0).float()
        self.choices.index_add_(0, rows, counts)

    def leftmost_statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`leftmost_share` and `leftmost_distance` `(B,)`; nan where no rule has chosen."""
        self._add_up_choices()
        forwards, takes_leftmost, tokens, distance = self.choices.unbind(-1)
        return takes_leftmost / forwards, distance / tokens


# Called with the state after every step.
OnStep = Callable[[Progress], None]

__all__ = ["OnStep", "Progress"]
