"""Denoising inside `torch.autocast`, where forwards are cast and what is read of them is not."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig

from hf_latent import LatentTokenConfig, LatentTokenForCausalLM, LatentTokenForMaskedDiffusion
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", ["semi_causal", "left_to_right"])
def test_latent_tokens_are_written(kind: str, dtype: torch.dtype) -> None:
    """Masks and caches made by hand meet keys that autocast has cast."""
    torch.manual_seed(0)
    text = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    fields = {"attention": "semi_causal", "mask_token_id": 63, "pad_token_id": 61, "eos_token_id": None}
    if kind == "left_to_right":
        config = LatentTokenConfig(text_config=text, order="left_to_right", shift_logits=True, **fields)
        model: Any = LatentTokenForCausalLM(config).eval()
        calls = [{"num_latent_tokens": 2, "self_speculative": how} for how in (False, True, "plain")]
        calls += [{**call, "do_sample": True} for call in calls]
    else:
        model = LatentTokenForMaskedDiffusion(LatentTokenConfig(text_config=text, shift_logits=False, **fields)).eval()
        calls = [REFINED, {"num_latent_tokens": 2, "num_candidates": 4}, {"append_blocks": True, "block_length": 3}]
    with torch.autocast("cpu", dtype=dtype):
        for knobs in calls:
            ids = model.generate(IDS, max_new_tokens=6, **knobs)
            assert ids.shape == (2, 9)
            assert kind == "left_to_right" or (ids != 63).all()
        if kind == "semi_causal":
            turn = model.generate(IDS, max_new_tokens=3, return_dict_in_generate=True)
            text_so_far = torch.cat([turn.sequences, IDS], 1)
            assert (model.generate(text_so_far, cache=turn.cache, max_new_tokens=3) != 63).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_templates_and_gaps_are_written(make_model: Any, dtype: torch.dtype) -> None:
    model = make_model("llada").float()
    blank = torch.cat([IDS, torch.full((2, 8), model.config.mask_token_id)], 1)
    answer = (torch.arange(11) >= 8).expand(2, -1)
    with torch.autocast("cpu", dtype=dtype):
        out = model.generate(blank, answer_mask=answer, early_exit_threshold=1e9, return_dict_in_generate=True)
        filled = model.infill(blank, decoding="entropy_bound", **REFINED)
    assert (out.exit_step == 0).all()
    assert (out.sequences != model.config.mask_token_id).all()
    assert (filled != model.config.mask_token_id).all()
