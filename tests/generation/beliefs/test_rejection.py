"""ReMix's rejection at its ends; the mixtures between are held with those of the whole decode."""

import pytest
import torch
from torch import nn

KNOBS = {"refinement_kl": 0.0, "stop_kl": 0.0, "eos_token_id": None}


@pytest.mark.parametrize("ratio", [0.15, 1.0])
def test_rejection_is_off_where_nothing_jumps_so_far_and_all_where_everything_does(
    model: nn.Module, ratio: float
) -> None:
    """Two beliefs are log 2 apart at most; with none accepted but the first, the others are of plain masks."""
    knobs = KNOBS | {"refinement_ratio": ratio, "refinement_steps": 3, "latent_refinement": True}
    knobs |= {"max_new_tokens": 6, "decoding": "entropy", "return_dict_in_generate": True}
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    plain, off, strict = (model.generate(ids, rejection_js=limit, **knobs) for limit in (None, 0.7, 0.0))
    assert torch.equal(off.sequences, plain.sequences)
    assert torch.equal(off.belief_kl.nan_to_num(-1), plain.belief_kl.nan_to_num(-1))
    # The first forward and the third read masks and nothing else, the second what the first has said.
    assert torch.equal(strict.belief_kl[:, 1], plain.belief_kl[:, 1])
    assert not torch.equal(strict.belief_kl[:, 2], plain.belief_kl[:, 2])


def test_rejection_needs_mixtures(llada: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"`rejection_js`=0.3 needs `latent_refinement`=True"):
        llada.generate(torch.tensor([[1]]), max_new_tokens=2, rejection_js=0.3)
    with pytest.raises(ValueError, match=r"`rejection_js` must be a number of at least 0.0, got -1"):
        llada.generate(torch.tensor([[1]]), max_new_tokens=2, rejection_js=-1)
