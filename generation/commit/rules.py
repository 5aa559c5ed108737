"""
Commit rules: which masked positions become tokens now.

A rule reads the belief and returns two tensors of shape `(B, L)`: `score` (who goes first) and `eligible` (who may go
together in this step). `choose` turns them into a decision, between a floor and a ceiling of tokens per row.
`B` rows, `L` canvas length. Ties go to the left.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

Statistic = Literal["confidence", "entropy", "margin", "noise"]
LEAST_SCORE = torch.finfo(torch.float32).min


class RuleInputs(NamedTuple):
    """
    What a rule may read.

    Args:
        masked (`torch.BoolTensor` of shape `(B, L)`): positions that may be committed now.
        statistic (`torch.FloatTensor` of shape `(B, L)`, *optional*):
            what the rule `reads`, looked at where `masked`; confidence and margin as log odds in nats.
        threshold (`float`, *optional*): the rule's own knob, named by `knob`.
        stable (`torch.BoolTensor` of shape `(B, L)`, *optional*):
            where the belief has rested for long enough; for a rule that `reads_stability`.
    """

    masked: torch.Tensor
    statistic: torch.Tensor | None
    threshold: float | None
    stable: torch.Tensor | None = None


@dataclass(frozen=True)
class CommitRule:
    """
    A rule and what the loop has to know of it.

    Args:
        name (`str`): value of `decoding`.
        reads (`str`, *optional*): statistic of the belief that it reads.
        decide (callable): `RuleInputs` to `(score, eligible)`.
        knob (`str`, *optional*): generation-config field that becomes `RuleInputs.threshold`.
        adaptive (`bool`): whether the belief says how many are committed (`False`: the schedule does).
        reads_stability (`bool`): whether it looks at `RuleInputs.stable`.
    """

    name: str
    reads: Statistic | None
    decide: Callable[[RuleInputs], tuple[torch.Tensor, torch.Tensor]]
    knob: str | None = None
    adaptive: bool = False
    reads_stability: bool = False


def ranks(score: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Rank of every position by falling `score` among the `masked` of its row, 0 first, ties to the left."""
    order = _order(score, masked)
    positions = torch.arange(score.shape[-1], device=score.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, positions)


def choose(
    score: torch.Tensor, eligible: torch.Tensor, masked: torch.Tensor, floor: list[int], ceiling: list[int]
) -> torch.Tensor:
    """
    The eligible positions up to the `ceiling` best, and in any case the `floor` best.

    score: `(B, L)` float; eligible, masked: `(B, L)` bool; floor, ceiling: of each row. Returns `(B, L)` bool.
    """
    rank = ranks(score, masked)
    least, most = per_row(floor, rank.device), per_row(ceiling, rank.device)
    return masked & ((eligible & (rank < most)) | (rank < least))


def choose_best(score: torch.Tensor, masked: torch.Tensor, quota: list[int]) -> torch.Tensor:
    """What `choose` gives where all are eligible and `quota` is both floor and ceiling."""
    best = _order(score, masked)[:, : max(0, *quota)]
    taken: torch.Tensor | bool = True
    if len(set(quota)) > 1:
        taken = torch.arange(best.shape[1], device=best.device) < per_row(quota, best.device)
    return masked & torch.zeros_like(masked).scatter_(-1, best, taken)


def choose_eligible(score: torch.Tensor, eligible: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """What `choose` gives with a floor of one and no ceiling, without ranking every position."""
    best = _reachable(score, masked).argmax(-1, keepdim=True)  # the first of several
    return masked & eligible.scatter(-1, best, True)


def per_row(values: list[Any], device: torch.device) -> Any:
    """A value for each row as what broadcasts with `(B, L)`: itself where all rows share one, else `(B, 1)`."""
    if len(set(values)) == 1:
        return values[0]
    return torch.tensor(values, device=device)[:, None]


def defer(score: torch.Tensor, eligible: torch.Tensor, deferred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    A rule's `(score, eligible)` with the `deferred` `(B, L)`, bool, behind all others and never along with them: what
    is deferred is written last, by whichever rule, and then by a floor or a schedule alone.
    """
    return score.masked_fill(deferred, float("-inf")), eligible & ~deferred


def _reachable(score: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    # A masked position whose own score is -inf must still come before every position that is not masked.
    return score.clamp(min=LEAST_SCORE).masked_fill(~masked, float("-inf"))


def _order(score: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
    """Columns `(B, L)` by falling score, the masked ones first, ties to the left."""
    return _reachable(score, masked).argsort(dim=-1, descending=True, stable=True)


def by_statistic(inputs: RuleInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Highest statistic first; the schedule says how many."""
    return inputs.statistic, inputs.masked


def by_entropy(inputs: RuleInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest entropy first; the schedule says how many."""
    return -inputs.statistic, inputs.masked


def left_to_right(inputs: RuleInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Left-most first; the schedule says how many."""
    return _leftness(inputs.masked), inputs.masked


def confidence_threshold(inputs: RuleInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """All with confidence of at least the threshold, a probability (Fast-dLLM, arXiv 2505.22618)."""
    return inputs.statistic, inputs.statistic >= log_odds(inputs.threshold)


def klass(inputs: RuleInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """
    All with confidence above the threshold, a probability, whose belief has rested (KLASS, arXiv 2511.05664).

    What is ready goes before what is not, however confident: the most confident goes alone where nothing is ready.
    """
    assert inputs.stable is not None
    ready = inputs.masked & inputs.stable & (inputs.statistic > log_odds(inputs.threshold))
    rank = ranks(inputs.statistic, inputs.masked)
    return torch.where(ready, rank.shape[-1] - rank, -rank).float(), ready


def wide_in(inputs: RuleInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """
    All with confidence above the threshold, a probability, but of n open ones at most 0.7 n, no fewer than 5 and no
    more than 20: the draft of WINO (arXiv 2507.18578), which is to be verified.
    """
    most = (inputs.masked.sum(-1, keepdim=True) * 7 // 10).clamp(min=5, max=20)
    sure = inputs.statistic > log_odds(inputs.threshold)
    return inputs.statistic, sure & (ranks(inputs.statistic, inputs.masked) < most)


def log_odds(probability: float) -> float:
    """log(p / (1 - p)) in nats: what a probability is as a statistic."""
    if not 0 < probability < 1:
        return math.inf if probability >= 1 else -math.inf
    return math.log(probability) - math.log1p(-probability)


def entropy_bound(inputs: RuleInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The longest prefix in order of rising entropy with (sum - maximum) of at most the bound (EB, arXiv 2505.24857).

    The left-hand side bounds the joint mutual information of the tokens, in nats; a bound of 0 commits one token.
    """
    entropy = inputs.statistic.masked_fill(~inputs.masked, float("inf"))
    sorted_entropy, order = entropy.sort(dim=-1, stable=True)
    # Sorted, the maximum of a prefix is its last element: the sum without it is the exclusive cumulative sum.
    before = sorted_entropy.cumsum(-1).roll(1, -1)
    before[:, 0] = 0.0
    # An infinite entropy, of what counts as nothing, belongs to no prefix, wherever it stands among its equals.
    together = (before <= inputs.threshold) & sorted_entropy.isfinite()
    eligible = torch.zeros_like(inputs.masked).scatter_(-1, order, together)
    return -inputs.statistic, eligible


def entropy_sum(inputs: RuleInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The longest prefix in order of rising entropy whose entropies sum to less than the bound (SDAR, arXiv 2510.06303,
    `entropy_bounded` of its engines): they bound the joint entropy of the tokens, in nats.
    """
    entropy = inputs.statistic.masked_fill(~inputs.masked, float("inf"))
    sorted_entropy, order = entropy.sort(dim=-1, stable=True)
    together = sorted_entropy.cumsum(-1) < inputs.threshold
    # Under an infinite bound, too, what counts as nothing goes with nobody.
    eligible = torch.zeros_like(inputs.masked).scatter_(-1, order, together & sorted_entropy.isfinite())
    return -inputs.statistic, eligible


def med(inputs: RuleInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """All with entropy below lambda: multi-token entropy decoding (arXiv 2510.19990, section on MED)."""
    return -inputs.statistic, inputs.statistic < inputs.threshold


def med_left_to_right(inputs: RuleInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """MED's autoregressive variant: the run from the left-most mask up to the first entropy of at least lambda."""
    blocked = inputs.masked & (inputs.statistic >= inputs.threshold)
    return _leftness(inputs.masked), blocked.cumsum(-1) == 0


def _leftness(masked: torch.Tensor) -> torch.Tensor:
    return -torch.arange(masked.shape[-1], device=masked.device, dtype=torch.float32).expand(masked.shape)


RULES: dict[str, CommitRule] = {
    rule.name: rule
    for rule in (
        CommitRule("low_confidence", "confidence", by_statistic),
        CommitRule("random", "noise", by_statistic),
        CommitRule("entropy", "entropy", by_entropy),
        CommitRule("margin", "margin", by_statistic),
        CommitRule("left_to_right", None, left_to_right),
        CommitRule("confidence_threshold", "confidence", confidence_threshold, "confidence_threshold", True),
        CommitRule("wide_in", "confidence", wide_in, "confidence_threshold", True),
        CommitRule("klass", "confidence", klass, "confidence_threshold", True, reads_stability=True),
        CommitRule("entropy_bound", "entropy", entropy_bound, "entropy_bound", True),
        CommitRule("entropy_sum", "entropy", entropy_sum, "entropy_bound", True),
        CommitRule("med", "entropy", med, "entropy_threshold", True),
        CommitRule("med_left_to_right", "entropy", med_left_to_right, "entropy_threshold", True),
    )
}

__all__ = [
    "RULES",
    "CommitRule",
    "RuleInputs",
    "Statistic",
    "choose",
    "choose_best",
    "choose_eligible",
    "defer",
    "log_odds",
    "per_row",
    "ranks",
]
