"""Where the read positions are, with and without asking the device."""

import pytest
import torch

from hf_latent.generation.loop.step import sorted_true_indices, true_indices


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (4, 300)])
def test_both_ways_to_find_positions_agree(shape: tuple[int, int]) -> None:
    selected = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.4
    for mask in (selected, torch.zeros_like(selected), torch.ones_like(selected)):
        expected = true_indices(mask, int(mask.sum()))
        found = sorted_true_indices(mask, int(mask.sum()))
        assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
        assert mask[found].all() and len(found[0]) == mask.sum()
