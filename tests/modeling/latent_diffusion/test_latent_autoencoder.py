"""The autoencoder: its loss, what its decoder sees, what is frozen and what is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_latent import (
    LatentAutoencoder,
    LatentDiffusionForConditionalGeneration,
)


def test_loss_is_the_mean_cross_entropy_of_unshifted_labels(
    model: Any, batch: dict[str, torch.Tensor], context: dict[str, torch.Tensor]
) -> None:
    """A class name without a known suffix would get the shifted loss of causal models."""
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    output = model.autoencoder(**batch, labels=labels, **context)
    nats = -output.logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    assert torch.allclose(output.loss, nats[labels != -100].mean(), atol=1e-5)
    divided = model.autoencoder(**batch, labels=labels, **context, num_items_in_batch=7)
    assert torch.allclose(divided.loss, nats[labels != -100].sum() / 7, atol=1e-4)


def test_the_decoder_sees_the_text_through_the_latent_only(
    make_model: Any, batch: dict[str, torch.Tensor], latents: torch.Tensor
) -> None:
    autoencoder = make_model("in-context").autoencoder
    own = autoencoder.encode(**batch, normalized=False)
    decoder_input_ids = batch["input_ids"][:, :4]
    through_text = autoencoder(**batch, decoder_input_ids=decoder_input_ids).logits
    assert torch.allclose(
        autoencoder(latents=own, decoder_input_ids=decoder_input_ids).logits, through_text, atol=1e-5
    )
    other = autoencoder(latents=latents, decoder_input_ids=decoder_input_ids).logits
    assert not torch.allclose(other, through_text, atol=1e-2)
    noisy = autoencoder(**batch, decoder_input_ids=decoder_input_ids, latent_noise=latents - own).logits
    assert torch.allclose(noisy, other, atol=1e-4)


def test_layer_norm_gives_every_vector_mean_zero_and_variance_one(
    make_model: Any, batch: dict[str, torch.Tensor]
) -> None:
    normed = make_model("in-context").autoencoder.encode(**batch, normalized=False)
    assert torch.allclose(normed.mean(-1), torch.zeros(3, 4), atol=1e-5)
    assert torch.allclose(normed.var(-1, correction=0), torch.ones(3, 4), atol=1e-3)
    plain = make_model("first-last").autoencoder.encode(**batch, normalized=False)
    assert plain.mean(-1).abs().max() > 1e-3


def test_input_tokens_reach_the_decoder_only_where_the_configuration_says_so(
    make_model: Any, batch: dict[str, torch.Tensor], latents: torch.Tensor
) -> None:
    given = {"context_ids": batch["input_ids"], "context_mask": batch["attention_mask"]}
    decoder_input_ids = batch["input_ids"][:, :4]
    reads = make_model("reads-input").autoencoder
    base = reads(latents=latents, decoder_input_ids=decoder_input_ids, **given).logits
    padded = given["context_ids"].masked_fill(given["context_mask"] == 0, 9)
    same = reads(
        latents=latents, decoder_input_ids=decoder_input_ids, context_ids=padded, context_mask=given["context_mask"]
    )
    assert torch.allclose(same.logits, base, atol=1e-5)
    moved = given["context_ids"].clone()
    moved[:, 0] = 3 + (moved[:, 0] - 2) % 37
    other = reads(latents=latents, decoder_input_ids=decoder_input_ids, **{**given, "context_ids": moved})
    assert not torch.allclose(other.logits, base, atol=1e-3)
    with pytest.raises(ValueError, match="`context_ids` must be the input's tokens"):
        reads(latents=latents, decoder_input_ids=decoder_input_ids)
    with pytest.raises(ValueError, match="decoder_reads_input=False"):
        make_model("in-context").autoencoder(latents=latents, decoder_input_ids=decoder_input_ids, **given)


# What is frozen


def test_frozen_parts_have_no_gradient_and_no_dropout_even_after_loading(model: Any, tmp_path: Path) -> None:
    """`from_pretrained` makes new parameters, all of which want gradients."""
    model.save_pretrained(tmp_path)
    loaded = LatentDiffusionForConditionalGeneration.from_pretrained(tmp_path).train()
    assert {name.split(".")[0] for name, p in loaded.named_parameters() if p.requires_grad} == {"denoiser"}
    assert not any(module.training for module in loaded.autoencoder.modules())
    assert loaded.denoiser.training
    autoencoder = LatentAutoencoder.from_pretrained(tmp_path).train()
    encoder = autoencoder.language_model.get_encoder()
    assert not any(p.requires_grad for p in encoder.parameters())
    assert not autoencoder.get_input_embeddings().weight.requires_grad
    assert not any(module.training for module in encoder.modules())
    trained = {name for name, p in autoencoder.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"language_model", "compressor", "reconstructor"}
    assert autoencoder.language_model.get_decoder().training


def test_gradients_reach_every_trained_parameter_of_the_autoencoder(
    model: Any, batch: dict[str, torch.Tensor], context: dict[str, torch.Tensor]
) -> None:
    autoencoder = model.autoencoder.requires_grad_(True).train()
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    autoencoder(**batch, labels=labels, **context).loss.backward()
    for name, parameter in autoencoder.named_parameters():
        if not parameter.requires_grad:
            assert parameter.grad is None, name
        elif not name.endswith("k_proj.bias"):  # adds the same to every score: softmax does not see it
            assert parameter.grad is not None, name
