"""
What the objectives of latent-token models draw (arXiv 2602.03769): orders, groups, states, and how far to look ahead.

All randomness is a hash, as in `objectives`: an example meets the same noise alone and in a batch.

`B` rows, `L` positions, `K` latent tokens, `S` states.
"""

from typing import NamedTuple

import torch

from hf_latent.training.common.objectives import IGNORE_INDEX, draw_uniform, sample_noise

_ORDER_STREAM, _GROUP_STREAM, _STATE_STREAM, _AHEAD_STREAM = 6, 7, 8, 9


def sample_num_latent_tokens(choices: list[int], *, seed: int, step: int) -> int:
    """One of `choices`, the same for all that an optimizer step trains on: one checkpoint learns them all."""
    return choices[int(float(draw_uniform(_AHEAD_STREAM, seed, step)) * len(choices))]


def sample_reveal_order(
    example_ids: torch.Tensor, supervised: torch.Tensor, *, seed: int, epoch: int | torch.Tensor
) -> torch.Tensor:
    """
    Numbers `(B, L)` by which tokens enter the clean stream: what is given by its column, and behind it the
    `supervised` ones in a uniform random order.
    """
    noise = sample_noise(example_ids, supervised, seed=seed, epoch=epoch, stream=_ORDER_STREAM)  # [B, L]
    columns = torch.arange(supervised.shape[1], device=supervised.device)
    return torch.where(supervised, supervised.shape[1] + noise, columns.to(noise.dtype))


def sample_groups(
    example_ids: torch.Tensor, masked: torch.Tensor, num_latent_tokens: int, *, seed: int, epoch: int | torch.Tensor
) -> torch.Tensor:
    """
    Groups `(B, L)` of the `masked` positions, random ones of `num_latent_tokens + 1` each, the last of a row of what
    is left; -1 elsewhere. Every position is predicted together with its group.
    """
    noise = sample_noise(example_ids, masked, seed=seed, epoch=epoch, stream=_GROUP_STREAM)
    rank = noise.masked_fill(~masked, 2.0).argsort(dim=-1, stable=True).argsort(dim=-1)
    return torch.where(masked, rank // (num_latent_tokens + 1), -1)


class States(NamedTuple):
    """Tokens of each row behind which the model looks ahead."""

    columns: torch.Tensor  # (B, S)
    valid: torch.Tensor  # (B, S) bool; the others fill up rows with fewer
    weight: torch.Tensor  # (B,): tokens that the row's states stand for, divided by their number


def sample_states(
    example_ids: torch.Tensor,
    supervised: torch.Tensor,
    num_states: int | None,
    *,
    seed: int,
    epoch: int | torch.Tensor,
) -> States:
    """
    The tokens before `num_states` of each row's `supervised` tokens `(B, L)`, of which the first of a row is none,
    uniformly without replacement; all of them if None.
    """
    before = supervised.roll(-1, -1)
    before[:, -1] = False
    counts = before.sum(-1)
    most = int(counts.max()) if num_states is None else min(num_states, int(counts.max()))
    noise = sample_noise(example_ids, before, seed=seed, epoch=epoch, stream=_STATE_STREAM)
    columns = noise.masked_fill(~before, 2.0).argsort(dim=-1, stable=True)[:, :most]
    valid = torch.arange(most, device=columns.device) < counts[:, None]
    chosen = counts.clamp(max=most)
    return States(columns, valid, counts / chosen.clamp(min=1))


def look_ahead_targets(
    labels: torch.Tensor, states: States, num_latent_tokens: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Tokens `(B, S, K + 1)` that the groups behind the states predict, and where there is one to predict, bool.

    The i-th of a group predicts the token `i + 1` columns behind the state's.
    """
    length = labels.shape[1]
    ahead = torch.arange(1, num_latent_tokens + 2, device=labels.device)
    columns = states.columns[..., None] + ahead  # [B, S, K + 1]
    exists = states.valid[..., None] & (columns < length)
    rows = torch.arange(len(labels), device=labels.device)[:, None, None]
    targets = labels[rows, columns.clamp(max=length - 1)]
    return targets, exists & (targets != IGNORE_INDEX)


__all__ = [
    "States",
    "look_ahead_targets",
    "sample_groups",
    "sample_num_latent_tokens",
    "sample_reveal_order",
    "sample_states",
]
