"""Filters by hand, and the area under the curve against its definition."""

import itertools
import random

import pytest
from datasets import Dataset

from hf_latent.data import keep_best, keep_scored, keep_top_share, keep_verified, separation


@pytest.fixture
def traces() -> Dataset:
    rows = [(0, -1.0), (0, -3.0), (1, -2.0), (1, -2.0), (2, -9.0)]
    return Dataset.from_list([{"question_id": q, "score": s, "mean": -s, "i": i} for i, (q, s) in enumerate(rows)])


def test_filters_keep_what_they_say_in_order(traces):
    assert keep_scored(traces, -2.0)["i"] == [0, 2, 3]
    assert keep_scored(traces, 3.0, by="mean")["i"] == [1, 4]
    assert keep_top_share(traces, 0.4)["i"] == [0, 2], "of equal scores the earlier"
    assert keep_top_share(traces, 0.41)["i"] == [0, 2, 3], "rounded up"
    assert keep_top_share(traces, 1)["i"] == [0, 1, 2, 3, 4]
    assert keep_best(traces)["i"] == [0, 2, 4]
    assert keep_best(traces, 2)["i"] == [0, 1, 2, 3, 4]
    assert keep_best(traces, by="mean")["i"] == [1, 2, 4]
    assert keep_verified(traces, lambda row: row["question_id"] == 1)["i"] == [2, 3]
    assert len(keep_scored(traces, 0.0)) == 0


def test_separation_is_the_share_of_pairs_in_order():
    """Every pair of a right and a wrong trace, ties counting half."""
    rng = random.Random(0)
    scores = [rng.randint(-5, 0) / 2 for _ in range(60)]
    right = [rng.random() < 0.4 for _ in scores]
    good, bad = ([s for s, r in zip(scores, right, strict=True) if r is flag] for flag in (True, False))
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(good, bad)]
    assert separation(scores, right) == pytest.approx(sum(pairs) / len(pairs))
    assert separation([1.0, 0.0], [True, False]) == 1.0


def test_misuse_is_refused_by_name(traces):
    with pytest.raises(ValueError, match=r"`share` must lie in \(0, 1\], got 0"):
        keep_top_share(traces, 0)
    with pytest.raises(ValueError, match="`minimum` must be a number of nats, got nan"):
        keep_scored(traces, float("nan"))
    with pytest.raises(ValueError, match="`num` must be at least 1, got 0"):
        keep_best(traces, 0)
    with pytest.raises(ValueError, match=r"`by` must be a column of the traces, one of .*, got 'nats'"):
        keep_scored(traces, 0, by="nats")
    with pytest.raises(ValueError, match="`is_right` must hold right and wrong traces, got 2 right of 2"):
        separation([1.0, 2.0], [True, True])
    with pytest.raises(ValueError, match="`is_right` must be one a score, 2, got 1"):
        separation([1.0, 2.0], [True])
