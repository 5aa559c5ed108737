"""The belief on hand-written logits: candidates, statistics, filters, and that sampling follows the softmax."""

import math

import pytest
import torch
from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hf_latent.generation.beliefs.belief import (
    Belief,
    BeliefReader,
    sample,
)
from hf_latent.generation.commit.rules import log_odds
from hf_latent.generation.state.noise import uniform

INF = float("inf")
MASK = 4
# Probabilities 0.5, 0.25, 0.125, 0.125 behind a mask token that the model likes best.
LOGITS = torch.tensor([[0.5, 0.25, 0.125, 0.125, 8.0]]).log()


def read(
    logits: torch.Tensor = LOGITS, canvas_ids: torch.Tensor | None = None, noise: float = 0.5, **settings: object
) -> Belief:
    lists = {"processors": LogitsProcessorList(), "filters": LogitsProcessorList()}
    unset = {"suppressed": None, "deferred": None, "reads": None, "with_entropy": True, "temperature": 0.0}
    reader = BeliefReader(mask_token_id=MASK, **(lists | unset | settings))
    return reader(logits.clone(), canvas_ids, torch.full((len(logits),), noise))


def test_the_mask_is_never_a_candidate() -> None:
    """The published samplers commit the mask as a token where it is the most likely one, and the answer has holes."""
    assert read().token.tolist() == [0]
    for noise in torch.linspace(0.001, 0.999, 101).tolist():
        assert int(read(noise=noise, temperature=1.0).token) != MASK


def test_statistics_are_those_of_the_distribution_without_the_mask() -> None:
    assert read(reads="confidence").statistic.item() == pytest.approx(log_odds(0.5), abs=1e-5)
    assert read(reads="margin").statistic.item() == pytest.approx(log_odds(0.25), abs=1e-5)
    assert read(reads="entropy").statistic.item() == pytest.approx(1.75 * math.log(2))
    assert read().entropy.item() == pytest.approx(1.75 * math.log(2))
    assert read(with_entropy=False).entropy is None


def test_statistics_are_those_before_temperature() -> None:
    """MED defines its entropies so; a temperature would otherwise shift every threshold."""
    for reads in ("confidence", "margin", "entropy"):
        cold = read(reads=reads, temperature=0.0).statistic
        warm = read(reads=reads, temperature=3.0, noise=0.01).statistic  # noise 0.01 draws the most likely token
        torch.testing.assert_close(cold, warm)


def test_confidence_is_that_of_the_drawn_token() -> None:
    belief = read(reads="confidence", temperature=1.0, noise=0.7)
    assert belief.token.tolist() == [1]
    assert belief.statistic.item() == pytest.approx(log_odds(0.25), abs=1e-5)


def test_one_candidate_left_is_certain() -> None:
    """-inf - -inf and 0 x -inf are nan, and a nan is never committed."""
    filters = LogitsProcessorList([TopKLogitsWarper(top_k=1)])
    for temperature in (0.0, 0.7):
        for reads, certain in {"confidence": INF, "margin": INF, "entropy": 0.0}.items():
            belief = read(reads=reads, filters=filters, temperature=temperature)
            assert belief.statistic.item() == certain
            assert belief.entropy.item() == 0.0
            assert belief.token.tolist() == [0]


@pytest.mark.parametrize("vocab_size", [6, 1000])
@pytest.mark.parametrize("reads", ["confidence", "margin"])
def test_what_is_nearly_certain_has_an_order(reads: str, vocab_size: int) -> None:
    """
    In float32 the softmax is 1 from 17 nats on: positions 20 and 30 nats sure were a tie, and the left one went first.
    Against float64, whose probabilities of the others are exact far beyond.
    """
    gaps = torch.tensor([0.5, 3.0, 16.0, 18.0, 20.0, 24.0, 30.0, 36.0, 42.0], dtype=torch.float64)
    logits = 0.5 * torch.randn(len(gaps), vocab_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    logits[:, 1] = logits[:, :].amax(-1) + gaps
    p = logits.index_fill(-1, torch.tensor([MASK]), -INF).softmax(-1)
    rest = p.index_fill(-1, torch.tensor([1]), 0.0)
    second = rest.amax(-1) if reads == "margin" else torch.zeros(len(gaps), dtype=torch.float64)
    exact = (p[:, 1] - second).log() - (rest.sum(-1) + second).log()
    statistic = read(logits.float(), reads=reads).statistic
    torch.testing.assert_close(statistic.double(), exact, atol=3e-2, rtol=0)
    assert (statistic.diff() > 0.1).all()


@pytest.mark.parametrize("reads", ["confidence", "margin"])
def test_equal_positions_stay_a_tie(reads: str) -> None:
    """So that the left one goes first, as before."""
    statistic = read(torch.cat([LOGITS, LOGITS * 30, LOGITS, LOGITS * 30]), reads=reads).statistic
    assert statistic[0] == statistic[2] < statistic[1] == statistic[3]
    assert read(torch.zeros(1, 5), reads="margin").statistic.item() == -INF  # no margin at all


def test_suppressed_tokens_leave_distribution_and_candidates() -> None:
    belief = read(reads="confidence", suppressed=torch.tensor([0]))
    assert belief.token.tolist() == [1]
    assert belief.statistic.item() == pytest.approx(log_odds(0.5), abs=1e-5)


def test_a_processor_cannot_bring_back_what_is_suppressed() -> None:
    """One that writes all scores anew did: the mask became a token."""

    def rewrite(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.tensor([[5.0, 1.0, 2.0, 3.0, 9.0]])

    belief = read(
        processors=LogitsProcessorList([rewrite]), suppressed=torch.tensor([0]), canvas_ids=torch.zeros(1, 3).long()
    )
    assert belief.token.tolist() == [3]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_deferred_tokens_are_written_last_but_stay_candidates(temperature: float) -> None:
    """The reference's `confidence_eos_eot_inf`: the token is written, when nothing else is left."""
    logits = torch.cat([LOGITS, LOGITS.roll(1, -1).index_fill(-1, torch.tensor([0]), -20.0)])
    deferred = torch.tensor([0])
    for reads, last in {"confidence": -INF, "margin": -INF, "entropy": INF}.items():
        belief = read(logits, reads=reads, deferred=deferred, temperature=temperature, noise=0.2)
        assert belief.token[0] == 0
        assert belief.statistic[0] == last
        assert torch.isfinite(belief.statistic[1]) and belief.statistic[1] != last
        torch.testing.assert_close(belief.entropy[0], torch.tensor(1.75 * math.log(2)))


def test_deferred_tokens_have_no_part_in_the_statistics_of_others() -> None:
    """Of 1/4, 1/2, 1/8, 1/8 with the first deferred, the rule reads 2/3, 1/6, 1/6; reported is the whole entropy."""
    logits = torch.tensor([[0.25, 0.5, 0.125, 0.125, 8.0]]).log()
    entropy = -(2 / 3 * math.log(2 / 3) + 2 / 6 * math.log(1 / 6))
    for reads, value in {"confidence": log_odds(2 / 3), "margin": log_odds(1 / 2), "entropy": entropy}.items():
        belief = read(logits, reads=reads, deferred=torch.tensor([0]))
        assert belief.token.tolist() == [1]
        assert belief.statistic.item() == pytest.approx(value, abs=1e-5)
        assert belief.entropy.item() == pytest.approx(1.75 * math.log(2))


def test_deferring_everything_gives_no_nan() -> None:
    filters = LogitsProcessorList([TopKLogitsWarper(top_k=1)])
    for reads in ("confidence", "margin", "entropy"):
        belief = read(reads=reads, deferred=torch.arange(5), filters=filters)
        assert not belief.statistic.isnan().any()
        assert belief.entropy.tolist() == [0.0]


def test_processors_see_canvas_and_scores_without_the_mask() -> None:
    seen = []

    def look(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append((ids.tolist(), scores.clone()))
        return scores

    read(processors=LogitsProcessorList([look]), canvas_ids=torch.tensor([[1, 4, 2]]))
    ((ids, scores),) = seen
    assert ids == [[1, 4, 2]]
    assert scores[0, MASK] == float("-inf")
    assert torch.equal(scores[:, :MASK], LOGITS[:, :MASK])


def test_half_precision_logits_are_read_in_float32() -> None:
    belief = read(LOGITS.bfloat16(), reads="confidence")
    assert belief.statistic.dtype == torch.float32
    assert belief.entropy.dtype == torch.float32


def draws(logits: torch.Tensor, count: int, seed: int = 0, **settings: object) -> torch.Tensor:
    """How often each token is drawn in `count` draws from the one row of `logits`."""
    noise = uniform(seed, 0, torch.arange(count))
    reader = BeliefReader(
        mask_token_id=MASK,
        suppressed=None,
        deferred=None,
        reads=None,
        with_entropy=False,
        **({"processors": LogitsProcessorList(), "filters": LogitsProcessorList()} | settings),
    )
    tokens = reader(logits.repeat(count, 1), torch.zeros(count, 1).long(), noise).token
    return tokens.bincount(minlength=logits.shape[1]).double()


def assert_follows(counts: torch.Tensor, probability: torch.Tensor) -> None:
    """Chi-square, p > 1e-6: seeds are fixed, so that no run fails by chance; odds of a false alarm when written."""
    assert (counts[probability == 0] == 0).all()
    counts, probability = counts[probability > 0], probability[probability > 0]
    if len(counts) == 1:
        return
    statistic = ((counts - counts.sum() * probability) ** 2 / (counts.sum() * probability)).sum()
    p_value = torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2.0).double(), statistic / 2)
    assert p_value > 1e-6, (counts, probability)


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_samples_follow_the_tempered_softmax(temperature: float) -> None:
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(3)) * 2
    expected = (logits.index_fill(-1, torch.tensor([MASK]), float("-inf")) / temperature).double().softmax(-1)[0]
    assert_follows(draws(logits, 20_000, temperature=temperature), expected)


@pytest.mark.parametrize(
    "warpers",
    [
        [TopKLogitsWarper(top_k=3)],
        [TopPLogitsWarper(top_p=0.7)],
        [MinPLogitsWarper(min_p=0.2)],
        [TopKLogitsWarper(top_k=8), TopPLogitsWarper(top_p=0.8)],
        [TopPLogitsWarper(top_p=0.0)],
    ],
    ids=["top_k", "top_p", "min_p", "top_k and top_p", "top_p of 0"],
)
def test_filtered_samples_follow_transformers_warpers(warpers: list) -> None:
    """Temperature first, then the filters, as `generate` of an autoregressive model does."""
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(4)) * 2
    scores = logits.index_fill(-1, torch.tensor([MASK]), float("-inf")) / 1.3
    for warper in warpers:
        scores = warper(None, scores)
    filters = LogitsProcessorList(warpers)
    assert_follows(draws(logits, 20_000, seed=1, temperature=1.3, filters=filters), scores.double().softmax(-1)[0])


def test_sampling_inverts_the_cumulative_distribution() -> None:
    """By hand, at the edges too: tokens of no probability are not drawn, at either end."""
    logits = torch.tensor([[float("-inf"), 0.0, float("-inf"), 0.0, float("-inf")]])
    for noise, token in {1e-7: 1, 0.49: 1, 0.51: 3, 1 - 1e-7: 3}.items():
        assert sample(logits, torch.tensor([noise])).tolist() == [token]


def test_sampling_a_large_vocabulary_stays_inside_it() -> None:
    """A cumulative sum in float32 may end below or above 1."""
    logits = torch.randn(3, 126_464, generator=torch.Generator().manual_seed(0))
    for noise in (2.0**-24, 0.5, 1 - 2.0**-24):
        tokens = sample(logits, torch.full((3,), noise))
        assert ((tokens >= 0) & (tokens < 126_464)).all()
