"""Tiny block-causal models, for the trainers of this folder's tests."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hf_latent import LatentTokenConfig, LatentTokenForMaskedDiffusion


@pytest.fixture
def make_block_model(tokenizer: Any) -> Callable[..., LatentTokenForMaskedDiffusion]:
    """`make_block_model(block_size=4, **fields)`: a Llama of two layers with block-causal attention, random."""

    def make(block_size: int | None = 4, **fields: Any) -> LatentTokenForMaskedDiffusion:
        torch.manual_seed(0)
        text = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        text |= {"num_attention_heads": 2, "vocab_size": len(tokenizer), "initializer_range": 0.3}
        special = {name: getattr(tokenizer, name) for name in ("mask_token_id", "pad_token_id", "eos_token_id")}
        kind = {"attention": "block_causal", "block_size": block_size} | fields
        return LatentTokenForMaskedDiffusion(LatentTokenConfig(text_config=text, **special, **kind))

    return make
