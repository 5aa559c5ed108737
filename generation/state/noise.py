"""Random numbers that are a function of (seed, row, step, position), never of the batch around a row."""

from functools import lru_cache

import torch

# Odd 63-bit constants of the splitmix64 generator (Steele, Lea, Flood 2014); int64 arithmetic wraps as it does.
GOLDEN = -7046029254386353131
_MIX_1 = -4658895280553007687
_MIX_2 = -7723592293110705685


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of int64: torch shifts the sign in."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def mix(x: torch.Tensor) -> torch.Tensor:
    """Finaliser of splitmix64: a bijection of int64 under which neighbours look independent."""
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def uniform(seed: int, stream: int, *counters: torch.Tensor) -> torch.Tensor:
    """
    Uniform numbers in (0, 1), one for each element of the broadcast int64 `counters` (row, step, position, ...).

    The same counters give the same number on every device and in every batch. `stream` separates independent uses.
    Returns float32 with 23 random bits: with 24, the largest would round to 1.
    """
    first, *others = counters
    state = mix(first + _start(seed, stream))
    for counter in others:
        state = mix(state + GOLDEN + counter)
    return (_shift_right(state, 41).float() + 0.5) * 2.0**-23


@lru_cache
def _start(seed: int, stream: int) -> int:
    """What the first counter is added to; by tensors, whose arithmetic wraps."""
    return int(mix(torch.tensor(seed) + (stream + 1) * 0x2545F491) + GOLDEN)


__all__ = ["GOLDEN", "mix", "uniform"]
