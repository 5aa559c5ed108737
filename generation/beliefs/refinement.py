"""
Latent refinement (LRD, arXiv 2510.11052): what open positions look like to the next forward, and how much the belief
still moves.

`N` predicted positions of a forward, `V` vocabulary, `D` width, `A` rows, `L` columns.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from hf_latent.generation.beliefs.distribution import Distribution, concatenate, kl_divergence
from hf_latent.generation.beliefs.nucleus import expected_embedding


@dataclass(frozen=True)
class RefinementSettings:
    """
    The knobs of LRD.

    Args:
        top_p: mass of the nucleus that is mixed; 0 mixes nothing.
        ratio: r_f, the share of the prediction in the embedding of a certain position; 0 mixes nothing.
        max_steps: T_refine, forwards that commit nothing at the start of a block.
        refinement_kl: tau_refine in nats, below which the first phase ends.
        stop_kl: tau_decode in nats, below which the rest of a block is committed at once.
    """

    top_p: float
    ratio: float
    max_steps: int
    refinement_kl: float
    stop_kl: float

    @property
    def mixes(self) -> bool:
        """Whether an open position looks like anything but a mask."""
        return self.top_p > 0 and self.ratio > 0

    @property
    def refines(self) -> bool:
        """Whether blocks start with forwards that commit nothing: without mixing those would all be the same."""
        return self.mixes and self.max_steps > 0


class RefinementState:
    """
    The beliefs of a forward as the next one needs them: distributions of the positions that were read, and their mixed
    embeddings. What is made of them is done a few positions at a time.
    """

    def __init__(self, embed: nn.Module, mask_token_id: int, settings: RefinementSettings) -> None:
        self.embed, self.mask_token_id, self.settings = embed, mask_token_id, settings
        self._mask: torch.Tensor | None = None  # (1, D)
        self._slot: torch.Tensor | None = None  # (A, L): index of a position in the following, -1 without
        self._score: torch.Tensor | None = None  # (N, V)
        self._log_normalizer: torch.Tensor | None = None  # (N,)
        self._mixed: torch.Tensor | None = None  # (N, D)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        if self._slot is not None:
            self._slot = self._slot[rows]

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
        if self._mask is None:
            self._mask = self.embed(torch.full((1,), self.mask_token_id, device=indices[0].device)).float()
        slots = None  # (N,): where the belief of each position is remembered; -1 for none
        if self._slot is not None and self._score is not None and len(self._score) > 0:
            slots = self._slot[indices]
        divergences, mixed, start = [], [], 0
        # What is read of a belief is float32, whatever the model's own forward is cast to.
        with torch.autocast(indices[0].device.type, enabled=False):
            for part in now.split():
                positions = slice(start, start := start + len(part))
                divergences.append(self._divergence(part, None if slots is None else slots[positions]))
                if self.settings.mixes:
                    mixed.append(mix_embeddings(part, self.embed, self._mask, self.settings))
        number = torch.arange(len(now), device=indices[0].device)
        if keep is not None:
            number = number.where(keep, -1)
        self._slot = torch.full(shape, -1, dtype=torch.long, device=indices[0].device).index_put_(indices, number)
        self._score, self._log_normalizer = now.score, now.log_normalizer
        self._mixed = concatenate(mixed) if mixed else None
        return concatenate(divergences)

    def _divergence(self, now: Distribution, slots: torch.Tensor | None) -> torch.Tensor:
        if slots is None or self._score is None or self._log_normalizer is None:
            return torch.full((len(now),), float("nan"), device=now.score.device)
        known = slots.clamp(min=0)
        return kl_divergence(now, _pick(self._score, known), self._log_normalizer[known]).masked_fill(
            slots < 0, float("nan")
        )

    @property
    def mixes(self) -> bool:
        """Whether `embeddings` differ from plain ones: not before the first forward."""
        return self._mixed is not None and len(self._mixed) > 0

    def embeddings(
        self, ids: torch.Tensor, masked: torch.Tensor, take: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """
        Input embeddings `(A, L', D)` of columns of a canvas, mixed where it is open and remembered.

        Args:
            ids, masked: `(A, L')`, of the columns that `take` takes of `(A, L)`; of the first ones without.
        """
        plain = self.embed(ids)
        if self._slot is None or self._mixed is None:
            return plain
        if take is not None:
            slot = take(self._slot)
        else:
            slot = self._slot if self._slot.shape == ids.shape else self._slot[:, : ids.shape[1]]
        mixed = self._mixed[slot.clamp(min=0)].to(plain.dtype)
        return torch.where((masked & (slot >= 0))[..., None], mixed, plain)


def mix_embeddings(
    now: Distribution, embed: nn.Module, mask: torch.Tensor, settings: RefinementSettings
) -> torch.Tensor:
    """
    Soft mask embeddings `(N, D)` of a distribution: `(1 - alpha) mask + alpha sum_{v in nucleus} p(v) E[v]`, with the
    `mask`'s embedding `(1, D)`.

    alpha = ratio (1 - H / log V) with the entropy H over the whole vocabulary; p is renormalised on the nucleus, the
    smallest set of tokens with a mass of at least top_p. arXiv 2510.11052, section 3.
    """
    alpha = settings.ratio - now.entropy * (settings.ratio / math.log(now.p.shape[-1]))
    return torch.lerp(mask, expected_embedding(now, embed, settings.top_p), alpha[:, None])


def _pick(values: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """`values[index]` `(N, V)`; on a CPU a view if the indices are a run, as where nothing was written in between."""
    if index.is_cpu and len(index) > 0:
        numbers = index.tolist()
        run = range(numbers[0], numbers[0] + len(numbers))
        if numbers == list(run):
            return values[run.start : run.stop]
    return values[index]


__all__ = ["RefinementSettings", "RefinementState", "mix_embeddings"]
