"""Latent refinement: the mixture on paper, what is remembered, how far beliefs have moved."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hf_latent.generation.beliefs.distribution import Distribution, distribution_of
from hf_latent.generation.beliefs.refinement import RefinementSettings, RefinementState, mix_embeddings
from hf_latent.generation.beliefs.top_k import block_maxima

# The mixture. Four tokens in the plane; the last is the mask.
TABLE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [8.0, 4.0]])
HALVES = [1 / 2, 1 / 4, 1 / 8, 1 / 8]  # entropy 1.75 log 2, of log 4 at most: 7/8
# Probabilities, top_p, ratio, and alpha and mixture as worked out by hand.
MIXTURES = {
    "nucleus of two": (HALVES, 0.7, 0.8, 0.1, [2 / 3, 1 / 3]),
    "nucleus whose mass is just enough": (HALVES, 0.7499, 0.8, 0.1, [2 / 3, 1 / 3]),
    "nucleus of one": (HALVES, 0.4999, 0.8, 0.1, [1.0, 0.0]),
    "nucleus of one for any small mass": (HALVES, 1e-6, 0.8, 0.1, [1.0, 0.0]),
    "everything": (HALVES, 1.0, 0.8, 0.1, [1 / 2 + 1 / 8 + 1, 1 / 4 + 1 / 8 + 1 / 2]),
    "all of alpha": (HALVES, 0.7, 1.0, 1 / 8, [2 / 3, 1 / 3]),
    "no ratio": (HALVES, 0.7, 0.0, 0.0, [2 / 3, 1 / 3]),
    "certain": ([0.0, 0.0, 1.0, 0.0], 0.9, 0.2, 0.2, [1.0, 1.0]),
    "certain, everything": ([0.0, 0.0, 1.0, 0.0], 1.0, 1.0, 1.0, [1.0, 1.0]),
    "uncertain": ([1 / 4] * 4, 1.0, 0.9, 0.0, [0.0, 0.0]),
    "mask suppressed": ([1 / 2, 1 / 4, 1 / 4, 0.0], 1.0, 0.4, 0.1, [3 / 4, 1 / 2]),
    "two left": ([0.0, 1 / 2, 1 / 2, 0.0], 0.9, 0.5, 0.25, [1 / 2, 1.0]),
}


def settings_of(top_p: float = 0.9, ratio: float = 0.15) -> RefinementSettings:
    return RefinementSettings(top_p=top_p, ratio=ratio, max_steps=0, refinement_kl=0.0, stop_kl=0.0)


def read(logits: torch.Tensor) -> Distribution:
    return distribution_of(logits.clone(), logits.amax(-1, keepdim=True), block_maxima(logits))


def mix(logits: torch.Tensor, table: torch.Tensor, mask: int, knobs: RefinementSettings) -> torch.Tensor:
    return mix_embeddings(read(logits), nn.Embedding.from_pretrained(table), table[mask][None].float(), knobs)


@pytest.mark.parametrize("case", MIXTURES)
def test_the_mixture_is_that_of_the_paper(case: str) -> None:
    """Entropy over the whole vocabulary as a share of log V; probabilities renormalised on the nucleus."""
    p, top_p, ratio, alpha, mixture = MIXTURES[case]
    expected = [(1 - alpha) * m + alpha * x for m, x in zip([8.0, 4.0], mixture, strict=True)]
    for offset in (0.0, 30.0, -30.0):  # logits are no log-probabilities
        logits = torch.tensor([p]).log() + offset
        found = mix(logits, TABLE, 3, settings_of(top_p, ratio))
        assert found[0].tolist() == pytest.approx(expected, abs=2e-5)


def mix_plainly(logits: list[float], table: list[list[float]], mask: int, top_p: float, ratio: float) -> list[float]:
    """Section 3 of arXiv 2510.11052, one position."""
    largest = max(logits)
    weights = [math.exp(x - largest) for x in logits]
    p = [w / sum(weights) for w in weights]
    entropy = -sum(x * math.log(x) for x in p if x > 0)
    alpha = ratio * (1 - entropy / math.log(len(p)))
    kept, mass = [], 0.0
    for token in sorted(range(len(p)), key=lambda v: -p[v]):
        if mass >= top_p:
            break
        kept.append(token)
        mass += p[token]
    return [
        (1 - alpha) * table[mask][d] + alpha * sum(p[v] / mass * table[v][d] for v in kept)
        for d in range(len(table[0]))
    ]


@given(
    vocabulary=st.sampled_from([5, 64, 65, 700]),
    scale=st.sampled_from([0.01, 0.3, 2.0, 8.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    suppressed=st.integers(0, 3),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_the_mixture_of_random_beliefs(
    vocabulary: int, scale: float, top_p: float, suppressed: int, seed: int
) -> None:
    """Flat beliefs over a vocabulary beyond a small nucleus included, in one call with sharp ones."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, vocabulary, generator=generator, dtype=torch.float64) * torch.tensor([[scale], [9.0], [1]])
    logits[:, :suppressed] = -math.inf
    table = torch.randn(vocabulary, 3, generator=generator, dtype=torch.float64)
    expected = [mix_plainly(row, table.tolist(), 0, top_p, 0.7) for row in logits.tolist()]
    found = mix(logits.float(), table, 0, settings_of(top_p, 0.7))
    assert found.tolist() == [pytest.approx(row, abs=2e-3 / vocabulary**0.5) for row in expected]


@pytest.mark.parametrize(("top_p", "ratio"), [(0.0, 0.5), (0.5, 0.0), (0.0, 0.0)])
def test_nothing_is_mixed_without_nucleus_or_ratio(top_p: float, ratio: float) -> None:
    memory = RefinementState(nn.Embedding.from_pretrained(TABLE), 3, settings_of(top_p, ratio))
    at = torch.tensor([0]), torch.tensor([1])
    memory.update(at, read(torch.tensor([HALVES]).log()), torch.tensor([True]), torch.Size([1, 2]))
    ids = torch.tensor([[0, 3]])
    assert not memory.mixes
    assert torch.equal(memory.embeddings(ids, ids == 3), memory.embed(ids))


def test_only_open_remembered_positions_are_mixed() -> None:
    """What was written since, what is not of the block, and what is given look like tokens and masks."""
    memory = RefinementState(nn.Embedding.from_pretrained(TABLE), 3, settings_of(0.7, 0.8))
    at = torch.tensor([0, 0, 1, 1]), torch.tensor([1, 2, 0, 3])
    keep = torch.tensor([True, True, True, False])
    memory.update(at, read(torch.tensor([HALVES] * 4).log()), keep, torch.Size([2, 4]))
    ids = torch.tensor([[0, 2, 3, 3], [3, 1, 0, 3]])
    soft = [0.9 * 8 + 0.1 * 2 / 3, 0.9 * 4 + 0.1 / 3]
    expected = TABLE[ids]
    expected[0, 2] = expected[1, 0] = torch.tensor(soft)
    for length in (4, 3):
        found = memory.embeddings(ids[:, :length], ids[:, :length] == 3)
        assert torch.allclose(found, expected[:, :length], atol=1e-6)
    memory.select(torch.tensor([1]))
    assert torch.allclose(memory.embeddings(ids[1:], ids[1:] == 3), expected[1:], atol=1e-6)


def test_the_divergence_is_from_the_newer_belief_to_the_older() -> None:
    """By hand: 1/2 log(1/2 : 1/4) + 1/2 log(1/2 : 3/4). The paper's p_t is the newer one, time runs down."""
    memory = RefinementState(nn.Embedding.from_pretrained(TABLE), 3, settings_of())
    at = torch.tensor([0, 0]), torch.tensor([0, 2])
    before = read(torch.tensor([[1 / 4, 3 / 4, 0.0, 0.0]] * 2).log())
    now = read(torch.tensor([[1 / 2, 1 / 2, 0.0, 0.0], [1 / 4, 3 / 4, 0.0, 0.0]]).log())
    both, shape = torch.tensor([True, True]), torch.Size([1, 3])
    assert memory.update(at, before, both, shape).isnan().all()
    expected = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    assert memory.update(at, now, both, shape).tolist() == pytest.approx([expected, 0.0], abs=1e-6)
    elsewhere = torch.tensor([0, 0]), torch.tensor([1, 2])
    assert memory.update(elsewhere, now, both, shape).isnan().tolist() == [True, False]
    memory.update(at, before, torch.tensor([False, True]), shape)
    assert memory.update(at, now, both, shape).isnan().tolist() == [True, False]
