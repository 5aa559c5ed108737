"""Two decoders on the same examples: what one does better, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class PairedDifference:
    """
    Args:
        value: mean of the examples' differences, first minus second.
        standard_error: of `value`, from the scatter of the differences; nan for one example.
        num_examples: that both have answered.
        num_better, num_worse: examples on which the first is better, and worse.
    """

    value: float
    standard_error: float
    num_examples: int
    num_better: int
    num_worse: int


def paired_difference(first: Sequence[float], second: Sequence[float]) -> PairedDifference:
    """
    Mean difference of two decoders over the examples that both have answered, and its standard error.

    `se^2 = sum_i (d_i - mean d)^2 / (n (n - 1))` with `d_i = first_i - second_i`. What makes an example hard is the
    same for both and cancels, so this is less than what the errors of two separate accuracies suggest.

    Args:
        first, second: of each example, in the same order: 1 where it is right, 0 where it is wrong, or a mean of such.

    Raises:
        ValueError: for lists that are empty or differ in length.
    """
    if len(first) != len(second) or not first:
        raise ValueError(
            f"`first` and `second` must hold the same examples, at least one; got {len(first)} and {len(second)}."
        )
    num = len(first)
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean = math.fsum(differences) / num
    squares = math.fsum((d - mean) ** 2 for d in differences)
    return PairedDifference(
        value=mean,
        standard_error=math.sqrt(squares / (num * (num - 1))) if num > 1 else float("nan"),
        num_examples=num,
        num_better=sum(d > 0 for d in differences),
        num_worse=sum(d < 0 for d in differences),
    )


__all__ = ["PairedDifference", "paired_difference"]
