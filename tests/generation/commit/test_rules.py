"""Commit rules on hand-written statistics, and the one decision between floor and ceiling."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_latent.generation.commit.rules import RULES, RuleInputs, choose, choose_best, choose_eligible, ranks

INF = float("inf")


def decide(
    name: str, statistic: list[float], masked: list[bool] | None = None, threshold: float | None = None
) -> list:
    """Columns that rule `name` finds eligible in one row, best first."""
    row = torch.tensor([statistic])
    mask = torch.ones_like(row, dtype=torch.bool) if masked is None else torch.tensor([masked])
    score, eligible = RULES[name].decide(RuleInputs(mask, row, threshold))
    order = ranks(score, mask)[0].tolist()
    return sorted((i for i in range(len(statistic)) if (eligible & mask)[0, i]), key=lambda i: order[i])


@pytest.mark.parametrize("name", ["low_confidence", "margin", "random"])
def test_highest_statistic_goes_first(name: str) -> None:
    assert decide(name, [0.2, 0.9, 0.5]) == [1, 2, 0]


def test_lowest_entropy_goes_first() -> None:
    assert decide("entropy", [0.2, 0.9, 0.5]) == [0, 2, 1]


def test_left_to_right_ignores_the_belief() -> None:
    assert decide("left_to_right", [0.2, 0.9, 0.5], [False, True, True]) == [1, 2]


def test_confidence_of_exactly_the_threshold_is_enough() -> None:
    """The statistic is log odds: of 7/8, 9/10 and 3/4."""
    assert decide("confidence_threshold", [math.log(7), math.log(9), math.log(3)], threshold=0.875) == [1, 0]


def test_a_threshold_of_one_takes_what_is_certain_and_a_threshold_of_zero_everything() -> None:
    """In float32 20 nats are a probability of 1, and were "certain"."""
    assert decide("confidence_threshold", [20.0, INF, 60.0], threshold=1.0) == [1]
    assert decide("confidence_threshold", [-INF, -3.0], threshold=0.0) == [1, 0]


def test_entropy_of_exactly_lambda_is_too_much_for_med() -> None:
    """Lambda 0 then commits one token a step, as the paper has it."""
    assert decide("med", [0.25, 0.1, 0.5], threshold=0.25) == [1]
    assert decide("med", [0.0, 0.1], threshold=0.0) == []


def test_med_left_to_right_stops_at_the_first_uncertain_mask() -> None:
    """What is written already lies between the masks and does not stop the run, whatever its statistic says."""
    statistic, masked = [9.0, 0.1, 9.0, 0.2, 0.7, 0.1], [False, True, False, True, True, True]
    assert decide("med_left_to_right", statistic, masked, threshold=0.5) == [1, 3]


@given(
    entropy=st.lists(st.floats(0, 3, width=32), min_size=1, max_size=6),
    bound=st.floats(0, 4, width=32),
)
@settings(max_examples=60)
def test_entropy_bound_commits_the_largest_allowed_set(entropy: list[float], bound: float) -> None:
    """Enumerates all sets: none that keeps (sum - maximum) within the bound has more members than the rule's."""

    def cost(chosen: tuple[int, ...]) -> float:
        return float(torch.tensor(sorted(entropy[i] for i in chosen)[:-1]).sum())

    subsets = [s for n in range(1, len(entropy) + 1) for s in itertools.combinations(range(len(entropy)), n)]
    costs = {s: cost(s) for s in subsets}
    if any(abs(c - bound) < 1e-5 for c in costs.values()):
        return  # within rounding of the sum
    eligible = decide("entropy_bound", entropy, threshold=bound)
    assert len(eligible) == max(len(s) for s in subsets if costs[s] <= bound)
    assert costs[tuple(sorted(eligible))] <= bound


def test_entropy_of_exactly_the_bound_is_allowed() -> None:
    assert decide("entropy_bound", [0.5, 0.25, 0.5], threshold=0.25) == [1, 0]


def test_entropy_sum_counts_every_entropy() -> None:
    """SDAR's bound, on hand: 0.25 + 0.25 is below 0.75, with 0.3 it is not; entropy_bound leaves the largest out."""
    assert decide("entropy_sum", [0.3, 0.25, 0.25], threshold=0.75) == [1, 2]
    assert decide("entropy_sum", [0.25, 0.5], threshold=0.75) == [0]
    assert decide("entropy_bound", [0.3, 0.25, 0.25], threshold=0.75) == [1, 2, 0]
    assert decide("entropy_sum", [0.0, 0.3, 0.3], [False, True, True], threshold=0.4) == [1]


def test_entropy_bound_never_counts_written_positions() -> None:
    assert decide("entropy_bound", [0.0, 0.3, 0.3], [False, True, True], threshold=0.2) == [1]


def test_unbounded_thresholds_commit_everything() -> None:
    for name, threshold in {"entropy_bound": INF, "med": INF, "med_left_to_right": INF}.items():
        assert sorted(decide(name, [0.5, 2.0, 1.0], threshold=threshold)) == [0, 1, 2]


def test_ties_go_to_the_left() -> None:
    """argsort without `stable=True` breaks ties by chance, another way in every batch shape."""
    score = torch.zeros(1, 40)
    masked = torch.ones(1, 40, dtype=torch.bool)
    assert ranks(score, masked)[0].tolist() == list(range(40))


def test_masked_positions_of_no_score_come_before_written_ones() -> None:
    """A deferred token has an infinite entropy: were it ranked behind written positions, no step could commit it."""
    score = torch.tensor([[-INF, 3.0, -INF, 0.5]])
    masked = torch.tensor([[True, False, True, True]])
    assert ranks(score, masked)[0].tolist() == [1, 3, 2, 0]


rows = st.integers(1, 10).flatmap(
    lambda n: st.lists(
        st.tuples(
            st.lists(st.sampled_from([-INF, 0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n),
            st.lists(st.booleans(), min_size=n, max_size=n),
            st.lists(st.booleans(), min_size=n, max_size=n),
            st.integers(-3, 12),
            st.integers(-3, 12),
        ),
        min_size=1,
        max_size=4,
    )
)


@given(rows)
@settings(max_examples=150)
def test_quota_is_met_exactly_in_every_row(batch: list[tuple]) -> None:
    """Against plain Python, row by row: many ties, no masks, quotas below 0 and above the masks that are left."""
    score, eligible, masked = (torch.tensor([row[i] for row in batch]) for i in range(3))
    floor, ceiling = ([row[i] for row in batch] for i in (3, 4))
    chosen = choose(score, eligible, masked, floor, ceiling)
    best = choose_best(score, masked, floor)
    for b, (s, e, m, low, high) in enumerate(batch):
        order = sorted((i for i in range(len(s)) if m[i]), key=lambda i: (-s[i], i))
        expected = {i for rank, i in enumerate(order) if rank < low or (e[i] and rank < high)}
        assert set(chosen[b].nonzero().flatten().tolist()) == expected
        assert best[b].nonzero().flatten().tolist() == sorted(order[: max(low, 0)])


def test_every_rule_is_named_after_its_key() -> None:
    assert {name: rule.name for name, rule in RULES.items()} == {name: name for name in RULES}


@given(
    rows=st.lists(
        st.lists(
            st.tuples(st.sampled_from([-INF, -1.0, 0.0, 0.5, 2.0]), st.booleans(), st.booleans()),
            min_size=4,
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    )
)
@settings(max_examples=200)
def test_choosing_freely_is_choosing_with_a_floor_of_one_and_no_ceiling(
    rows: list[list[tuple[float, bool, bool]]],
) -> None:
    """Ties, scores of -inf and rows without masks included."""
    score = torch.tensor([[cell[0] for cell in row] for row in rows])
    eligible, masked = (torch.tensor([[cell[i] for cell in row] for row in rows]) for i in (1, 2))
    expected = choose(score, eligible, masked, [1] * len(rows), masked.sum(-1).tolist())
    assert torch.equal(choose_eligible(score, eligible, masked), expected)
