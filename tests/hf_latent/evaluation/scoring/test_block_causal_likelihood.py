"""Likelihoods of block-causal models: every block by itself, given the finished blocks before it, by enumeration."""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hf_latent import LatentTokenConfig, LatentTokenForMaskedDiffusion
from hf_latent.evaluation.scoring.encoding import ScoredText
from hf_latent.evaluation.scoring.estimators import estimate, would_write
from hf_latent.evaluation.scoring.likelihood import error_of_stratified_mean

VOCABULARY, MASK, SIZE = 5, 4, 2

TEXTS = [
    ScoredText([1, 2, 0, 3, 1], [False, True, True, True, True], 10),
    ScoredText([2, 2, 3, 1], [False, True, False, True], 11),
    ScoredText([3, 0, 1], [True, True, True], 12),
]


@pytest.fixture(scope="module", params=[False, True], ids=["own state", "state before"])
def model(request: Any) -> Any:
    """Random weights, sharp enough that no two conditionals are alike; a token is read from its own state or not."""
    torch.manual_seed(3)
    text = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 2, "vocab_size": VOCABULARY}
    kind = {"attention": "block_causal", "block_size": SIZE, "shift_logits": request.param}
    model = LatentTokenForMaskedDiffusion(LatentTokenConfig(text_config=text, mask_token_id=MASK, **kind)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6)
    return model


@torch.no_grad()
def cross_entropy(model: Any, ids: list[int], masked: Any, place: int) -> float:
    """Of the token at `place` where the text ends with its block: what decoding reads when it writes that block."""
    end = min(len(ids), (place // SIZE + 1) * SIZE)
    noisy = torch.tensor([[MASK if i in masked else token for i, token in enumerate(ids[:end])]])
    logits = model(noisy).logits[0, place].double()
    logits[MASK] = -math.inf
    return -float(logits.log_softmax(-1)[ids[place]])


def scored_of_blocks(text: ScoredText) -> Iterator[list[int]]:
    for start in range(0, len(text.ids), SIZE):
        if places := [i for i in range(start, min(start + SIZE, len(text.ids))) if text.scored[i]]:
            yield places


def exact_bound(model: Any, text: ScoredText) -> float:
    total = 0.0
    for places in scored_of_blocks(text):
        for size in range(1, len(places) + 1):
            weight = 1 / (size * math.comb(len(places), size))
            for chosen in itertools.combinations(places, size):
                total += weight * sum(cross_entropy(model, text.ids, chosen, place) for place in chosen)
    return total


def exact_chain(model: Any, text: ScoredText) -> float:
    return sum(
        cross_entropy(model, text.ids, places[k:], place)
        for places in scored_of_blocks(text)
        for k, place in enumerate(places)
    )


@pytest.mark.parametrize(("estimator", "tolerance"), [("masked_count", 0.05), ("continuous_time", 0.15)])
def test_the_bound_is_the_sum_over_blocks_that_enumeration_gives(model: Any, estimator: str, tolerance: float) -> None:
    """Noise in an earlier block, or the whole text's weights, miss by more; 5 standard errors: 1e-6."""
    for text, draws in zip(TEXTS, estimate(model, TEXTS, estimator=estimator, num_samples=1000), strict=True):
        exact, error = exact_bound(model, text), error_of_stratified_mean(draws)
        assert error < tolerance * exact
        assert float(draws.mean()) == pytest.approx(exact, abs=5 * error + 1e-4)


def test_the_chain_reads_a_token_of_every_block_in_each_forward(model: Any) -> None:
    for text, draws in zip(TEXTS, estimate(model, TEXTS, estimator="chain", batch_size=3), strict=True):
        assert len(draws) == max(len(places) for places in scored_of_blocks(text))
        assert float(draws.sum()) == pytest.approx(exact_chain(model, text), rel=1e-4)


def test_the_chain_is_a_distribution_over_texts(model: Any) -> None:
    """Also where the first token of a block is read from the block before, which must be finished for it."""
    texts = [ScoredText([1, *ids], [False, True, True, True], 0) for ids in itertools.product(range(MASK), repeat=3)]
    scores = [float(draws.sum()) for draws in estimate(model, texts, estimator="chain", batch_size=64)]
    assert sum(math.exp(-score) for score in scores) == pytest.approx(1.0, abs=1e-5)


def test_would_write_agrees_with_generate(model: Any) -> None:
    knobs = {"decoding": "left_to_right", "max_new_tokens": 5, "eos_token_id": None, "max_denoising_steps": 5}
    written = model.generate(torch.tensor([[1, 2, 3]]), **knobs)[0].tolist()
    others = [[*written[:i], (written[i] + 1) % MASK, *written[i + 1 :]] for i in range(3, 8)]
    texts = [ScoredText(ids, [False] * 3 + [True] * 5, 0) for ids in (written, *others)]
    assert would_write(model, texts) == [True] + [False] * 5
