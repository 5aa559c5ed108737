"""Entropies, log-probabilities and divergences, against double precision."""

import math

import pytest
import torch

from hf_latent.generation.beliefs.distribution import (
    Distribution,
    distribution_of,
    entropy_of,
    js_divergence,
    kl_divergence,
)
from hf_latent.generation.beliefs.top_k import block_maxima

SPREADS = [0.1, 10.0, 1000.0]
SIZES = [3000, 3008]  # the second is read in blocks


def random_logits(spread: float, size: int, seed: int = 0) -> torch.Tensor:
    """Five rows, a seventh of them impossible."""
    logits = spread * torch.randn(5, size, generator=torch.Generator().manual_seed(seed))
    logits[:, ::7] = float("-inf")
    return logits


def read(logits: torch.Tensor) -> Distribution:
    return distribution_of(logits.clone(), logits.amax(-1, keepdim=True), block_maxima(logits))


@pytest.mark.parametrize("size", [2, 48, 4096])
def test_entropy_of_a_uniform_distribution_is_its_logarithm(size: int) -> None:
    torch.testing.assert_close(entropy_of(torch.full((2, size), 3.0)), torch.full((2,), math.log(size)))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("spread", SPREADS)
def test_entropies_and_probabilities_are_those_of_double_precision(spread: float, size: int) -> None:
    logits = random_logits(spread, size)
    exact = logits.double().log_softmax(-1)
    entropy = -(exact.exp() * exact.clamp(min=-1e6)).sum(-1)
    now = read(logits)
    torch.testing.assert_close(entropy_of(logits).double(), entropy, rtol=2e-6, atol=1e-6)
    assert torch.equal(now.entropy, entropy_of(logits))
    assert torch.equal(now.entropy, entropy_of(logits, logits.amax(-1, keepdim=True)))
    scores = logits.clone()
    assert torch.equal(now.entropy, entropy_of(scores, overwrite=True))
    assert torch.equal(scores, now.score)
    torch.testing.assert_close(now.p.double(), exact.exp(), rtol=1e-5, atol=1e-7)
    log_p = now.score - now.log_normalizer[:, None]
    possible = exact > -1e3
    torch.testing.assert_close(log_p.double()[possible], exact[possible], rtol=1e-6, atol=1e-5)
    assert bool((log_p[~possible] < -900).all())
    assert bool(log_p.isfinite().all())


@pytest.mark.parametrize("spread", SPREADS[:2])
def test_the_divergence_is_that_of_double_precision(spread: float) -> None:
    first, second = random_logits(spread, SIZES[1]), random_logits(spread, SIZES[1], seed=1)
    now, before = (logits.double().log_softmax(-1) for logits in (first, second))
    exact = torch.where(now.isinf(), 0.0, now.exp() * (now - before)).sum(-1)
    found = kl_divergence(read(first), read(second).score, read(second).log_normalizer)
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)


def test_nothing_diverges_from_itself() -> None:
    now = read(random_logits(3.0, SIZES[0]))
    assert kl_divergence(now, now.score, now.log_normalizer).tolist() == [0.0] * 5
    assert js_divergence(now, now.score, now.log_normalizer).tolist() == pytest.approx([0.0] * 5, abs=2e-6)


def test_the_symmetric_divergence_is_bounded_by_two_that_have_nothing_in_common() -> None:
    """By hand: of (1/2, 1/2, 0) and (0, 1, 0) the mean is (1/4, 3/4, 0)."""
    first, second = read(torch.tensor([[0.5, 0.5, 0.0], [1, 0, 0]]).log()), read(torch.tensor([[0.0, 1, 0]] * 2).log())
    half = 0.25 * math.log(4) + 0.75 * math.log(4 / 3) - 0.5 * math.log(2)
    for now, other in ((first, second), (second, first)):
        found = js_divergence(now, other.score, other.log_normalizer)
        assert found.tolist() == pytest.approx([half, math.log(2)], abs=1e-6)


def test_parts_are_those_of_the_whole() -> None:
    now = read(random_logits(3.0, 64 * 4096))
    parts = now.split()
    assert [len(part) for part in parts] == [1] * 5, "so wide that positions are read one by one"
    for name, whole in vars(now).items():
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), whole)
