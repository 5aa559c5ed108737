"""Draw instances until there are enough new ones of a split; ranges and splits that all tasks mean alike."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

__all__ = ["SPLITS", "draw_distinct", "draw_from", "draw_splits", "inclusive_range", "progress", "split_of_key"]

SPLITS = ("train", "test")
PATIENCE = 2.0  # seconds without a progress bar


def split_of_key(key: str) -> str:
    """ "test" for one key in ten, else "train": a hash, so that no seed moves a key to the other side."""
    return "test" if int(hashlib.sha256(key.encode()).hexdigest(), 16) % 10 == 0 else "train"


def draw_from(rng: random.Random, pools: Sequence[Sequence[int]], number: int) -> Iterator[int]:
    """
    `rng.choice(rng.choice(pools))`, `number` times: the same numbers, whatever a release of Python makes of `choice`,
    in a third of the time.
    """
    draw = rng.getrandbits
    sized = [(pool, len(pool), len(pool).bit_length()) for pool in pools]
    most, bits = len(pools), len(pools).bit_length()
    for _ in range(number):
        place = draw(bits)
        while place >= most:
            place = draw(bits)
        pool, size, its_bits = sized[place]
        item = draw(its_bits)
        while item >= size:
            item = draw(its_bits)
        yield pool[item]


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
    return draw_splits({split: num}, draw, key_of, what=what, max_misses=max_misses)[split]


def draw_splits(
    nums: Mapping[str, int],
    draw: Callable[[], dict[str, Any] | None],
    key_of: Callable[[dict[str, Any]], str],
    *,
    what: str,
    max_misses: int = 2000,
) -> dict[str, list[dict[str, Any]]]:
    """
    [`draw_distinct`] for several splits at once: the same instances as one after the other, each drawn once.

    Args:
        nums: split to how many.
    """
    for split in nums:
        if split not in SPLITS:
            raise ValueError(f'`split` must be "train" or "test", got {split!r}.')
    found: dict[str, dict[str, dict[str, Any]]] = {split: {} for split in nums}
    misses = dict.fromkeys(nums, 0)
    missing = [split for split, num in nums.items() if num > 0]
    with progress(sum(nums.values()), f"drawing {what.partition(' with ')[0]}") as advance:
        while missing:
            instance = draw()
            key = None if instance is None else key_of(instance)
            side = None if key is None else split_of_key(key)
            for split in tuple(missing):
                if instance is not None and key is not None and side == split and key not in found[split]:
                    found[split][key] = instance
                    misses[split] = 0
                    advance(1)
                    if len(found[split]) == nums[split]:
                        missing.remove(split)
                    continue
                misses[split] += 1
                if misses[split] == max_misses:
                    raise ValueError(
                        f"Found only {len(found[split])} of {nums[split]} {split} {what}: ask for fewer, or of other "
                        "options."
                    )
    return {split: list(instances.values()) for split, instances in found.items()}


@contextmanager
def progress(total: int, title: str) -> Iterator[Callable[[int], Any]]:
    """A progress bar on standard error, of what takes longer than `PATIENCE` seconds; gives what tells it of steps."""
    from tqdm.auto import tqdm

    with tqdm(total=total, desc=title, delay=PATIENCE, mininterval=0.5, leave=False) as bar:
        yield bar.update
