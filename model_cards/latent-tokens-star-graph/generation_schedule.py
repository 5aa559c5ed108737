# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""How many tokens a step may commit: the schedules of LLaDA and of Dream, per row."""

from typing import Literal

import torch

ScheduleName = Literal["uniform", "dream"]
SCHEDULES: tuple[ScheduleName, ...] = ("uniform", "dream")


def uniform_quota(num_masked_at_start: torch.Tensor, step: torch.Tensor, num_steps: torch.Tensor) -> torch.Tensor:
    """
    Tokens of step `step` (0-based) when `num_masked_at_start` are spread evenly, the remainder over the first steps.

    All arguments and the result: int64 of shape `(B,)`. From LLaDA (arXiv 2502.09992, algorithm 4).
    """
    base = num_masked_at_start // num_steps
    return base + (step < num_masked_at_start % num_steps)


def dream_quota(num_masked: torch.Tensor, step: torch.Tensor, num_steps: torch.Tensor, epsilon: float) -> torch.Tensor:
    """
    Tokens of step `step` under Dream's schedule: floor(masks left x (1 - s/t)) on times from 1 down to `epsilon`.

    `t` and `s` are the times of this step and the next, evenly spaced; the last step commits all that is left.
    The arithmetic is float32 as in the reference, whose floor can fall one short of the exact value.
    All arguments and the result: int64 of shape `(B,)`.
    """
    t, s = _time(step, num_steps, epsilon), _time(step + 1, num_steps, epsilon)
    quota = (num_masked.float() * (1 - s / t)).long()
    return torch.where(step < num_steps - 1, quota, num_masked)


def _time(step: torch.Tensor, num_steps: torch.Tensor, epsilon: float) -> torch.Tensor:
    # torch.linspace(1, epsilon, num_steps + 1)[step] to the last bit: the floor of a quota hangs on it. It counts from
    # the nearer end and rounds once, to float32, after a fused multiply-add: here in 60-bit fixed point.
    end = torch.tensor(epsilon, dtype=torch.float32, device=step.device)
    increment = _fixed_point((end - 1.0) / num_steps)
    from_start = _fixed_point(torch.ones_like(end)) + increment * step
    from_end = _fixed_point(end) - increment * (num_steps - step)
    return torch.where(step < (num_steps + 1) // 2, from_start, from_end).float() * 2.0**-60


def _fixed_point(x: torch.Tensor) -> torch.Tensor:
    """float32 in [-1, 1] to int64 multiples of 2^-60, exact from 2^-36 up."""
    return (x * 2.0**60).long()


def steps_of_block(block: torch.Tensor, num_blocks: torch.Tensor, num_steps: int) -> torch.Tensor:
    """Share of `num_steps` that falls to block `block` of `num_blocks` (int64 `(B,)`); earlier blocks get the rest."""
    num_blocks = num_blocks.clamp(min=1)
    return num_steps // num_blocks + (block < num_steps % num_blocks)


__all__ = ["SCHEDULES", "ScheduleName", "dream_quota", "steps_of_block", "uniform_quota"]
