"""Latents that are encoded once: for the same weights, dtype, configuration and texts, and for no others."""

from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import BartConfig, BartForConditionalGeneration, set_seed

from hf_latent import LatentAutoencoder
from hf_latent.training.latent_diffusion.data import cache_latents

PAIRS = Dataset.from_list([{"input_ids": [0, 5 + i, 2], "labels": [0, 7, 5 + i, 2]} for i in range(4)])


@pytest.fixture
def autoencoder() -> LatentAutoencoder:
    set_seed(0)
    special = {"vocab_size": 16, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2, "bos_token_id": 0}
    sizes = {"d_model": 16, "max_position_embeddings": 16, "dropout": 0.0, "activation_function": "gelu"}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    bart = BartForConditionalGeneration(BartConfig(**special, **sizes, **layers, **heads))
    return LatentAutoencoder.from_encoder_decoder(bart, latent_length=2, latent_dim=4)


def test_what_makes_other_latents_is_encoded_anew(autoencoder: LatentAutoencoder, tmp_path: Path) -> None:
    """A stale cache would train the denoiser on latents of another autoencoder."""

    def count(pairs: Dataset = PAIRS) -> int:
        cache_latents(autoencoder, pairs, tmp_path, pad_token_id=1, batch_size=2)
        return len(list(tmp_path.glob("*.safetensors")))

    assert (count(), count()) == (1, 1)
    assert count(PAIRS.select(range(3))) == 2
    with torch.no_grad():
        autoencoder.compressor.queries.add_(1.0)
    assert count() == 3
    autoencoder.config.latent_layer_norm = not autoencoder.config.latent_layer_norm
    assert count() == 4
    autoencoder.language_model.config.activation_function = "relu"  # of the encoder: the same weights, other states
    assert count() == 5
    autoencoder.bfloat16()
    kept = count()
    autoencoder.float()  # of values that bfloat16 holds exactly: equal as numbers, computed otherwise
    assert (kept, count()) == (6, 7)
