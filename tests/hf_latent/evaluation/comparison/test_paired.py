"""Differences on the same examples, by closed form."""

import math

import pytest

from hf_latent.evaluation.comparison.paired import paired_difference


def test_the_error_of_right_and_wrong_answers_follows_from_the_examples_that_differ():
    """b for the first only, c for the second only: se^2 = ((b + c) - (b - c)^2 / n) / (n (n - 1))."""
    first = [1, 1, 1, 1, 0, 0, 0, 1, 1, 0]
    second = [1, 0, 0, 0, 1, 0, 0, 1, 1, 0]
    found = paired_difference(first, second)
    n, b, c = 10, 3, 1
    assert (found.num_examples, found.num_better, found.num_worse) == (n, b, c)
    assert found.value == pytest.approx((b - c) / n)
    assert found.standard_error == pytest.approx(math.sqrt(((b + c) - (b - c) ** 2 / n) / (n * (n - 1))))


def test_answers_that_agree_leave_no_doubt_whatever_the_accuracy():
    found = paired_difference([1, 0, 1], [1, 0, 1])
    assert (found.value, found.standard_error) == (0, 0)


def test_means_over_wordings_are_one_number_an_example():
    """d = 1/2, 0: mean 1/4, se^2 = (1/16 + 1/16) / 2."""
    assert paired_difference([1.0, 0.5], [0.5, 0.5]).standard_error == pytest.approx(0.25)


def test_one_example_has_no_known_error():
    assert math.isnan(paired_difference([1], [0]).standard_error)


def test_other_examples_are_refused():
    with pytest.raises(ValueError, match="got 2 and 1"):
        paired_difference([1, 0], [1])
