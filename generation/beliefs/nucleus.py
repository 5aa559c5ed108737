"""
Nuclei: the smallest sets of tokens with a mass of at least `top_p`, and the mean embedding over them.

`N` positions, `V` vocabulary, `K` tokens of a set, `D` width.
"""

import torch
from torch import nn

from hf_latent.generation.beliefs.distribution import Distribution
from hf_latent.generation.beliefs.top_k import top_k_values

# Sets of up to so many tokens are gathered, of the fewest that do; larger ones, of a flat distribution, are summed
# over the vocabulary.
SMALL_NUCLEI = (8, 16, 64)
# (shift, width) of the bits of a float32 in [0, 1], from its exponent down.
RADIX = ((18, 12), (6, 12))


def expected_embedding(now: Distribution, embed: nn.Module, top_p: float) -> torch.Tensor:
    """
    Mean embedding `(N, D)`, float32, over the nuclei of a distribution.

    Args:
        embed: the input embeddings, `(...)` to `(..., D)`.
    """
    if len(now) == 0:  # an idle step of a schedule with more steps than tokens
        return now.p.new_zeros(0, embed.weight.shape[-1])
    return _expect(now.p, now.block_max, embed, top_p, SMALL_NUCLEI)


def _expect(
    p: torch.Tensor, block_max: torch.Tensor | None, embed: nn.Module, top_p: float, sizes: tuple[int, ...]
) -> torch.Tensor:
    """Of a `Distribution`'s fields, with the sizes of a set that are tried before the whole vocabulary."""
    if not sizes:
        share = large_nucleus(p, top_p)
        every = torch.arange(share.shape[-1], device=share.device)
        table = embed.weight if type(embed) is nn.Embedding and not embed.weight.is_meta else embed(every)
        return (share.to(table.dtype) @ table).float()
    share, tokens, lacking = small_nucleus(p, block_max, top_p, sizes[0])
    mean = torch.bmm(share[:, None], embed(tokens).float()).squeeze(1)
    larger = lacking.nonzero().squeeze(-1)
    if len(larger) > 0:
        rest = None if block_max is None else block_max[larger]
        mean[larger] = _expect(p[larger], rest, embed, top_p, sizes[1:])
    return mean


def small_nucleus(
    p: torch.Tensor, block_max: torch.Tensor | None, top_p: float, size: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Renormalised shares and ids `(N, K)` of the smallest sets with a mass of at least `top_p`, with `K` of at most
    `size`, and whether `K` tokens lack that mass `(N,)`. What is beyond a position's set has share 0.

    `p` `(N, V)` and `block_max` are a `Distribution`'s.
    """
    share, tokens = top_k_values(p, min(size, p.shape[-1]), block_max)
    reached = share.cumsum(-1)
    lacking = reached[:, -1] < top_p
    if size >= p.shape[-1]:  # rounding may leave the sum of all below a mass of 1
        lacking = torch.zeros_like(lacking)
    share = share * (reached - share < top_p)
    return share / share.sum(-1, keepdim=True), tokens, lacking


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


__all__ = ["expected_embedding", "large_nucleus", "small_nucleus"]
