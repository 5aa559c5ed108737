"""How many tokens a step may commit: the schedules of LLaDA and of Dream, per row."""

from functools import lru_cache
from typing import Literal

import torch

ScheduleName = Literal["uniform", "dream"]
SCHEDULES: tuple[ScheduleName, ...] = ("uniform", "dream")


def uniform_quota(num_masked_at_start: int, step: int, num_steps: int) -> int:
    """
    Tokens of step `step` (0-based) when `num_masked_at_start` are spread evenly, the remainder over the first steps.

    From LLaDA (arXiv 2502.09992, algorithm 4).
    """
    return num_masked_at_start // num_steps + (step < num_masked_at_start % num_steps)


def dream_quota(num_masked: int, step: int, num_steps: int, epsilon: float) -> int:
    """
    Tokens of step `step` under Dream's schedule: floor(masks left x (1 - s/t)) on times from 1 down to `epsilon`.

    `t` and `s` are the times of this step and the next, evenly spaced; the last step commits all that is left.
    The arithmetic is float32 as in the reference, whose floor can fall one short of the exact value.
    """
    if step >= num_steps - 1:
        return num_masked
    return int(num_masked * _shares(num_steps, epsilon)[step])


@lru_cache
def _shares(num_steps: int, epsilon: float) -> torch.Tensor:
    """`1 - s/t` of every step, float32 `(num_steps,)`."""
    times = _times(num_steps, epsilon)
    return 1 - times[1:] / times[:-1]


def _times(num_steps: int, epsilon: float) -> torch.Tensor:
    # torch.linspace(1, epsilon, num_steps + 1) to the last bit, on every machine: the floor of a quota hangs on it. It
    # counts from the nearer end and rounds once, to float32, after a fused multiply-add: here in 60-bit fixed point.
    step, end = torch.arange(num_steps + 1), torch.tensor(epsilon, dtype=torch.float32)
    increment = _fixed_point((end - 1.0) / num_steps)
    from_start = _fixed_point(torch.ones_like(end)) + increment * step
    from_end = _fixed_point(end) - increment * (num_steps - step)
    return torch.where(step < (num_steps + 1) // 2, from_start, from_end).float() * 2.0**-60


def _fixed_point(x: torch.Tensor) -> torch.Tensor:
    """float32 in [-1, 1] to int64 multiples of 2^-60, exact from 2^-36 up."""
    return (x * 2.0**60).long()


def steps_of_block(block: int, num_blocks: int, num_steps: int) -> int:
    """Share of `num_steps` that falls to block `block` of `num_blocks`; earlier blocks get the rest."""
    num_blocks = max(num_blocks, 1)
    return num_steps // num_blocks + (block < num_steps % num_blocks)


__all__ = ["SCHEDULES", "ScheduleName", "dream_quota", "steps_of_block", "uniform_quota"]
