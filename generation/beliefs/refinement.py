"""
Latent refinement (LRD, arXiv 2510.11052): what open positions look like to the next forward; and the rejection of
ReMix (arXiv 2602.22868): where the belief has jumped, like masks.

`N` predicted positions of a forward, `V` vocabulary, `D` width, `A` rows, `L` columns.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from hf_latent.generation.beliefs.distribution import Distribution, concatenate, js_divergence
from hf_latent.generation.beliefs.memory import BeliefMemory
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
        rejection_js: nats, above which a position whose belief has moved is not mixed; None mixes every one.
    """

    top_p: float
    ratio: float
    max_steps: int
    refinement_kl: float
    stop_kl: float
    rejection_js: float | None = None

    @property
    def mixes(self) -> bool:
        """Whether an open position looks like anything but a mask."""
        return self.top_p > 0 and self.ratio > 0

    @property
    def refines(self) -> bool:
        """Whether blocks start with forwards that commit nothing: without mixing those would all be the same."""
        return self.mixes and self.max_steps > 0


class RefinementState(BeliefMemory):
    """
    The beliefs of a forward, and their mixed embeddings, which are made a few positions at a time.

    Args:
        embed: the model's input embeddings.
        stability_kl: see `BeliefMemory`.
    """

    def __init__(
        self, embed: nn.Module, mask_token_id: int, settings: RefinementSettings, stability_kl: float | None = None
    ) -> None:
        super().__init__(stability_kl)
        self.embed, self.mask_token_id, self.settings = embed, mask_token_id, settings
        self._mask: torch.Tensor | None = None  # (1, D)
        self._parts: list[torch.Tensor] = []  # of `_mixed`, while it is made
        self._mixed: torch.Tensor | None = None  # (N, D)
        self._rejected_parts: list[torch.Tensor] = []
        self._rejected: torch.Tensor | None = None  # (N,) bool: those of them that look like masks all the same

    def _begin_update(self, device: torch.device) -> None:
        if self._mask is None:
            self._mask = self.embed(torch.full((1,), self.mask_token_id, device=device)).float()

    def _end_update(self) -> None:
        """From now on `embeddings` are those of the beliefs that were read."""
        self._mixed, self._parts = concatenate(self._parts) if self._parts else None, []
        self._rejected = concatenate(self._rejected_parts) if self._rejected_parts else None
        self._rejected_parts = []

    def _read_part(self, now: Distribution, slots: torch.Tensor | None) -> torch.Tensor:
        if self.settings.mixes:
            assert self._mask is not None
            self._parts.append(mix_embeddings(now, self.embed, self._mask, self.settings))
            if self.settings.rejection_js is not None:
                # nan is above no limit: a belief that is the first of its position is taken.
                self._rejected_parts.append(self._compare(js_divergence, now, slots) > self.settings.rejection_js)
        return super()._read_part(now, slots)

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
        is_mixed = masked & (slot >= 0)
        if self._rejected is not None:
            is_mixed = is_mixed & ~self._rejected[slot.clamp(min=0)]
        return torch.where(is_mixed[..., None], mixed, plain)


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


__all__ = ["RefinementSettings", "RefinementState", "mix_embeddings"]
