"""Both stages of latent diffusion: what is trained, what stays, and that a run can be cut, batched and resumed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import BartConfig, BartForConditionalGeneration, T5Config, T5ForConditionalGeneration, set_seed

from hf_latent import LatentAutoencoder, LatentDiffusionForConditionalGeneration
from hf_latent.tasks import AnswerFirstTask, answer_first_tokenizer
from hf_latent.training.latent_diffusion.average import FILE
from hf_latent.training.latent_diffusion.config import LatentDiffusionTrainingConfig
from hf_latent.training.latent_diffusion.data import tokenize_pairs
from hf_latent.training.latent_diffusion.objectives import (
    add_noise,
    latent_diffusion_loss,
    noise_schedule,
    sample_gaussian,
    sample_timesteps,
)
from hf_latent.training.latent_diffusion.trainer import LatentDiffusionTrainer, decoder_lora_config

TOKENIZER = answer_first_tokenizer()
SIZES: dict[str, Any] = {
    "latent_length": 4,
    "latent_dim": 6,
    "denoiser_hidden_size": 16,
    "denoiser_num_layers": 1,
    "denoiser_num_heads": 2,
    "num_train_timesteps": 20,
    "initializer_range": 0.2,
}


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    """Sixteen pairs of texts of different lengths."""
    return tokenize_pairs(AnswerFirstTask().dataset(16, 0), TOKENIZER, max_length=64)


def build_autoencoder(kind: str = "bart", **fields: Any) -> LatentAutoencoder:
    set_seed(0)
    special = {"vocab_size": len(TOKENIZER), "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    model: Any
    if kind == "t5":
        model = T5ForConditionalGeneration(T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, **special))
    else:
        heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
        layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
        sizes = {"d_model": 16, "max_position_embeddings": 64, "init_std": 0.2, "dropout": 0.0}
        model = BartForConditionalGeneration(BartConfig(**sizes, **heads, **layers, **special, bos_token_id=0))
    return LatentAutoencoder.from_encoder_decoder(model, **{**SIZES, **fields})


def build_model(**fields: Any) -> LatentDiffusionForConditionalGeneration:
    autoencoder = build_autoencoder(**fields)
    model = LatentDiffusionForConditionalGeneration.from_autoencoder(autoencoder)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():
            parameter.normal_(std=0.1)
    return model


@pytest.fixture
def make_trainer(tmp_path: Path, pairs: Dataset) -> Callable[..., LatentDiffusionTrainer]:
    def make(stage: str, model: Any = None, train_dataset: Any = pairs, **arguments: Any) -> LatentDiffusionTrainer:
        own = {name: arguments.pop(name, None) for name in ("eval_dataset", "peft_config")}
        if model is None:
            model = build_autoencoder() if stage == "autoencoder" else build_model()
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "max_steps": 3,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        args = LatentDiffusionTrainingConfig(stage=stage, **{**defaults, **arguments})
        return LatentDiffusionTrainer(model, args, train_dataset=train_dataset, processing_class=TOKENIZER, **own)

    return make


def snapshot(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def losses(trainer: LatentDiffusionTrainer) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# What is trained


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_the_first_stage_changes_everything_but_the_encoder(make_trainer: Any, kind: str) -> None:
    """The embeddings are shared with the encoder: training them through the decoder would change it."""
    model = build_autoencoder(kind)
    before = snapshot(model)
    make_trainer("autoencoder", model).train()
    encoder = model.language_model.get_encoder()
    for name, value in snapshot(encoder).items():
        assert torch.equal(value, dict(encoder.named_parameters()).get(name, value))
    frozen = {id(parameter) for parameter in encoder.parameters()}
    changed, kept = [], []
    for name, parameter in model.named_parameters():
        same = torch.equal(parameter, before[name])
        (kept if same else changed).append(name)
        assert same or id(parameter) not in frozen, name
    assert {name.split(".")[0] for name in changed} == {"language_model", "compressor", "reconstructor"}
    assert all(id(model.get_parameter(name)) in frozen or name.endswith("k_proj.bias") for name in kept)


def test_the_second_stage_changes_the_denoiser_alone(make_trainer: Any) -> None:
    model = build_model()
    make_trainer("denoiser", model, max_steps=1)  # sets the statistics
    before = snapshot(model)
    make_trainer("denoiser", model).train()
    for name, value in model.state_dict().items():
        if not name.startswith("denoiser."):
            assert torch.equal(value, before[name]), name
        elif not name.endswith("k_proj.bias"):
            assert not torch.equal(value, before[name]), name


def test_losses_fall(make_trainer: Any) -> None:
    """Sixteen pairs, over and over: a sign or a scale that is wrong somewhere would not."""
    for stage in ("autoencoder", "denoiser"):
        trainer = make_trainer(stage, max_steps=60, per_device_train_batch_size=16, logging_steps=10)
        trainer.train()
        first, *_, last = losses(trainer)
        assert last < 0.8 * first, stage


def test_the_input_is_given_to_a_decoder_that_reads_it(make_trainer: Any, pairs: Dataset) -> None:
    model = build_autoencoder(decoder_reads_input=True)
    trainer = make_trainer("autoencoder", model, reconstruct="target", eval_dataset=pairs)
    assert len(trainer.train_dataset) == len(pairs)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert batch["context_ids"][0].tolist() == pairs[0]["input_ids"]
    assert batch["input_ids"][0].tolist() == pairs[0]["labels"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] > 0


# The objective in the trainer


def test_the_denoisers_loss_is_the_objective_on_the_cached_latents(make_trainer: Any, pairs: Dataset) -> None:
    """Worked out outside of the trainer, from the text on: encode, normalize, noise, denoise, score."""
    model = build_model()
    trainer = make_trainer("denoiser", model, condition_dropout=0.0, variance_loss_weight=0.01, min_snr_gamma=2.0)
    ids = torch.tensor([2, 5, 11])
    batch = trainer.data_collator([trainer.train_dataset[int(i)] for i in ids])
    model.train()
    loss = trainer.compute_loss(model, batch)

    texts = [torch.tensor([pairs[int(i)]["labels"]]) for i in ids]
    inputs = [torch.tensor([pairs[int(i)]["input_ids"]]) for i in ids]
    clean = torch.cat([model.autoencoder.encode(text) for text in texts])
    condition = torch.cat([model.autoencoder.encode(text) for text in inputs])
    alphas = noise_schedule(model.config)
    timesteps = sample_timesteps(ids, seed=42, epoch=0, num_train_timesteps=20)
    noisy = add_noise(clean, sample_gaussian(ids, (4, 6), seed=42, epoch=0), alphas[timesteps])
    output = model.denoiser(noisy, timesteps, condition)
    weights = {"gamma": 2.0, "variance_weight": 0.01, "num_items": 3}
    expected = latent_diffusion_loss(output.sample, output.variance, clean, noisy, timesteps, alphas, **weights)
    assert torch.allclose(loss, expected.loss, rtol=1e-4)


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_one_batch_of_eight_gives_the_gradient_of_eight_batches_of_one(make_trainer: Any, stage: str) -> None:
    weights = []
    for size, accumulation in ((8, 1), (1, 8)):
        trainer = make_trainer(
            stage,
            max_steps=1,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=1.0,
            max_grad_norm=0.0,
            **({"latent_noise": 0.5} if stage == "autoencoder" else {}),
        )
        trainer.train()
        weights.append(snapshot(trainer.model))
    for name, value in weights[0].items():
        if "latent_" not in name:
            assert torch.allclose(value, weights[1][name], atol=1e-5), name


def test_dropped_conditions_reach_the_learned_one(make_trainer: Any) -> None:
    """With a dropout of 1 nothing depends on the condition, and its replacement is trained; with 0 it is not."""
    for rate, is_trained in ((1.0, True), (0.0, False)):
        model = build_model()
        trainer = make_trainer("denoiser", model, condition_dropout=rate)
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
        model.train()
        trainer.compute_loss(model, batch).backward()
        gradient = model.denoiser.null_condition.grad
        assert (gradient is not None and bool(gradient.abs().sum() > 0)) == is_trained
        moved = {**batch, "condition": batch["condition"] + 1}
        same = torch.equal(trainer.compute_loss(model, moved), trainer.compute_loss(model, batch))
        assert same == is_trained


@pytest.mark.parametrize(
    ("stage", "change"),
    [
        ("autoencoder", {"latent_noise": 1.0}),
        ("autoencoder", {"reconstruct": "target"}),
        ("denoiser", {"min_snr_gamma": 0.0}),
        ("denoiser", {"min_snr_gamma": 1.0}),
        ("denoiser", {"variance_loss_weight": 1.0}),
        ("denoiser", {"condition_dropout": 0.9}),
        ("denoiser", {"time_sampling": "independent"}),
        ("denoiser", {"noise_seed": 7}),
        ("denoiser", {"latent_statistics": "global"}),
        ("denoiser", {"latent_statistics": "channel"}),
    ],
)
def test_every_option_of_the_objective_is_read(make_trainer: Any, stage: str, change: dict[str, Any]) -> None:
    results = []
    for options in ({}, change):
        trainer = make_trainer(stage, max_steps=1, per_device_train_batch_size=8, **options)
        trainer.train()
        results.append(losses(trainer)[0])
    assert results[0] != results[1]


def test_self_conditioning_is_trained_on_first_estimates(make_trainer: Any) -> None:
    results = []
    for rate in (0.0, 1.0):
        model = LatentDiffusionForConditionalGeneration.from_autoencoder(build_autoencoder(), self_conditioning=True)
        with torch.no_grad():
            for parameter in model.denoiser.parameters():
                parameter.normal_(std=0.1, generator=torch.Generator().manual_seed(parameter.numel()))
        trainer = make_trainer("denoiser", model, max_steps=1, self_condition_rate=rate)
        trainer.train()
        results.append(losses(trainer)[0])
    assert results[0] != results[1]


# Latents


def test_cached_latents_are_normalized_and_encoded_once(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_model()
    trainer = make_trainer("denoiser", model)
    dataset = trainer.train_dataset
    together = torch.cat([dataset.latents, dataset.condition])
    assert torch.allclose(together.mean(0), torch.zeros(4, 6), atol=1e-4)
    assert torch.allclose(together.std(0, correction=0), torch.ones(4, 6), atol=1e-4)
    monkeypatch.setattr(type(model.autoencoder), "encode", None)  # a second trainer has nothing to encode
    again = make_trainer("denoiser", model).train_dataset
    assert torch.equal(again.latents, dataset.latents)


def test_statistics_are_kept_with_the_autoencoder_and_used_as_they_are(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer("autoencoder")
    trainer.train()
    trainer.save_model()
    loaded = LatentAutoencoder.from_pretrained(tmp_path / "run")
    assert torch.equal(loaded.latent_mean, trainer.autoencoder.latent_mean)
    assert (loaded.latent_std != 1).all()
    model = LatentDiffusionForConditionalGeneration.from_autoencoder(loaded)
    make_trainer("denoiser", model)
    assert torch.equal(model.autoencoder.latent_std, loaded.latent_std)


# Runs


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_a_resumed_run_has_the_losses_of_the_uninterrupted_one(make_trainer: Any, stage: str, tmp_path: Path) -> None:
    """Six steps over two epochs, cut after four; the moving average goes on as well."""
    options: dict[str, Any] = {"lr_scheduler_type": "constant", "save_strategy": "steps", "save_steps": 4}
    options |= {"latent_noise": 0.5} if stage == "autoencoder" else {"ema_decay": 0.9}
    whole = make_trainer(stage, max_steps=6, output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    make_trainer(stage, max_steps=4, output_dir=str(tmp_path / "cut"), **options).train()
    rest = make_trainer(stage, max_steps=6, output_dir=str(tmp_path / "cut"), **options)
    rest.train(resume_from_checkpoint=str(tmp_path / "cut" / "checkpoint-4"))
    assert losses(rest) == losses(whole)
    with whole.averaged(), rest.averaged():
        for name, value in whole.model.state_dict().items():
            assert torch.equal(rest.model.state_dict()[name], value), name


def test_the_moving_average_is_the_recursion_and_is_what_is_saved(make_trainer: Any, tmp_path: Path) -> None:
    """a_n = d_n a_{n-1} + (1 - d_n) w_n with d_n = min(decay, n / (9 + n)) and d_1 = 0."""
    weights: list[torch.Tensor] = []
    model = build_model()
    trainer = make_trainer("denoiser", model, max_steps=4, ema_decay=0.9)
    step = trainer.average.on_step_end

    def spy(*args: Any, **kwargs: Any) -> None:
        weights.append(model.denoiser.null_condition.detach().clone())
        step(*args, **kwargs)

    trainer.average.on_step_end = spy
    trainer.train()
    average = weights[0]
    for n, current in enumerate(weights[1:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * current
    raw = model.denoiser.null_condition.detach().clone()
    with trainer.averaged():
        assert torch.allclose(model.denoiser.null_condition, average, atol=1e-6)
    assert torch.equal(model.denoiser.null_condition, raw)
    trainer.save_model()
    saved = LatentDiffusionForConditionalGeneration.from_pretrained(tmp_path / "run")
    assert torch.allclose(saved.denoiser.null_condition, average, atol=1e-6)


def test_resuming_an_average_that_was_never_kept_raises(make_trainer: Any, tmp_path: Path) -> None:
    make_trainer("denoiser", max_steps=2, save_strategy="steps", save_steps=2).train()
    checkpoint = tmp_path / "run" / "checkpoint-2"
    assert not (checkpoint / FILE).exists()
    with pytest.raises(ValueError, match="trained without `ema_decay`"):
        make_trainer("denoiser", ema_decay=0.9).train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("stage", ["autoencoder", "denoiser"])
def test_evaluation_does_not_depend_on_the_batch_size(make_trainer: Any, stage: str, pairs: Dataset) -> None:
    results = []
    for size in (1, 5, 16):
        trainer = make_trainer(stage, eval_dataset=pairs, per_device_eval_batch_size=size)
        metrics = trainer.evaluate()
        results.append({name: value for name, value in metrics.items() if "second" not in name and "time" not in name})
    for other in results[1:]:
        assert other == pytest.approx(results[0], rel=1e-4)
    expected = {"autoencoder": {"eval_token_accuracy", "eval_exact"}, "denoiser": {"eval_squared_error", "eval_bound"}}
    assert expected[stage] <= set(results[0])


# LoRA


@pytest.mark.parametrize("kind", ["bart", "t5"])
def test_lora_leaves_the_decoder_as_it_was_and_merges_into_it(make_trainer: Any, kind: str, tmp_path: Path) -> None:
    model = build_autoencoder(kind)
    before = snapshot(model)
    trainer = make_trainer("autoencoder", model, peft_config=decoder_lora_config(model, r=2, alpha=4))
    trainer.train()
    trained = {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "compressor" in name or "reconstructor" in name for name in trained)
    assert any("decoder" in name and "lora_B" in name for name in trained)
    ids = torch.tensor([[0, 9, 10, 2]])
    logits = trainer.model.eval()(input_ids=ids, labels=ids).logits
    merged = trainer.model.merge_and_unload()
    assert set(merged.state_dict()) == set(before)
    decoder = [name for name in before if "decoder" in name and name.endswith("proj.weight")] or [
        name for name in before if "decoder" in name and name.endswith(".q.weight")
    ]
    assert any(not torch.equal(merged.state_dict()[name], before[name]) for name in decoder)
    assert torch.allclose(merged(input_ids=ids, labels=ids).logits, logits, atol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    loaded = LatentAutoencoder.from_pretrained(tmp_path / "merged")
    assert torch.allclose(loaded(input_ids=ids, labels=ids).logits, logits, atol=1e-4)


# Bad arguments


def test_what_does_not_belong_together_raises(make_trainer: Any, pairs: Dataset) -> None:
    with pytest.raises(ValueError, match="of the stage 'denoiser' must be a LatentDiffusionForConditionalGeneration"):
        make_trainer("denoiser", build_autoencoder())
    with pytest.raises(ValueError, match="must be a LatentAutoencoder, got LatentDiffusionForConditionalGeneration"):
        make_trainer("autoencoder", build_model())
    with pytest.raises(ValueError, match="`peft_config` is for the decoder"):
        make_trainer("denoiser", peft_config=object())
    with pytest.raises(ValueError, match="`train_dataset` must have the columns input_ids and labels"):
        make_trainer("autoencoder", train_dataset=pairs.remove_columns("labels"))
    with pytest.raises(ValueError, match="`reconstruct` must be 'target' where the decoder reads the input"):
        make_trainer("autoencoder", build_autoencoder(decoder_reads_input=True))
