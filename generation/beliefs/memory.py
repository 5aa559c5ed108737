"""
The beliefs of a forward as the next one needs them: how far each position has moved, and for how long it has rested.

`N` predicted positions of a forward, `V` vocabulary, `A` rows, `L` columns.
"""

from collections.abc import Callable

import torch

from hf_latent.generation.beliefs.distribution import Distribution, concatenate, kl_divergence


class BeliefMemory:
    """
    Distributions of the positions that the last forward read.

    Args:
        stability_kl: nats, below which a belief counts as at rest; None counts nothing.
    """

    def __init__(self, stability_kl: float | None = None) -> None:
        self.stability_kl = stability_kl
        self._slot: torch.Tensor | None = None  # (A, L): index of a position in the following, -1 without
        self._score: torch.Tensor | None = None  # (N, V)
        self._log_normalizer: torch.Tensor | None = None  # (N,)
        self._num_stable: torch.Tensor | None = None  # (A, L): forwards in a row at rest

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        self._slot = None if self._slot is None else self._slot[rows]
        self._num_stable = None if self._num_stable is None else self._num_stable[rows]

    def _begin_update(self, device: torch.device) -> None:
        """What a subclass does before beliefs are read."""

    def _end_update(self) -> None:
        """And after."""

    def update(
        self,
        indices: tuple[torch.Tensor, torch.Tensor],
        now: Distribution,
        keep: torch.Tensor | None,
        shape: torch.Size,
    ) -> torch.Tensor:
        """
        KL(now || forward before) in nats at each position, `(N,)`; nan where nothing is remembered of it.

        Args:
            indices: rows and columns `(N,)` of the positions on a canvas of `shape`.
            now: their distributions; scores are kept.
            keep: `(N,)` bool, positions whose beliefs are remembered in place of all that were; None: all.
        """
        slots = None  # (N,): where the belief of each position is remembered; -1 for none
        if self._slot is not None and self._score is not None and len(self._score) > 0:
            slots = self._slot[indices]
        self._begin_update(indices[0].device)
        divergences, start = [], 0
        # What is read of a belief is float32, whatever the model's own forward is cast to.
        with torch.autocast(indices[0].device.type, enabled=False):
            for part in now.split():
                positions = slice(start, start := start + len(part))
                divergences.append(self._read_part(part, None if slots is None else slots[positions]))
        self._end_update()
        number = torch.arange(len(now), device=indices[0].device)
        if keep is not None:
            number = number.where(keep, -1)
        self._slot = torch.full(shape, -1, dtype=torch.long, device=indices[0].device).index_put_(indices, number)
        self._score, self._log_normalizer = now.score, now.log_normalizer
        kl = concatenate(divergences)
        if self.stability_kl is not None:
            self._count_stable(indices, kl, self.stability_kl)
        return kl

    def _read_part(self, now: Distribution, slots: torch.Tensor | None) -> torch.Tensor:
        """What `update` returns of a few positions; what else is made of their beliefs is made while they are here."""
        return self._compare(kl_divergence, now, slots)

    def _compare(
        self,
        divergence: Callable[[Distribution, torch.Tensor, torch.Tensor], torch.Tensor],
        now: Distribution,
        slots: torch.Tensor | None,
    ) -> torch.Tensor:
        """A `divergence` of `kl_divergence`'s kind from what is remembered at `slots`; nan where nothing is."""
        if slots is None or self._score is None or self._log_normalizer is None:
            return torch.full((len(now),), float("nan"), device=now.score.device)
        known = slots.clamp(min=0)
        return divergence(now, _pick(self._score, known), self._log_normalizer[known]).masked_fill(
            slots < 0, float("nan")
        )

    def _count_stable(self, indices: tuple[torch.Tensor, torch.Tensor], kl: torch.Tensor, limit: float) -> None:
        assert self._slot is not None
        before = torch.zeros_like(self._slot) if self._num_stable is None else self._num_stable
        # nan is below no limit: a position that the forward before did not read starts anew.
        count = torch.where(kl < limit, before[indices] + 1, 0)
        self._num_stable = torch.zeros_like(self._slot).index_put_(indices, count)

    def stable_for(self, num_forwards: int) -> torch.Tensor:
        """Positions `(A, L)`, bool, at rest in each of the last `num_forwards`, at least one."""
        assert self._num_stable is not None
        return self._num_stable >= num_forwards


def _pick(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[index]` `(N, V)`; on a CPU a view if the indices are a run, as where nothing was written in between."""
    if index.is_cpu and len(index) > 0:
        numbers = index.tolist()
        run = range(numbers[0], numbers[0] + len(numbers))
        if numbers == list(run):
            return values[run.start : run.stop]
    return values[index]


__all__ = ["BeliefMemory"]
