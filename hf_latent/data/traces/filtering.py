"""
Which traces to keep: by their score, or by a verifier. The order of what is kept stays.

`by` names the column of the score: `score`, or one that was added with `traces.add_column`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from datasets import Dataset


def keep_scored(traces: Dataset, minimum: float, *, by: str = "score") -> Dataset:
    """Those with a score of at least `minimum` nats (0 is certainty)."""
    check_minimum(minimum)
    return traces.select([i for i, score in enumerate(_scores(traces, by)) if score >= minimum])


def keep_top_share(traces: Dataset, share: float, *, by: str = "score") -> Dataset:
    """The `share`, in (0, 1], of all traces with the highest scores, rounded up; the earlier of equal ones."""
    check_share(share)
    scores = _scores(traces, by)
    ranked = sorted(range(len(scores)), key=lambda i: -scores[i])
    return traces.select(sorted(ranked[: -int(-share * len(scores) // 1)]))


def keep_best(traces: Dataset, num: int = 1, *, by: str = "score") -> Dataset:
    """The `num` traces of each question with the highest scores; the earlier of equal ones."""
    if num < 1:
        raise ValueError(f"`num` must be at least 1, got {num!r}.")
    scores, questions = _scores(traces, by), traces["question_id"]
    taken: dict[int, int] = {}
    kept = []
    for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
        taken[questions[i]] = taken.get(questions[i], 0) + 1
        if taken[questions[i]] <= num:
            kept.append(i)
    return traces.select(sorted(kept))


def keep_verified(traces: Dataset, verifier: Callable[[dict[str, Any]], bool]) -> Dataset:
    """Those whose row (`question`, `answer`, `trace`, ...) the `verifier` accepts."""
    return traces.select([i for i, row in enumerate(traces) if verifier(row)])


def separation(scores: Sequence[float], is_right: Sequence[bool]) -> float:
    """
    Area under the ROC curve: probability that a right trace scores higher than a wrong one, ties counting half.

    Raises `ValueError` where all are right or all are wrong.
    """
    if len(scores) != len(is_right):
        raise ValueError(f"`is_right` must be one a score, {len(scores)}, got {len(is_right)}.")
    right = torch.tensor(list(is_right), dtype=torch.bool)
    values = torch.tensor(list(scores), dtype=torch.float64)
    if values.isnan().any():
        raise ValueError(f"`scores` must be numbers, got nan at {int(values.isnan().nonzero()[0])}.")
    good, bad = values[right], values[~right].sort().values
    if not len(good) or not len(bad):
        raise ValueError(f"`is_right` must hold right and wrong traces, got {len(good)} right of {len(values)}.")
    below, not_above = torch.searchsorted(bad, good), torch.searchsorted(bad, good, right=True)
    return float((below + not_above).double().mean() / (2 * len(bad)))


def check_minimum(minimum: float, argument: str = "minimum") -> None:
    """Raise `ValueError` for nan, which no score reaches."""
    if math.isnan(minimum):
        raise ValueError(f"`{argument}` must be a number of nats, got {minimum!r}.")


def check_share(share: float, argument: str = "share") -> None:
    """Raise `ValueError` for a share that is none."""
    if not 0 < share <= 1:
        raise ValueError(f"`{argument}` must lie in (0, 1], got {share!r}.")


def _scores(traces: Dataset, by: str) -> list[float]:
    if by not in traces.column_names:
        raise ValueError(f"`by` must be a column of the traces, one of {traces.column_names}, got {by!r}.")
    scores = list(traces[by])
    for number, score in enumerate(scores):
        if not isinstance(score, int | float) or isinstance(score, bool) or math.isnan(score):
            raise ValueError(f"`by`: {by!r} of trace {number} must be a number, got {score!r}.")
    return scores


__all__ = [
    "check_minimum",
    "check_share",
    "keep_best",
    "keep_scored",
    "keep_top_share",
    "keep_verified",
    "separation",
]
