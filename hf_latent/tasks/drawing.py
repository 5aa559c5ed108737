"""Draw instances until there are enough new ones of a split; ranges and splits that all tasks mean alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

__all__ = ["SPLITS", "draw_distinct", "inclusive_range", "split_of_key"]

SPLITS = ("train", "test")


def split_of_key(key: str) -> str:
    """ "test" for one key in ten, else "train": a hash, so that no seed moves a key to the other side."""
    return "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10 == 0 else "train"


def inclusive_range(
    name: str, given: tuple[int, int] | int | None, default: tuple[int, int] = (0, 0), most: int | None = None
) -> tuple[int, int]:
    """
    Both ends of a range of whole numbers from 0.

    Args:
        name (`str`): of the argument, for the message.
        given: the two ends, a number that is both, or `None` for `default`. A list, as JSON has it, is a pair, too.
        most (`int` or `None`): the largest number allowed.

    Raises:
        ValueError: if it is no range, or not within 0..`most`.
    """
    if given is None:
        return default
    ends = (given, given) if isinstance(given, int) else tuple(given)
    is_pair = len(ends) == 2 and all(isinstance(end, int) and not isinstance(end, bool) for end in ends)
    if not is_pair or not 0 <= ends[0] <= ends[1] or (most is not None and ends[1] > most):
        within = "of whole numbers from 0" if most is None else f"within 0..{most}"
        raise ValueError(f"`{name}` must be a range {within}, got {given!r}.")
    return ends[0], ends[1]


def draw_distinct(
    num: int,
    split: str,
    draw: Callable[[], dict[str, Any] | None],
    key_of: Callable[[dict[str, Any]], str],
    *,
    what: str,
    max_misses: int = 2000,
) -> list[dict[str, Any]]:
    """
    The first `num` instances of a split that `draw` gives, no two of one key.

    Args:
        draw: gives the next instance, or `None` for one that is not wanted.
        key_of: what an instance is, whatever way it is written; decides on which side it is, too.
        what (`str`): names the instances and their options in the message.
        max_misses (`int`): draws after which to give up.

    Raises:
        ValueError: for an unknown split, or if no new instance turns up in `max_misses` draws.
    """
    if split not in SPLITS:
        raise ValueError(f'`split` must be "train" or "test", got {split!r}.')
    found: dict[str, dict[str, Any]] = {}
    misses = 0
    while len(found) < num:
        instance = draw()
        key = None if instance is None else key_of(instance)
        if instance is not None and key is not None and key not in found and split_of_key(key) == split:
            found[key] = instance
            misses = 0
        elif (misses := misses + 1) == max_misses:
            raise ValueError(f"Found only {len(found)} of {num} {split} {what}: ask for fewer, or of other options.")
    return list(found.values())
