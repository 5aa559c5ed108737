# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""
Latent refinement (LRD, arXiv 2510.11052): what open positions look like to the next forward, and how much the belief
still moves.

`N` predicted positions of a forward, `V` vocabulary, `D` width, `A` rows, `L` columns.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from .generation_belief import split_rows

# Nuclei of up to so many tokens are gathered, of the fewest that do; larger ones, of a flat distribution, are summed
# over the vocabulary.
SMALL_NUCLEI = (8, 64)
# (shift, width) of the bits of a float32 in [0, 1], from its exponent down.
RADIX = ((18, 12), (6, 12))


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
    The beliefs of a forward as the next one needs them: log-probabilities of the positions that were read, and their
    mixed embeddings. What is made of them is done a few positions at a time.
    """

    def __init__(self, embed: nn.Module, mask_token_id: int, settings: RefinementSettings) -> None:
        self.embed, self.mask_token_id, self.settings = embed, mask_token_id, settings
        self._mask: torch.Tensor | None = None  # (1, D)
        self._slot: torch.Tensor | None = None  # (A, L): index of a position in the following, -1 without
        self._log_p: torch.Tensor | None = None  # (N, V)
        self._mixed: torch.Tensor | None = None  # (N, D)

    def select(self, rows: torch.Tensor) -> None:
        """Keep these rows."""
        if self._slot is not None:
            self._slot = self._slot[rows]

    def observe(
        self,
        at: tuple[torch.Tensor, torch.Tensor],
        log_p: torch.Tensor,
        entropy: torch.Tensor,
        keep: torch.Tensor,
        shape: torch.Size,
    ) -> torch.Tensor:
        """
        KL(now || forward before) in nats at each position, `(N,)`; nan where nothing is remembered of it.

        Args:
            at: rows and columns `(N,)` of the positions on a canvas of `shape`.
            log_p: `(N, V)` in nats, bounded from below; kept.
            entropy: `(N,)`, theirs in nats.
            keep: `(N,)` bool, positions whose beliefs are remembered in place of all that were.
        """
        slot = self._earlier(at, len(log_p))  # (N,)
        if self._mask is None:
            self._mask = self.embed(torch.full((1,), self.mask_token_id, device=log_p.device)).float()
        divergences, mixed, start = [], [], 0
        for now in split_rows(log_p):
            rows = slice(start, start := start + len(now))
            p = now.softmax(-1)  # of log-probabilities their exponential, and quicker
            divergences.append(self._divergence(p, entropy[rows], slot[rows]))
            if self.settings.mixes:
                mixed.append(mix_embeddings(p, entropy[rows], self.embed, self._mask, self.settings))
        number = torch.arange(len(log_p), device=log_p.device).where(keep, -1)
        self._slot = torch.full(shape, -1, dtype=torch.long, device=log_p.device).index_put_(at, number)
        self._log_p = log_p
        self._mixed = torch.cat(mixed) if mixed else None
        return torch.cat(divergences)

    def _earlier(self, at: tuple[torch.Tensor, torch.Tensor], count: int) -> torch.Tensor:
        """Where the belief of each position is remembered, `(N,)`; -1 for none."""
        if self._slot is None or self._log_p is None or len(self._log_p) == 0:
            return torch.full((count,), -1, device=at[0].device)
        return self._slot[at]

    def _divergence(self, p: torch.Tensor, entropy: torch.Tensor, earlier: torch.Tensor) -> torch.Tensor:
        if self._log_p is None or len(self._log_p) == 0:
            return torch.full((len(p),), float("nan"), device=p.device)
        before = self._log_p[earlier.clamp(min=0)]
        divergence = -(entropy + torch.linalg.vecdot(p, before)).clamp_(max=0.0)
        return divergence.masked_fill(earlier < 0, float("nan"))

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
    p: torch.Tensor, entropy: torch.Tensor, embed: nn.Module, mask: torch.Tensor, settings: RefinementSettings
) -> torch.Tensor:
    """
    Soft mask embeddings `(N, D)` of probabilities `(N, V)` of the entropies `(N,)`, in nats:
    `(1 - alpha) mask + alpha sum_{v in nucleus} p(v) E[v]`, with the `mask`'s embedding `(1, D)`.

    alpha = ratio (1 - H / log V) with the entropy H over the whole vocabulary; p is renormalised on the nucleus, the
    smallest set of tokens with a mass of at least top_p. arXiv 2510.11052, section 3.
    """
    certainty = 1 - entropy / math.log(p.shape[-1])
    alpha = settings.ratio * certainty[:, None]
    return (1 - alpha) * mask + alpha * _expected_embedding(p, embed, settings.top_p)


def _expected_embedding(p: torch.Tensor, embed: nn.Module, top_p: float) -> torch.Tensor:
    """Mean embedding `(N, D)` over the nuclei of probabilities `(N, V)`."""
    if len(p) == 0:  # an idle step of a schedule with more steps than tokens
        return p.new_zeros(0, embed.weight.shape[-1])
    small = small_nucleus(p, top_p)
    if small is not None:
        return torch.einsum("nk,nkd->nd", small[0], embed(small[1]).float())
    share = large_nucleus(p, top_p)
    table = embed.weight if type(embed) is nn.Embedding else embed(torch.arange(p.shape[-1], device=p.device))
    return (share.to(table.dtype) @ table).float()


def small_nucleus(p: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor] | None:
    """
    Renormalised shares and ids `(N, K)` of the smallest sets with a mass of at least `top_p`, `K` of
    `SMALL_NUCLEI`; None if a set has more tokens. What is beyond a position's set has share 0.
    """
    # Most need few, which are found in a third of the time.
    for size in (min(size, p.shape[-1]) for size in SMALL_NUCLEI):
        share, tokens = p.topk(size)
        before = share.cumsum(-1) - share
        if size == p.shape[-1] or bool((before[:, -1] + share[:, -1] >= top_p).all()):
            share = share * (before < top_p)
            return share / share.sum(-1, keepdim=True), tokens
    return None


def large_nucleus(p: torch.Tensor, top_p: float) -> torch.Tensor:
    """
    Renormalised shares `(N, V)`, 0 outside the smallest sets with a mass of at least `top_p`, of float32 `p`; tokens
    within 2^-17 of the least of a set are in it, too.

    A radix selection: floats that are not negative are ordered like their bits, so two histograms of the mass over
    ever lower bits find the least probability of a set, in a tenth of the time of a sort.
    """
    order = (2**30 - 1) - p.view(torch.int32)  # the likelier, the smaller
    rest, above, bound = p, torch.zeros_like(p[:, :1]), torch.zeros_like(order[:, :1])
    for shift, width in RADIX:
        digit = ((order >> shift) & (2**width - 1)).long()
        mass = p.new_zeros(len(p), 2**width).scatter_add_(1, digit, rest)
        reached = above + mass.cumsum(-1)
        found = (reached < top_p).sum(-1, keepdim=True).clamp_(max=2**width - 1)
        above = (reached - mass).gather(1, found)
        rest = rest * (digit == found)
        bound = bound + (found << shift).int()
    kept = p * (order < bound + 2 ** RADIX[-1][0])
    return kept / kept.sum(-1, keepdim=True)


__all__ = ["Memory", "RefinementSettings", "large_nucleus", "mix_embeddings", "small_nucleus"]
