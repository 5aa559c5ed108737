"""Masked diffusion objectives as pure functions of tensors: *corrupt* the ids, *weigh* the time, *score* the logits.

Notation: `B` rows, `L` positions, `V` vocabulary, `N` masked positions; `t` in [0, 1] is the time and
`m(t) = 1 - alpha_t` the probability that a token is masked then. Losses are in nats. The objective is the
continuous-time negative ELBO of masked diffusion (MDLM, arXiv 2406.07524; MD4, arXiv 2406.04329; the loss of LLaDA,
arXiv 2502.09992, eq. 3, is its linear case):

    -log p(x) <= E_{t ~ U(0, 1)} E_{masked ~ m(t)} w(t) sum_{n masked} CE_n,
    w(t) = -alpha'_t / (1 - alpha_t) = m'(t) / m(t)

*Corrupt* and *weigh* are those of [`hf_latent.data.corruption`], which likelihoods share, and are here, too.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from hf_latent.data.corruption import (
    LOSS_WEIGHTINGS,
    MASK_SCHEDULES,
    TIME_SAMPLINGS,
    Corruption,
    MaskSchedule,
    corrupt,
    draw_uniform,
    sample_lengths,
    sample_noise,
    sample_opening,
    sample_prompt_dropout,
    sample_times,
    weigh,
)

IGNORE_INDEX = -100
LOSS_NORMALIZATIONS = ("token", "sequence", "batch")


def count_items(supervised: torch.Tensor, normalization: str) -> torch.Tensor:
    """Share `[B]` of each row in the divisor of the summed loss: its supervised tokens (`"token"`), or 1 if any."""
    return supervised.sum(-1) if normalization == "token" else supervised.any(-1).to(torch.int64)


def normalize_rows(weights: torch.Tensor, supervised: torch.Tensor, normalization: str) -> torch.Tensor:
    """
    Weights `[B]` such that their weighted sum over masked positions, divided by the [`count_items`], is a mean over

    - `"token"`: supervised tokens: nats per token, long answers count more;
    - `"sequence"`: rows, of nats per token of the row (LLaDA's SFT, arXiv 2502.09992, algorithm 2);
    - `"batch"`: rows, of nats per row.
    """
    if normalization == "sequence":
        return weights / supervised.sum(-1).clamp(min=1)
    return weights


class MaskedDiffusionLoss(NamedTuple):
    """The loss and, detached, its parts for the log."""

    loss: torch.Tensor  # scalar, weighted nats / num_items: what is differentiated
    nll: torch.Tensor  # [N] float32, nats, unweighted, detached
    correct: torch.Tensor  # [N] bool: the most probable token is the target


def masked_diffusion_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, num_items: int | torch.Tensor
) -> MaskedDiffusionLoss:
    """
    `sum_n w_n CE_n / num_items`, in float32 whatever the model computes in; a finite zero with a graph for `N = 0`.

    Args:
        logits (`torch.FloatTensor` of shape `(N, V)`): of the masked positions only.
        targets (`torch.LongTensor` of shape `(N,)`): their clean tokens.
        weights (`torch.FloatTensor` of shape `(N,)`): from [`weigh`] and [`normalize_rows`].
        num_items (`int` or scalar tensor): of the whole optimizer step, over accumulated batches and devices.
    """
    nll = F.cross_entropy(logits.float(), targets, reduction="none")  # [N]
    loss = reduce_loss(nll, weights, num_items)
    return MaskedDiffusionLoss(loss, nll.detach(), logits.detach().argmax(-1) == targets)


def reduce_loss(nll: torch.Tensor, weights: torch.Tensor, num_items: int | torch.Tensor) -> torch.Tensor:
    """`sum_n w_n nll_n / num_items` of the -log p `(N,)` of masked tokens and their weights `(N,)`."""
    return (weights * nll).sum() / torch.as_tensor(num_items).clamp(min=1)


__all__ = [
    "IGNORE_INDEX",
    "LOSS_NORMALIZATIONS",
    "LOSS_WEIGHTINGS",
    "MASK_SCHEDULES",
    "TIME_SAMPLINGS",
    "Corruption",
    "MaskSchedule",
    "MaskedDiffusionLoss",
    "corrupt",
    "count_items",
    "draw_uniform",
    "masked_diffusion_loss",
    "normalize_rows",
    "reduce_loss",
    "sample_lengths",
    "sample_noise",
    "sample_opening",
    "sample_prompt_dropout",
    "sample_times",
    "weigh",
]
