"""The smallest sets of tokens with a mass: small ones by their largest, large ones by bits, and the mean over both."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hf_latent.generation.beliefs.distribution import Distribution, distribution_of
from hf_latent.generation.beliefs.nucleus import expected_embedding, large_nucleus, small_nucleus
from hf_latent.generation.beliefs.top_k import BLOCK, MIN_BLOCKS_PER_VALUE, block_maxima

WIDE = BLOCK * MIN_BLOCKS_PER_VALUE * 8  # a vocabulary whose eight most likely tokens are looked for in blocks


def read(logits: torch.Tensor) -> Distribution:
    return distribution_of(logits.clone(), logits.amax(-1, keepdim=True), block_maxima(logits))


def smallest_set(p: torch.Tensor, top_p: float) -> list[int]:
    """Ids of the nucleus of `(V,)` float64, in order."""
    best = p.sort(descending=True)
    size = int((best.values.cumsum(-1) < top_p - 1e-6).sum()) + 1
    return sorted(best.indices[:size].tolist())


@given(
    vocabulary=st.sampled_from([4, 64, 600, WIDE]),
    scale=st.sampled_from([0.1, 1.0, 6.0]),
    size=st.sampled_from([1, 8, 64]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30)
def test_the_nucleus_is_the_smallest_set_with_the_mass(vocabulary: int, scale: float, size: int, seed: int) -> None:
    logits = torch.randn(4, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale
    for top_p in (0.1, 0.6, 0.95):
        now = read(logits)
        share, tokens, lacking = small_nucleus(now.p, now.block_max, top_p, size)
        large = large_nucleus(logits.softmax(-1), top_p)
        for i, row in enumerate(logits.double()):
            p = row.softmax(-1)
            nucleus = smallest_set(p, top_p)
            assert lacking[i] == (len(nucleus) > size)
            kept = large[i].nonzero().squeeze(-1)
            more = sorted(set(kept.tolist()) - set(nucleus))
            assert set(nucleus) <= set(kept.tolist())
            assert bool((p[more] > p[nucleus].min() * (1 - 2**-16)).all()), "those as likely as the least of the set"
            assert torch.allclose(large[i][kept].double(), p[kept] / p[kept].sum(), atol=1e-5)
            kept = tokens[i][share[i] > 0]
            if not lacking[i]:
                assert sorted(kept.tolist()) == nucleus
                assert torch.allclose(share[i][share[i] > 0].double(), p[kept] / p[kept].sum(), atol=1e-5)


def test_equal_tokens_are_in_a_large_nucleus_together() -> None:
    p = torch.tensor([[0.3, 0.1, 0.3, 0.1, 0.2], [0.2] * 5])
    share = large_nucleus(p, 0.5)
    assert share[0].tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0, 0.0])
    assert share[1].tolist() == pytest.approx([0.2] * 5)
    assert large_nucleus(p, 1.0).tolist() == [pytest.approx(row) for row in p.tolist()]


def test_a_flat_belief_changes_nothing_about_its_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    embed = nn.Embedding.from_pretrained(torch.randn(WIDE, 3, generator=generator))
    scales = torch.tensor([[9.0], [0.01], [2.0], [6.0]])
    logits = torch.randn(4, WIDE, generator=generator) * scales
    p = logits.softmax(-1)
    sizes = [len(smallest_set(row.double(), 0.9)) for row in p]
    assert sizes[0] <= 8 and sizes[1] > 64, "one for the first size, one for the whole vocabulary"
    together = expected_embedding(read(logits), embed, 0.9)
    alone = torch.cat([expected_embedding(read(row[None]), embed, 0.9) for row in logits])
    assert torch.allclose(together, alone, atol=1e-6)
    for row, mean in zip(p.double(), together, strict=True):
        kept = smallest_set(row, 0.9)
        by_hand = (row[kept] / row[kept].sum()) @ embed.weight[kept].double()
        assert torch.allclose(mean.double(), by_hand, atol=1e-4)
