"""
The largest of many values: a CPU finds maxima many at a time, but where they are one by one, so first the block that
holds them is found, then the place within.

`N` positions, `V` vocabulary.
"""

import torch

# Vocabularies are padded to multiples of 64 nearly everywhere.
BLOCK = 64
# `top_k_values` looks into blocks if those it looks into are a quarter of all or fewer.
MIN_BLOCKS_PER_VALUE = 4
# Of fewer values, the largest of each row is found sooner one by one: a handful of operations costs more.
MIN_ELEMENTS = 2**18


def block_maxima(values: torch.Tensor) -> torch.Tensor | None:
    """Maxima `(N, V / BLOCK)` of the blocks of `(N, V)`; None where they are of no use."""
    if not values.is_cpu or values.shape[-1] % BLOCK != 0:
        return None
    return values.unflatten(-1, (-1, BLOCK)).amax(-1)


def max_and_argmax(values: torch.Tensor, block_max: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The largest value of each row `(N, 1)` and the first place that has it `(N,)`, given `block_maxima(values)`; if not
    given, they are used where there are many values.
    """
    if block_max is None and values.numel() >= MIN_ELEMENTS:
        block_max = block_maxima(values)
    if block_max is None:
        best, place = values.max(-1, keepdim=True)
        return best, place.squeeze(-1)
    best, block = block_max.max(-1, keepdim=True)
    block = block.squeeze(-1)
    return best, _pick(values, block).argmax(-1).add_(block, alpha=BLOCK)


def top_k_values(
    values: torch.Tensor, count: int, block_max: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    `values.topk(count)`, of equal values any: values and indices `(N, count)`; given `block_maxima(values)`, or those
    of what the values rise with.
    """
    if block_max is None or block_max.shape[-1] < MIN_BLOCKS_PER_VALUE * count:
        return values.topk(count)
    # Each of the largest values is in one of the blocks with the largest maxima.
    best = block_max.topk(count, sorted=False).indices
    found, index = _pick(values, best).topk(count)
    return found, (index % BLOCK).add_(best.gather(1, index // BLOCK), alpha=BLOCK)


def _pick(values: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """The values of `blocks` `(N,)` or `(N, K)`: `(N, K * BLOCK)`."""
    first = torch.arange(0, values.numel() // BLOCK, values.shape[-1] // BLOCK, device=values.device)
    numbers = blocks + first.view(-1, *[1] * (blocks.dim() - 1))
    return values.reshape(-1, BLOCK)[numbers].flatten(1)


__all__ = ["BLOCK", "MIN_BLOCKS_PER_VALUE", "MIN_ELEMENTS", "block_maxima", "max_and_argmax", "top_k_values"]
