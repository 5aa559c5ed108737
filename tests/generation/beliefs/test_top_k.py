"""The largest values and where they are: those of `argmax` and `topk`, whatever the blocks."""

import pytest
import torch

from hf_latent.generation.beliefs import top_k
from hf_latent.generation.beliefs.top_k import (
    BLOCK,
    MIN_BLOCKS_PER_VALUE,
    MIN_ELEMENTS,
    block_maxima,
    max_and_argmax,
    top_k_values,
)

WIDE = BLOCK * MIN_BLOCKS_PER_VALUE * 8  # so many values that the eight largest are looked for in blocks


@pytest.mark.parametrize("size", [1, 63, 64, 65, 640])
def test_the_most_likely_token_is_the_first_of_the_largest(size: int) -> None:
    torch.manual_seed(0)
    logits = torch.randint(0, 5, (200, size)).float()  # full of ties
    logits[:, ::3] = float("-inf")
    first = torch.tensor([row.index(max(row)) for row in logits.tolist()])
    strided = torch.cat([logits, logits], dim=-1)[:, :size]
    for values in (logits, strided):
        blocks = block_maxima(values)
        assert (blocks is None) == (size % BLOCK != 0)
        for given in (None, blocks):
            best, place = max_and_argmax(values, given)
            assert torch.equal(place, first)
            assert torch.equal(best, values.amax(-1, keepdim=True))


def test_many_values_are_looked_through_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = []
    monkeypatch.setattr(top_k, "block_maxima", lambda values: looked.append(len(values)) or block_maxima(values))
    for num_rows in (MIN_ELEMENTS // WIDE - 1, MIN_ELEMENTS // WIDE):
        values = torch.randn(num_rows, WIDE)
        assert torch.equal(max_and_argmax(values, None)[1], values.argmax(-1))
    assert looked == [MIN_ELEMENTS // WIDE]


@pytest.mark.parametrize("size", [100, WIDE - BLOCK, WIDE, WIDE + 1, WIDE + BLOCK])
@pytest.mark.parametrize("count", [1, 8])
def test_the_largest_are_those_of_topk(size: int, count: int) -> None:
    generator = torch.Generator().manual_seed(size)
    values = torch.stack([torch.randperm(size, generator=generator) for _ in range(5)]).float()
    values[1] = values[1].sort().values  # the largest are all in one block, the last
    found, index = top_k_values(values, count, block_maxima(values))
    assert torch.equal(found, values.topk(count).values)
    assert torch.equal(index, values.topk(count).indices)


def test_equal_values_are_each_taken_once() -> None:
    equal = torch.ones(2, WIDE)
    values, index = top_k_values(equal, 8, block_maxima(equal))
    assert torch.equal(values, torch.ones(2, 8))
    assert all(len(set(row)) == 8 for row in index.tolist())
