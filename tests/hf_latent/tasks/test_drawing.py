"""Ranges, sides and the draw that all tasks share."""

from __future__ import annotations

from typing import Any

import pytest

from hf_latent.tasks.drawing import draw_distinct, inclusive_range, split_of_key


@pytest.mark.parametrize(("given", "ends"), [(3, (3, 3)), ((1, 4), (1, 4)), ([0, 0], (0, 0)), (None, (7, 9))])
def test_a_range_is_two_ends_or_one_number_for_both(given: Any, ends: tuple[int, int]) -> None:
    assert inclusive_range("num", given, (7, 9)) == ends


@pytest.mark.parametrize("given", [-1, (2, 1), (1, 2, 3), (1,), (1.5, 2), (True, 2), ("1", "2"), "12", (0, 6)])
def test_what_is_no_range_is_refused_with_its_name(given: Any) -> None:
    """Text of two characters has a length of two, and would pass for a pair."""
    with pytest.raises(ValueError, match=r"`num` must be a range within 0\.\.5, got ") as info:
        inclusive_range("num", given, most=5)
    assert repr(given) in str(info.value)


def test_one_key_in_ten_is_on_the_test_side() -> None:
    """Of 10,000 keys, within 5 standard errors."""
    share = sum(split_of_key(f"key {i}") == "test" for i in range(10_000)) / 10_000
    assert abs(share - 0.1) < 5 * 0.3 / 100


def test_the_first_new_instances_of_the_side_are_kept() -> None:
    """Drawn twice, unwanted, of the other side: each is passed over, none is lost."""
    numbers = [n for n in range(600) for _ in range(2)]
    stream = iter(numbers)

    def draw() -> dict[str, Any] | None:
        number = next(stream)
        return None if number % 3 == 0 else {"n": number}

    for split in ("train", "test"):
        stream = iter(numbers)
        expected = [n for n in range(600) if n % 3 and split_of_key(str(n)) == split][:3]
        found = draw_distinct(3, split, draw, lambda instance: str(instance["n"]), what="numbers")
        assert [instance["n"] for instance in found] == expected


def test_a_draw_that_gives_nothing_new_ends() -> None:
    draws = []

    def draw() -> dict[str, Any]:
        draws.append(0)
        return {"n": len(draws) % 5}

    with pytest.raises(ValueError, match=r"Found only \d of 50 train numbers: ask for fewer"):
        draw_distinct(50, "train", draw, lambda instance: str(instance["n"]), what="numbers", max_misses=40)
    assert 40 <= len(draws) <= 50
    with pytest.raises(ValueError, match='`split` must be "train" or "test", got \'dev\''):
        draw_distinct(1, "dev", draw, str, what="numbers")
