"""
The noise of a batch: when each token is corrupted, which are masked then, and what a masked token weighs.

`B` rows, `L` positions. In block diffusion (BD3LM, arXiv 2503.09573) every block `b` of a row is masked diffusion of
its own, with a time of its own, given the blocks before it without noise:

    -log p(x) <= sum_b E_{t_b ~ U(0, 1)} E_{masked ~ m(t_b)} w(t_b) sum_{i in b masked} CE(x_i | x_t^b, x^{<b})

A block of the whole row is the objective of [`hf_latent.training.common.objectives`]; blocks of one token give the
chain rule, as the one token of a block is predicted from what is before it alone.
"""

from typing import Any, NamedTuple

import torch

from hf_latent.data.corruption import MASK_SCHEDULES, corrupt, sample_noise, sample_times, time_density, weigh
from hf_latent.training.masked_diffusion.config import MaskedDiffusionConfig


class NoisyRows(NamedTuple):
    """Rows `[B, L]`: noisy tokens, where they were masked, and the weights of the loss and of the bound there."""

    input_ids: torch.Tensor
    masked: torch.Tensor
    weights: torch.Tensor
    bound: torch.Tensor


class CorruptedRows(NamedTuple):
    """Rows `[B, L]` of a batch: tokens with and without noise, which of them exist (bool) and are predicted (bool)."""

    noisy: torch.Tensor
    clean: torch.Tensor
    attended: torch.Tensor
    masked: torch.Tensor


def add_noise(
    input_ids: torch.Tensor,
    supervised: torch.Tensor,
    example_ids: torch.Tensor,
    args: MaskedDiffusionConfig,
    *,
    mask_token_id: int,
    blocks: torch.Tensor | None = None,
    is_training: bool = True,
    **draw: Any,
) -> NoisyRows:
    """
    Mask supervised tokens at random.

    With `args.complementary_masks` the second half of the rows are those of the first: they get the masks that those
    lack.

    Args:
        input_ids (`torch.LongTensor` of shape `(B, L)`): clean tokens.
        supervised (`torch.BoolTensor` of shape `(B, L)`): tokens that may be masked.
        example_ids (`torch.LongTensor` of shape `(B,)`): identities of the rows.
        blocks (`torch.LongTensor` of shape `(B, L)`, *optional*): number of the block of each position, which then
            has a time of its own.
        is_training (`bool`): evaluation spreads times evenly where training draws them from a bell.
        draw: `seed` and `epoch` of the noise.
    """
    epsilon, largest = args.time_interval
    sampling = args.time_sampling
    if sampling == "bell" and not is_training:
        sampling = "low_discrepancy"
    times = sample_times(example_ids, sampling=sampling, blocks=blocks, epsilon=epsilon, largest=largest, **draw)
    density = time_density(times, sampling=sampling, epsilon=epsilon, largest=largest)
    probability = MASK_SCHEDULES[args.mask_schedule].mask_probability(times)
    noise = sample_noise(example_ids, supervised, **draw)  # [B, L]
    noisy, masked = corrupt(input_ids, supervised, probability, noise, mask_token_id)
    share = 1.0
    if args.complementary_masks:
        second = torch.arange(len(times), device=times.device) >= len(times) // 2
        masked = torch.where(second[:, None], supervised & ~masked, masked)
        noisy = input_ids.masked_fill(masked, mask_token_id)
        times = torch.where(second if times.dim() == 1 else second[:, None], 1 - times, times)
        share = 0.5
    weights = weigh(times, schedule=args.mask_schedule, weighting=args.loss_weighting)
    bound = share * weigh(times, schedule=args.mask_schedule, weighting="nelbo") / density
    if args.loss_weighting != "uniform":
        weights = share * weights
    if times.dim() == 1:
        weights, bound = weights[:, None], bound[:, None]
    return NoisyRows(noisy, masked, weights.expand(masked.shape), bound.expand(masked.shape))


def twice(inputs: dict[str, Any]) -> dict[str, Any]:
    """A batch with each of its rows, or documents, once more behind all of them."""
    doubled = {
        name: torch.cat([value, value]) if isinstance(value, torch.Tensor) and value.dim() else value
        for name, value in inputs.items()
    }
    if "pack_row" in inputs:
        row = inputs["pack_row"]
        doubled["pack_row"] = torch.cat([row, row + row.max() + 1])
    return doubled


def blocks_of(position_ids: torch.Tensor, block_size: int | torch.Tensor) -> torch.Tensor:
    """Number of the block of each position `(B, L)`; `block_size` may be one of each row, `(B,)`."""
    if isinstance(block_size, torch.Tensor):
        block_size = block_size[:, None]
    return position_ids // block_size


__all__ = ["CorruptedRows", "NoisyRows", "add_noise", "blocks_of", "twice"]
