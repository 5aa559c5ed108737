"""The area under accuracy over tokens per forward, by closed form."""

import math

import pytest

from hf_latent.evaluation.comparison.parallelism import accuracy_under_parallelism


def test_one_point_is_a_rectangle():
    assert accuracy_under_parallelism([(1.0, 1.0)]) == pytest.approx(100)
    assert accuracy_under_parallelism([(4.0, 0.5)], best=1.0) == pytest.approx(200), "the first point is not weighed"


def test_a_curve_that_loses_nothing_is_the_rectangle_to_its_last_point():
    assert accuracy_under_parallelism([(2, 0.8), (1, 0.8), (5, 0.8)]) == pytest.approx(5 * 80)


def test_lost_accuracy_costs_more_than_its_area():
    """By hand: r 1 -> 3, y 80 -> 76, best 80: W(80) = 1, W(76) = exp(-3 * 0.05)."""
    expected = 80 + 2 * (80 + 76 * math.exp(-0.15)) / 2
    assert accuracy_under_parallelism([(1, 0.8), (3, 0.76)]) == pytest.approx(expected)


def test_accuracy_is_weighed_against_the_best_of_all_decoders():
    """Best 100 %: a flat curve at 50 % has W = exp(-1.5) everywhere behind its first point."""
    expected = 50 + 1 * 50 * math.exp(-1.5)
    assert accuracy_under_parallelism([(1, 0.5), (2, 0.5)], best=1.0) == pytest.approx(expected)


def test_points_more_than_five_points_below_the_most_careful_do_not_count():
    assert accuracy_under_parallelism([(1, 0.8), (9, 0.749)]) == pytest.approx(80)
    kept = accuracy_under_parallelism([(1, 0.95), (9, 0.9)])  # exactly 5 points, whatever 0.95 - 0.05 is in binary
    assert kept == pytest.approx(95 + 8 * (95 + 90 * math.exp(-3 * (1 - 0.9 / 0.95))) / 2)


def test_the_most_accurate_of_equally_parallel_points_is_read():
    assert accuracy_under_parallelism([(1, 0.4), (1, 0.8), (1, 0.6)]) == pytest.approx(80)


def test_a_model_that_solves_nothing_has_no_area():
    assert accuracy_under_parallelism([(1, 0.0), (4, 0.0)]) == 0


@pytest.mark.parametrize("points", [[], [(0, 0.5)], [(1, 1.5)], [(float("nan"), 0.5)]])
def test_what_is_no_curve_is_refused(points):
    with pytest.raises(ValueError, match="`points`"):
        accuracy_under_parallelism(points)
