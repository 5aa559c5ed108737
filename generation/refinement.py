"""
Latent refinement (LRD, arXiv 2510.11052): what open positions look like to the next forward, and how much the belief
still moves.

`N` predicted positions of a forward, `V` vocabulary, `D` width, `A` rows, `L` columns.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from hf_latent.generation.belief import ELEMENTS_AT_ONCE, entropy_of

FIRST_NUCLEUS = 64


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


class Memory:
    """
    The beliefs of a forward as the next one needs them.

    Of the whole vocabulary only the logits are kept, of the positions that were read, as the model gave them; what
    is made of them is done a few positions at a time, and the mixture over the nucleus alone.
    """

    def __init__(self, embed: nn.Module, mask_token_id: int, settings: RefinementSettings) -> None:
        self.embed, self.mask_token_id, self.settings = embed, mask_token_id, settings
        self._slot: torch.Tensor | None = None  # (A, L): index of a position in the following, -1 without
        self._logits: torch.Tensor | None = None  # (N, V)
        self._mixed: torch.Tensor | None = None  # (N, D)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        if self._slot is not None:
            self._slot = self._slot[rows]

    def compare(self, at: tuple[torch.Tensor, torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        """KL(now || forward before) in nats at each position, `(N,)`; nan where nothing is remembered."""
        if self._slot is None or self._logits is None or len(self._logits) == 0:
            return torch.full((len(logits),), float("nan"), device=logits.device)
        slot, before = self._slot[at], self._logits
        size = max(1, ELEMENTS_AT_ONCE // logits.shape[-1])
        parts = [
            _kl(now, before[index])
            for now, index in zip(logits.split(size), slot.clamp(min=0).split(size), strict=True)
        ]
        return torch.cat(parts).masked_fill(slot < 0, float("nan"))

    def remember(
        self, at: tuple[torch.Tensor, torch.Tensor], logits: torch.Tensor, keep: torch.Tensor, shape: torch.Size
    ) -> None:
        """Keep the beliefs `(N, V)` of the positions `keep` `(N,)` of a canvas of `shape`; forget all earlier ones."""
        number = torch.arange(len(logits), device=logits.device).where(keep, -1)
        self._slot = torch.full(shape, -1, dtype=torch.long, device=logits.device).index_put_(at, number)
        self._logits = logits
        if self.settings.mixes:
            self._mixed = mix_embeddings(logits, self.embed, self.mask_token_id, self.settings)

    @property
    def mixes(self) -> bool:
        """Whether `embeddings` differ from plain ones: not before the first forward."""
        return self._mixed is not None and len(self._mixed) > 0

    def embeddings(self, ids: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """Input embeddings `(A, L', D)` of the first columns of a canvas, mixed where it is open and remembered."""
        plain = self.embed(ids)
        if self._slot is None or self._mixed is None:
            return plain
        slot = self._slot[:, : ids.shape[1]]
        mixed = self._mixed[slot.clamp(min=0)].to(plain.dtype)
        return torch.where((masked & (slot >= 0))[..., None], mixed, plain)


def mix_embeddings(
    logits: torch.Tensor, embed: nn.Module, mask_token_id: int, settings: RefinementSettings
) -> torch.Tensor:
    """
    Soft mask embeddings `(N, D)` of `(N, V)` logits: `(1 - alpha) E[mask] + alpha sum_{v in nucleus} p(v) E[v]`.

    alpha = ratio (1 - H / log V) with the entropy H over the whole vocabulary; p is renormalised on the nucleus, the
    smallest set of tokens with a mass of at least top_p. arXiv 2510.11052, section 3.
    """
    mask = embed(torch.full((1,), mask_token_id, device=logits.device)).float()
    size = max(1, ELEMENTS_AT_ONCE // logits.shape[-1])
    return torch.cat([_mix(rows, embed, mask, settings) for rows in logits.split(size)] or [mask[:0]])


def _mix(logits: torch.Tensor, embed: nn.Module, mask: torch.Tensor, settings: RefinementSettings) -> torch.Tensor:
    alpha = settings.ratio * (1 - entropy_of(logits) / math.log(logits.shape[-1]))[:, None]
    share, tokens = nucleus(logits, settings.top_p)
    size = max(1, ELEMENTS_AT_ONCE // (mask.shape[-1] * tokens.shape[-1]))
    parts = [
        torch.einsum("nk,nkd->nd", s, embed(t).float())
        for s, t in zip(share.split(size), tokens.split(size), strict=True)
    ]
    return (1 - alpha) * mask + alpha * torch.cat(parts)


def nucleus(logits: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Probabilities, renormalised, and ids `(N, K)` of the smallest sets with a mass of at least `top_p`.

    `K` is the largest set's size or somewhat more; what is beyond a position's set has probability 0.
    """
    p = logits.softmax(-1)
    size, vocabulary = FIRST_NUCLEUS, logits.shape[-1]
    while True:
        share, tokens = p.topk(min(size, vocabulary))
        mass = share.cumsum(-1)
        if size >= vocabulary or bool((mass[:, -1] >= top_p).all()):
            break
        size *= 8
    share = share.masked_fill(mass - share >= top_p, 0.0)
    return share / share.sum(-1, keepdim=True), tokens


def _kl(now: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    log_now, log_before = now.log_softmax(-1), before.log_softmax(-1)
    p = log_now.exp()
    # Finite floors: tokens that neither has count 0, one that only `now` has makes it huge.
    return p.mul_(log_now.clamp_(min=-1e30) - log_before.clamp_(min=-1e30)).sum(-1).clamp_(min=0.0)


__all__ = ["Memory", "RefinementSettings", "mix_embeddings", "nucleus"]
