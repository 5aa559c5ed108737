"""
Which tokens of a text a draw masks, reads and weighs, for each of the estimators of its likelihood (`estimators.py`).

`B` rows (one draw of one text each), `L` positions, `S` scored tokens of a text, `K` draws.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from hf_latent.data.corruption import MASK_SCHEDULES, corrupt, sample_noise, sample_times, weigh
from hf_latent.generation.state.noise import GOLDEN

ESTIMATORS = ("masked_count", "continuous_time", "chain")


class Draw(NamedTuple):
    """
    What is masked and what of it is predicted, bool `[B, L]` each, and the weight of its cross entropy: `[B, 1]`, or
    `[B, L]` where blocks have weights of their own.
    """

    masked: torch.Tensor
    read: torch.Tensor
    weights: torch.Tensor


def draw(
    estimator: str, keys: torch.Tensor, scored: torch.Tensor, number: torch.Tensor, *, num_samples: int, seed: int
) -> Draw:
    """
    The `number`-th draw of each row: a function of (seed, key, number, rank among the scored tokens), whatever the
    batch.

    Args:
        keys (`torch.LongTensor` of shape `(B,)`): identities of the texts.
        scored (`torch.BoolTensor` of shape `(B, L)`): tokens that may be masked.
        number (`torch.LongTensor` of shape `(B,)`): from 0 to `num_samples - 1`, or, for `"chain"`, to `S - 1`.
    """
    rank = scored.cumsum(-1) - 1  # [B, L]
    if estimator == "chain":
        at = number[:, None]
        return Draw(scored & (rank >= at), scored & (rank == at), torch.ones(len(keys), 1, dtype=torch.float64))
    epoch = -1 - number  # below 0: never the noise of training
    u = sample_times(keys, seed=seed, epoch=epoch, sampling="independent").double()  # [B]
    u = (number + u) / num_samples
    noise = sample_noise(keys, scored, seed=seed, epoch=epoch)  # [B, L]
    if estimator == "continuous_time":
        first = number == 0
        noise = torch.where(first[:, None], given_a_mask(noise, scored, u), noise.double())
        probability = MASK_SCHEDULES["linear"].mask_probability(u)
        masked = corrupt(torch.zeros_like(rank), scored, probability, noise, mask_token_id=1).masked
        weights = weigh(u) * torch.where(first, any_below(u, scored.sum(-1)), 1.0)
        return Draw(masked, masked, weights[:, None])
    length = scored.sum(-1)  # [B]
    count = ((u * length).floor().long() + 1).minimum(length).clamp(min=1)
    order = noise.masked_fill(~scored, float("inf")).argsort(dim=-1, stable=True).argsort(dim=-1)
    masked = scored & (order < count[:, None])
    return Draw(masked, masked, (length / count.double())[:, None])


def draw_in_blocks(
    estimator: str,
    keys: torch.Tensor,
    scored: torch.Tensor,
    number: torch.Tensor,
    *,
    block_size: int,
    num_samples: int,
    seed: int,
) -> Draw:
    """
    [`draw`] of every block of `block_size` positions by itself, as if it were a text: for models that write block by
    block. With `"chain"`, `number` counts within a block; what is read then is one token of every block that has one.
    """
    rows, length = scored.shape
    padded = F.pad(scored, (0, -length % block_size))
    blocks = padded.shape[1] // block_size
    key = keys[:, None] + torch.arange(blocks) * GOLDEN  # no other text's, as those are not this far apart
    flat = padded.reshape(rows * blocks, block_size), number.repeat_interleave(blocks)
    drawn = draw(estimator, key.flatten(), *flat, num_samples=num_samples, seed=seed)
    found = (part.expand(-1, block_size).reshape(rows, -1)[:, :length] for part in drawn)
    return Draw(*found)


def any_below(x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Probability `[B]` that the least of `count` uniform numbers is below `x`, both `[B]`: 1 - (1 - x)^count."""
    return -torch.expm1(count * torch.log1p(-x))


def given_a_mask(noise: torch.Tensor, scored: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """
    Uniform `noise` `[B, L]` made such that at least one of the `scored` is below the time `[B]`, as if those rows were
    all that had been drawn: float64.

    The least is moved by its distribution function to where it is, given that; the others, uniform above it, follow.
    """
    noise, count = noise.double().masked_fill(~scored, 1.0), scored.sum(-1)
    least, place = noise.min(-1, keepdim=True)  # [B, 1]
    share = any_below(least.squeeze(-1), count) * any_below(times, count)
    moved = -torch.expm1(torch.log1p(-share) / count)[:, None]  # [B, 1]
    others = moved + (1 - moved) * (noise - least) / (1 - least)
    return others.scatter(-1, place, moved)


__all__ = ["ESTIMATORS", "Draw", "any_below", "draw", "draw_in_blocks", "given_a_mask"]
