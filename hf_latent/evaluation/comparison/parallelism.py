"""Accuracy under parallelism: a curve of accuracy over tokens per forward as one number."""

import itertools
import math
from collections.abc import Iterable

PENALTY = 3.0  # alpha of the paper
MARGIN = 0.05  # accuracy that may be lost against the most careful point


def accuracy_under_parallelism(points: Iterable[tuple[float, float]], best: float | None = None) -> float:
    """
    AUP of a decoder: the area under its accuracy over tokens per forward, less where accuracy is lost (d3LLM,
    arXiv 2601.07568, with its alpha 3 and its margin of 5 points).

    Of the points `(r_1, y_1), ..., (r_m, y_m)`, sorted by tokens per forward, those with an accuracy below
    `y_1 - 5 %` are left out; then

        AUP = r_1 y_1 + sum_{i > 1} (r_i - r_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})) / 2,
        W(y) = min(1, exp(-3 (1 - y / best))),

    with y in percent. One point gives `r_1 y_1`: one token per forward, all right, is 100. Of points with the same
    tokens per forward the most accurate is read.

    Args:
        points: tokens per forward (above 0) and accuracy (of 1) of each setting, in any order.
        best: the highest accuracy (of 1) of all decoders that are compared; of these points if None.

    Raises:
        ValueError: without points, and for numbers out of range.
    """
    curve: dict[float, float] = {}
    for parallelism, accuracy in points:
        if not (parallelism > 0 and 0 <= accuracy <= 1):
            raise ValueError(
                f"`points` must be tokens per forward above 0 and accuracies of 1, got {(parallelism, accuracy)}."
            )
        curve[parallelism] = max(accuracy, curve.get(parallelism, 0.0))
    if not curve:
        raise ValueError("`points` must hold at least one point, got none.")
    (first, careful), *_ = ordered = sorted(curve.items())
    best = max(curve.values()) if best is None else best
    # Margins are differences of counts: 0.95 - 0.05 must keep 0.9.
    kept = [point for point in ordered if point[1] >= careful - MARGIN - 1e-9]
    weighed = [(rate, 100 * accuracy * _weight(accuracy, best)) for rate, accuracy in kept]
    steps = itertools.pairwise(weighed)
    return first * 100 * careful + math.fsum((b - a) * (y + z) / 2 for (a, y), (b, z) in steps)


def _weight(accuracy: float, best: float) -> float:
    return min(1.0, math.exp(-PENALTY * (1 - accuracy / best))) if best > 0 else 1.0


__all__ = ["MARGIN", "PENALTY", "accuracy_under_parallelism"]
