"""The table of tiny latent diffusion models: encoder-decoders, conditionings and options."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_latent import LatentDiffusionForConditionalGeneration

VOCAB_SIZE, PAD, EOS = 40, 1, 2

SIZES: dict[str, Any] = {
    "latent_length": 4,
    "latent_dim": 6,
    "denoiser_hidden_size": 16,
    "denoiser_num_layers": 2,
    "denoiser_num_heads": 2,
    "denoiser_intermediate_size": 24,
    "num_train_timesteps": 12,
}
CASES: dict[str, dict[str, Any]] = {
    "in-context": {},
    "cross-attention": {"conditioning": "cross_attention"},
    "adaln-zero": {"conditioning": "adaln_zero"},
    "longer": {"diffusion_length": 8, "reconstruction_length": 7},
    "longer-cross-attention": {"diffusion_length": 8, "conditioning": "cross_attention"},
    "first-last": {"representation": "first_last", "latent_layer_norm": False},
    "self-conditioning": {"self_conditioning": True},
    "fixed-variance": {"learned_variance": False, "conditioning": "cross_attention"},
    "reads-input": {"decoder_reads_input": True},
    "t5": {"autoencoder_num_heads": 4},
    "t5-first-last": {"representation": "first_last", "autoencoder_num_heads": 4},
}


def build_encoder_decoder(name: str) -> PreTrainedModel:
    special = {"vocab_size": VOCAB_SIZE, "pad_token_id": PAD, "eos_token_id": EOS, "decoder_start_token_id": EOS}
    if name.startswith("t5"):
        return T5ForConditionalGeneration(
            T5Config(d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, dropout_rate=0.2, **special)
        )
    return BartForConditionalGeneration(
        BartConfig(
            d_model=16,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=24,
            decoder_ffn_dim=24,
            max_position_embeddings=32,
            dropout=0.2,
            bos_token_id=0,
            forced_eos_token_id=None,
            **special,
        )
    )


def build_model(name: str, seed: int = 0, **fields: Any) -> LatentDiffusionForConditionalGeneration:
    """A model in which every parameter is random and matters, those that start at zero too."""
    torch.manual_seed(seed)
    model = LatentDiffusionForConditionalGeneration.from_encoder_decoder(
        build_encoder_decoder(name), **{**SIZES, **CASES[name], **fields}
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            # The exponent of the reverse variance stays small, as it does in a trained model.
            scale = 0.02 if "variance_projection" in key else 0.3
            parameter.copy_(1 + 0.2 * noise if "norm" in key and key.endswith("weight") else scale * noise)
        shape = model.autoencoder.latent_mean.shape
        model.autoencoder.set_statistics(
            torch.randn(shape, generator=generator), 0.5 + torch.rand(shape, generator=generator)
        )
    return model.eval()


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(case: str) -> LatentDiffusionForConditionalGeneration:
    return build_model(case)


@pytest.fixture
def make_model() -> Callable[..., LatentDiffusionForConditionalGeneration]:
    return build_model


@pytest.fixture
def make_encoder_decoder() -> Callable[[str], PreTrainedModel]:
    return build_encoder_decoder


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three texts of 9, 5 and 7 tokens, padded on the right."""
    ids = torch.randint(3, VOCAB_SIZE, (3, 9), generator=torch.Generator().manual_seed(7))
    mask = torch.arange(9)[None] < torch.tensor([[9], [5], [7]])
    return {"input_ids": ids.masked_fill(~mask, PAD), "attention_mask": mask.long()}


@pytest.fixture
def latents() -> torch.Tensor:
    """Noisy latents of three rows."""
    return torch.randn(3, SIZES["latent_length"], SIZES["latent_dim"], generator=torch.Generator().manual_seed(8))


@pytest.fixture
def context(model: LatentDiffusionForConditionalGeneration, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The texts of `batch` as the decoder's input, where it reads any."""
    if not model.config.decoder_reads_input:
        return {}
    return {"context_ids": batch["input_ids"], "context_mask": batch["attention_mask"]}
