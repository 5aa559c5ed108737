"""Denoising inside `torch.autocast`, where forwards are cast and what is read of them is not."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_latent.generation.commit.rules import RULES

IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])
REFINED = {"latent_refinement": True, "refinement_steps": 2}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"block_cache": "prefix", "cfg_scale": 1.0},
        {"block_cache": "dual", "append_blocks": True},
        {"temperature": 0.8, "top_p": 0.9},
        {"refinement_top_p": 1.0},
    ],
    ids=str,
)
def test_refinement_runs_with_every_rule(
    make_model: Any, weights: torch.dtype, dtype: torch.dtype, knobs: dict[str, Any]
) -> None:
    """A product in half precision met embeddings in float32: nothing was mixed, the run stopped."""
    model = make_model("llada").to(weights)
    for decoding in RULES:
        with torch.autocast("cpu", dtype=dtype):
            options = {"max_new_tokens": 5, "block_length": 3, "seed": 0, "decoding": decoding}
            ids = model.generate(IDS, **REFINED, **options, **knobs)
        assert (ids != model.config.mask_token_id).all()


def test_what_is_read_is_that_of_a_forward_without_autocast(llada: nn.Module) -> None:
    """With a forward of float64, which autocast leaves alone, no number differs."""
    out = [llada.generate(IDS, max_new_tokens=6, return_dict_in_generate=True, **REFINED)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out.append(llada.generate(IDS, max_new_tokens=6, return_dict_in_generate=True, **REFINED))
    assert out[0].sequences.tolist() == out[1].sequences.tolist()
    torch.testing.assert_close(out[0].belief_kl, out[1].belief_kl, atol=1e-6, rtol=1e-5, equal_nan=True)
