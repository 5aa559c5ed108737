"""What holds of every latent diffusion model: rows, masks, files, implementations."""

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, GenerationConfig

from hf_latent import (
    LatentDiffusionConfig,
    LatentDiffusionForConditionalGeneration,
    LatentDiffusionGenerationConfig,
)
from hf_latent.hub import bundle


def row(batch: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """One text of a batch, without padding."""
    length = int(batch["attention_mask"][index].sum())
    return {name: values[index : index + 1, :length] for name, values in batch.items()}


# Rows


def test_a_text_has_the_same_latent_alone_and_padded_in_a_batch(model: Any, batch: dict[str, torch.Tensor]) -> None:
    """A mask that is lost anywhere mixes padding into the latent."""
    together = model.autoencoder.encode(**batch)
    assert together.shape == (3, 4, 6)
    for index in range(3):
        assert torch.allclose(model.autoencoder.encode(**row(batch, index)), together[index : index + 1], atol=2e-5)
    moved = batch["input_ids"].clone()
    moved[1, 4] = 3 + (moved[1, 4] - 2) % 37
    changed = model.autoencoder.encode(moved, batch["attention_mask"])
    assert not torch.allclose(changed[1], together[1], atol=1e-3)
    assert torch.equal(changed[[0, 2]], together[[0, 2]])


def test_a_row_is_denoised_the_same_alone_and_in_a_batch(
    model: Any, latents: torch.Tensor, batch: dict[str, torch.Tensor]
) -> None:
    condition = model.autoencoder.encode(**batch)
    timesteps = torch.tensor([0, 5, 11])
    extra = {"self_condition": latents.flip(0)} if model.config.self_conditioning else {}
    together = model.denoiser(latents, timesteps, condition, **extra)
    assert (together.variance is None) == (not model.config.learned_variance)
    for i in range(3):
        one = {name: value[i : i + 1] for name, value in extra.items()}
        alone = model.denoiser(latents[i : i + 1], timesteps[i : i + 1], condition[i : i + 1], **one)
        assert torch.allclose(alone.sample, together.sample[i : i + 1], atol=2e-5)


def test_a_latent_is_decoded_the_same_alone_and_in_a_batch(
    model: Any, latents: torch.Tensor, batch: dict[str, torch.Tensor], context: dict[str, torch.Tensor]
) -> None:
    together = model.autoencoder.decode(latents, **context, max_new_tokens=6, min_new_tokens=6)
    for i in range(3):
        length = int(batch["attention_mask"][i].sum())
        given = {name: values[i : i + 1, :length] for name, values in context.items()}
        alone = model.autoencoder.decode(latents[i : i + 1], **given, max_new_tokens=6, min_new_tokens=6)
        assert torch.equal(alone, together[i : i + 1])


def test_generation_of_a_row_does_not_depend_on_the_batch(model: Any, batch: dict[str, torch.Tensor]) -> None:
    """Noise drawn for the whole batch at once would give every row other numbers."""
    settings = {"seed": 3, "max_new_tokens": 6, "num_inference_steps": 4, "return_dict_in_generate": True}
    together = model.generate(**batch, **settings)
    for i in range(3):
        alone = model.generate(**row(batch, i), **settings, row_indices=[i])
        assert torch.allclose(alone.latents, together.latents[i : i + 1], rtol=1e-3, atol=1e-3)
        length = alone.sequences.shape[1]
        assert torch.equal(alone.sequences[0], together.sequences[i, :length])
    other = model.generate(**row(batch, 0), **settings, row_indices=[5])
    assert not torch.allclose(other.latents, together.latents[:1], atol=1e-2)


# Files


def test_saving_and_loading_gives_the_same_model(model: Any, tmp_path: Path, batch: dict[str, torch.Tensor]) -> None:
    """Statistics included: a checkpoint without them would decode other latents."""
    model.generation_config.sampler = "ddim"
    model.generation_config.num_inference_steps = 4
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert isinstance(loaded, LatentDiffusionForConditionalGeneration)
    assert isinstance(AutoModel.from_pretrained(tmp_path), LatentDiffusionForConditionalGeneration)
    assert loaded.generation_config.sampler == "ddim"
    assert isinstance(loaded.generation_config, LatentDiffusionGenerationConfig)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    expected = model.generate(**batch, seed=1, max_new_tokens=5)
    assert torch.equal(loaded.generate(**batch, seed=1, max_new_tokens=5), expected)
    stock = GenerationConfig.from_pretrained(tmp_path)  # other tools read the file with it
    assert stock.decoder_start_token_id == model.config.decoder_start_token_id


def test_an_autoencoder_alone_becomes_a_model_with_another_denoiser(
    make_model: Any, tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    model = make_model("first-last")
    model.autoencoder.save_pretrained(tmp_path)
    grown = LatentDiffusionForConditionalGeneration.from_autoencoder(
        str(tmp_path), conditioning="cross_attention", denoiser_hidden_size=32, num_train_timesteps=7
    )
    for name, value in model.autoencoder.state_dict().items():
        assert torch.equal(grown.autoencoder.state_dict()[name], value), name
    assert (grown.config.num_train_timesteps, grown.config.denoiser_intermediate_size) == (7, 128)
    assert grown.config.representation == "first_last"
    assert torch.equal(grown.autoencoder.encode(**batch), model.autoencoder.encode(**batch))
    with pytest.raises(ValueError, match="`denoiser_width` is no field"):
        LatentDiffusionForConditionalGeneration.from_autoencoder(str(tmp_path), denoiser_width=3)


@pytest.mark.parametrize("case", ["in-context", "t5"], indirect=True)
def test_a_pretrained_encoder_decoder_is_taken_over_bit_by_bit(
    case: str, make_encoder_decoder: Any, tmp_path: Path
) -> None:
    language_model = make_encoder_decoder(case)
    language_model.generation_config.num_beams = 2
    language_model.save_pretrained(tmp_path)
    model = LatentDiffusionForConditionalGeneration.from_encoder_decoder(
        str(tmp_path), latent_length=4, latent_dim=6, denoiser_hidden_size=16, denoiser_num_heads=2
    )
    for name, value in language_model.state_dict().items():
        assert torch.equal(model.autoencoder.language_model.state_dict()[name], value), name
    assert model.generation_config.num_beams == 2
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    assert head.weight is embeddings.weight  # tied as before


@pytest.mark.parametrize("case", ["in-context", "t5-first-last"], indirect=True)
def test_a_bundle_generates_the_same_where_hf_latent_is_not_installed(
    case: str, model: Any, tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    folder = bundle(model, None, tmp_path / "mine", verify=False)
    expected = model.generate(**batch, seed=5, max_new_tokens=5, num_inference_steps=3)
    code = f"""
import json, sys
sys.modules["hf_latent"] = None
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM
ids, mask = (torch.tensor(v) for v in json.loads({json.dumps([v.tolist() for v in batch.values()])!r}))
for auto in (AutoModel, AutoModelForSeq2SeqLM):
    model = auto.from_pretrained({str(folder)!r}, trust_remote_code=True)
out = model.generate(ids, attention_mask=mask, seed=5, max_new_tokens=5, num_inference_steps=3)
model.save_pretrained({str(tmp_path / "again")!r})
print(json.dumps(out.tolist()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert json.loads(run.stdout.splitlines()[-1]) == expected.tolist()
    names = {path.name for path in folder.glob("*.py")}
    assert {path.name for path in (tmp_path / "again").glob("*.py")} == names


# Implementations


def test_eager_and_sdpa_attention_agree(case: str, make_model: Any, batch: dict[str, torch.Tensor]) -> None:
    sdpa = make_model(case)
    assert sdpa.config._attn_implementation == "sdpa"
    eager = copy.deepcopy(sdpa)
    eager.set_attn_implementation("eager")
    assert eager.autoencoder.language_model.config._attn_implementation == "eager"
    condition = sdpa.autoencoder.encode(**batch)
    assert torch.allclose(eager.autoencoder.encode(**batch), condition, atol=1e-4)
    timesteps = torch.tensor([1, 5, 9])
    outputs = [m.denoiser(condition, timesteps, condition).sample for m in (sdpa, eager)]
    assert torch.allclose(*outputs, atol=1e-4)


@pytest.mark.parametrize("case", ["cross-attention", "t5"], indirect=True)
def test_checkpointing_gives_the_same_gradients(case: str, model: Any, latents: torch.Tensor) -> None:
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        model.zero_grad()
        model.denoiser(latents, torch.tensor([1, 5, 9]), latents).sample.square().sum().backward()
        gradients.append([p.grad.clone() for p in model.denoiser.parameters() if p.grad is not None])
    assert len(gradients[0]) > 20
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)


def test_the_denoiser_compiles_without_a_graph_break(make_model: Any, latents: torch.Tensor) -> None:
    denoiser = make_model("in-context").denoiser
    compiled = torch.compile(denoiser, fullgraph=True, backend="eager")
    given = (latents, torch.tensor([1, 5, 9]), latents)
    assert torch.allclose(compiled(*given).sample, denoiser(*given).sample, atol=1e-6)


def test_half_precision_is_finite_and_close(case: str, make_model: Any, batch: dict[str, torch.Tensor]) -> None:
    model = make_model(case)
    expected = model.autoencoder.encode(**batch)
    half = model.to(torch.bfloat16)
    output = half.generate(**batch, seed=0, max_new_tokens=4, num_inference_steps=3, return_dict_in_generate=True)
    assert output.latents.isfinite().all()
    assert output.latents.dtype == torch.float32
    assert (half.autoencoder.encode(**batch).float() - expected).abs().mean() < 0.2


def test_resizing_the_vocabulary_keeps_old_logits(
    make_model: Any, tmp_path: Path, batch: dict[str, torch.Tensor]
) -> None:
    model = make_model("in-context")
    labels = batch["input_ids"]
    before = model.autoencoder(**batch, labels=labels).logits
    model.resize_token_embeddings(45)
    after = model.autoencoder(**batch, labels=labels).logits
    assert after.shape[-1] == 45
    assert torch.allclose(after[..., :40], before, atol=1e-5)
    assert not model.get_input_embeddings().weight.requires_grad
    model.save_pretrained(tmp_path)
    loaded = LatentDiffusionForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.config.text_config.vocab_size == 45
    assert torch.equal(loaded.autoencoder(**batch, labels=labels).logits, after)


# Bad input


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"conditioning": "film"}, "`conditioning` must be one of 'in_context', .*got 'film'"),
        ({"representation": "middle"}, "`representation` must be one of .*got 'middle'"),
        ({"beta_schedule": "sigmoid"}, "`beta_schedule` must be one of .*got 'sigmoid'"),
        ({"beta_start": 0.5, "beta_end": 0.1}, r"`beta_start` and `beta_end` must be rising .* got 0.5 and 0.1"),
        ({"latent_length": 0}, "`latent_length` must be at least 1, got 0"),
        ({"denoiser_dropout": 1.0}, r"`denoiser_dropout` must be in \[0, 1\), got 1.0"),
        ({"denoiser_hidden_size": 18, "denoiser_num_heads": 4}, r"multiple of `denoiser_num_heads` \(4\), got 18"),
        (
            {"latent_length": 5, "diffusion_length": 3, "denoiser_hidden_size": 24},
            r"multiple of `latent_length` \(5\)",
        ),
        ({"autoencoder_num_heads": 5}, r"divide the encoder's width \(16\), got 5"),
        ({"text_config": {"model_type": "llama"}}, "encoder-decoder such as BART or T5, got 'llama'"),
    ],
)
def test_impossible_configurations_raise(fields: dict[str, Any], message: str) -> None:
    text = {"model_type": "bart", "d_model": 16, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    with pytest.raises(ValueError, match=message):
        LatentDiffusionConfig(**{"text_config": text, **fields})


def test_forward_asks_for_what_it_needs(
    make_model: Any, batch: dict[str, torch.Tensor], latents: torch.Tensor
) -> None:
    model = make_model("in-context")
    with pytest.raises(ValueError, match="exactly one of `labels` and `latents`"):
        model(**batch)
    with pytest.raises(ValueError, match="`timesteps` must say how noisy"):
        model(**batch, latents=latents)
    with pytest.raises(ValueError, match="self_conditioning=False"):
        model(**batch, latents=latents, timesteps=torch.zeros(3).long(), self_condition=latents)
    with pytest.raises(ValueError, match="exactly one of `input_ids` and `latents`"):
        model.autoencoder(labels=batch["input_ids"])
    with pytest.raises(ValueError, match="`std` positive"):
        model.autoencoder.set_statistics(torch.zeros(()), torch.zeros(()))


def test_labels_give_the_plain_squared_error(make_model: Any, batch: dict[str, torch.Tensor]) -> None:
    model = make_model("in-context")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    noise, timesteps = torch.ones(3, 4, 6), torch.tensor([0, 5, 11])
    output = model(**batch, labels=labels, noise=noise, timesteps=timesteps)
    target = model.autoencoder.encode(**batch)
    assert torch.allclose(output.condition, target)
    assert torch.allclose(output.loss, (output.sample - target).square().mean(), atol=1e-5)
    again = model(latents=output.latents, timesteps=timesteps, condition=target)
    assert torch.allclose(again.sample, output.sample)
