"""transformers' `Trainer` for the two stages of latent diffusion: the autoencoder, then the denoiser."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from hf_latent.modeling.latent_diffusion.modeling_latent_autoencoder import LatentAutoencoder
from hf_latent.training.common.publishing import SelfContainedPushMixin
from hf_latent.training.latent_diffusion.average import FILE, DenoiserAverage
from hf_latent.training.latent_diffusion.checks import check_arguments
from hf_latent.training.latent_diffusion.config import LatentDiffusionTrainingConfig
from hf_latent.training.latent_diffusion.data import (
    LatentPairs,
    TextCollator,
    cache_latents,
    encode_texts,
    latent_statistics,
    stack_latents,
    texts_to_reconstruct,
)
from hf_latent.training.latent_diffusion.objectives import (
    add_noise,
    latent_diffusion_loss,
    noise_schedule,
    sample_gaussian,
    sample_timesteps,
    sample_uniform,
)
from hf_latent.training.runs.loss_log import ratio, without_empty
from hf_latent.training.runs.resuming import ResumableMixin
from hf_latent.training.runs.summed_metrics import SummedMetricsMixin

EVAL_EPOCH = -1  # evaluation meets the same noise after every epoch, and never that of training
# What is summed over rows for the log, by stage; "items" divides the first.
PARTS = {
    "autoencoder": ("loss", "items", "correct", "exact", "rows"),
    "denoiser": ("loss", "items", "squared_error", "bound", "rows"),
}
STATISTICS_TEXTS = 20_000
_LATENT_NOISE, _NOISE_SIZE, _SELF_CONDITION = 21, 22, 23


class LatentDiffusionTrainer(SelfContainedPushMixin, ResumableMixin, SummedMetricsMixin, Trainer):
    """
    Train a [`LatentAutoencoder`] (`args.stage == "autoencoder"`) or the denoiser of a
    [`LatentDiffusionForConditionalGeneration`] (`"denoiser"`) on pairs of tokenized texts.

    - The encoder is frozen in both stages, the whole autoencoder in the second, whose latents are encoded once and
      kept in `output_dir/latents`.
    - Noise is a function of (`noise_seed`, example, epoch): batches 8x1 and 1x8 give the same gradient, and a resumed
      run meets the noise of the uninterrupted one.
    - Logged: `loss` (what is minimised) and, of the autoencoder, `token_accuracy` and `exact` (share of texts of which
      every token is the most likely one, with teacher forcing); of the denoiser `squared_error` and `bound` (nats per
      component). Evaluations are sums over the whole set.
    - The statistics of the latents are computed after the first stage, or before the second if they are missing.

    Args:
        model: as the stage asks.
        args: [`LatentDiffusionTrainingConfig`].
        train_dataset, eval_dataset: `datasets.Dataset` with `input_ids` and `labels`, see `tokenize_pairs`.
        processing_class: the tokenizer, saved with the model.
        callbacks: as in transformers.
        peft_config: LoRA on the decoder, first stage only; see [`decoder_lora_config`].

    Raises:
        ValueError: for a model that does not belong to the stage, for datasets without the columns.
    """

    args: LatentDiffusionTrainingConfig
    model_accepts_loss_kwargs = True  # `compute_loss` divides by the items of the whole optimizer step

    def __init__(
        self,
        model: PreTrainedModel,
        args: LatentDiffusionTrainingConfig,
        *,
        train_dataset: Dataset,
        eval_dataset: Dataset | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        callbacks: list[TrainerCallback] | None = None,
        peft_config: Any | None = None,
    ) -> None:
        check_arguments(model, args, peft_config, {"train_dataset": train_dataset, "eval_dataset": eval_dataset})
        self.stage, self.parts = args.stage, PARTS[args.stage]
        self.pairs = train_dataset
        self.autoencoder = model if self.stage == "autoencoder" else model.autoencoder
        self.pad_token_id = model.config.pad_token_id
        model.train()  # freezes what is frozen
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
        prepared = [self._prepare(dataset, args) for dataset in (train_dataset, eval_dataset)]
        super().__init__(
            model=model,
            args=args,
            data_collator=TextCollator(self.pad_token_id) if self.stage == "autoencoder" else stack_latents,
            train_dataset=prepared[0],
            eval_dataset=prepared[1],
            processing_class=processing_class,
            callbacks=callbacks,
        )
        # Else the base class asks the model's forward, which peft or a wrapper may hide.
        self.model_accepts_loss_kwargs = True
        self.average = None
        if self.stage == "denoiser":
            config = model.config
            self.alphas_cumprod = noise_schedule(config)
            if args.ema_decay is not None:
                self.average = DenoiserAverage(model.denoiser, args.ema_decay)
                self.needed_files = {FILE: "it was trained without `ema_decay`"}
                self.add_callback(self.average)

    # Data

    def _prepare(self, dataset: Dataset | None, args: LatentDiffusionTrainingConfig) -> Any:
        if dataset is None:
            return None
        if self.stage == "autoencoder":
            return texts_to_reconstruct(dataset, args.reconstruct, self.autoencoder.config.decoder_reads_input)
        self.autoencoder.to(args.device)
        with args.main_process_first(desc="encoding latents"):
            latents = cache_latents(
                self.autoencoder,
                dataset,
                Path(args.output_dir) / "latents",
                pad_token_id=self.pad_token_id,
                batch_size=args.encode_batch_size,
            )
        if not has_statistics(self.autoencoder):
            together = torch.cat(list(latents.values()))
            self.autoencoder.set_statistics(*latent_statistics(together, args.latent_statistics))
        mean, std = self.autoencoder.latent_mean.cpu(), self.autoencoder.latent_std.cpu()
        return LatentPairs((latents["labels"] - mean) / std, (latents["input_ids"] - mean) / std)

    def fit_statistics(self) -> None:
        """Compute the statistics of the latents, of at most 20,000 pairs of the training set, and keep them."""
        rows = self.pairs.select(range(min(len(self.pairs), STATISTICS_TEXTS)))
        latents = encode_texts(
            self.autoencoder,
            [*rows["input_ids"], *rows["labels"]],
            pad_token_id=self.pad_token_id,
            batch_size=self.args.encode_batch_size,
        )
        self.autoencoder.set_statistics(
            *(value.to(self.autoencoder.device) for value in latent_statistics(latents, self.args.latent_statistics))
        )

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = ["input_ids", "labels", "context_ids", "example_id"]

    # Loss

    def _count_items(self, inputs: dict[str, torch.Tensor]) -> Any:
        return (inputs["labels"] != -100).sum() if self.stage == "autoencoder" else len(inputs["example_id"])

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of a batch; with `return_outputs` also its `PARTS`, one row for each example."""
        training = self.model.training
        draw = {"seed": self.args.noise_seed, "epoch": self.passes.current if training else EVAL_EPOCH}
        num_items = self._count_items(inputs) if num_items_in_batch is None else num_items_in_batch
        score = self._reconstruction if self.stage == "autoencoder" else self._denoising
        loss, parts = score(model, inputs, draw, num_items)
        loss = self._undo_averaging(loss, num_items_in_batch)
        self._note_parts(parts, loss)
        return (loss, parts) if return_outputs else loss

    def _reconstruction(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], draw: dict[str, int], num_items: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """1. Draw noise for the latents. 2. Reconstruct. 3. Score every token."""
        inputs = dict(inputs)
        ids = inputs.pop("example_id")
        if self.args.latent_noise and self.model.training:
            shape = (self.autoencoder.config.latent_length, self.autoencoder.config.latent_dim)
            size = self.args.latent_noise * sample_uniform(ids, stream=_NOISE_SIZE, **draw)
            inputs["latent_noise"] = size[:, None, None] * sample_gaussian(ids, shape, stream=_LATENT_NOISE, **draw)
        labels = inputs.pop("labels")
        read = self.autoencoder.language_model.prepare_decoder_input_ids_from_labels(labels=labels)
        logits = model(**inputs, decoder_input_ids=read).logits.float()  # [B, S, V]
        nats = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none")  # [B, S], 0 for padding
        loss = nats.sum() / torch.as_tensor(num_items, device=nats.device).clamp(min=1)

        supervised = labels != -100
        wrong = (logits.argmax(-1) != labels) & supervised
        tokens = supervised.sum(-1)
        columns = [nats.detach().sum(-1), tokens, tokens - wrong.sum(-1), ~wrong.any(-1), torch.ones_like(tokens)]
        return loss, torch.stack([column.float() for column in columns], -1)

    def _denoising(
        self, model: nn.Module, inputs: dict[str, torch.Tensor], draw: dict[str, int], num_items: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """1. Draw timestep and noise. 2. Noise the latents. 3. Estimate them, perhaps twice. 4. Weigh and score."""
        args, config = self.args, self.model.config
        clean, condition, ids = inputs["latents"], inputs["condition"], inputs["example_id"]

        # 1. and 2.
        timesteps = sample_timesteps(
            ids, num_train_timesteps=config.num_train_timesteps, sampling=args.time_sampling, **draw
        )
        noise = sample_gaussian(ids, tuple(clean.shape[1:]), **draw)
        alphas = self.alphas_cumprod.to(clean.device)
        noisy = add_noise(clean, noise, alphas[timesteps])

        # 3.
        given: dict[str, Any] = {"latents": noisy, "timesteps": timesteps, "condition": condition}
        if self.model.training:
            given["drop_condition"] = sample_uniform(ids, **draw) < args.condition_dropout
        if config.self_conditioning:
            with torch.no_grad():
                first = model(**given).sample
            read = sample_uniform(ids, stream=_SELF_CONDITION, **draw) < args.self_condition_rate
            given["self_condition"] = first * read[:, None, None]
        output = model(**given)

        # 4.
        score = latent_diffusion_loss(
            output.sample,
            output.variance,
            clean,
            noisy,
            timesteps,
            alphas,
            gamma=args.min_snr_gamma or None,
            variance_weight=args.variance_loss_weight,
            num_items=num_items,
        )
        total = score.weighted + args.variance_loss_weight * len(alphas) * score.bound
        ones = torch.ones_like(total)
        return score.loss, torch.stack([total, ones, score.squared_error, score.bound, ones], -1)

    # Training, checkpoints

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """See [`~transformers.Trainer.train`]. After the first stage the latents' statistics are kept."""
        output = super().train(*args, **kwargs)
        if self.stage == "autoencoder":
            self.fit_statistics()
        return output

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The denoiser holds its moving average inside of the block, if one is kept."""
        if self.average is None:
            yield
        else:
            with self.average.swapped_in():
                yield

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers; a checkpoint holds the weights and their average, the final model the average."""
        if self.average is None:
            super().save_model(output_dir, _internal_call)
        elif _internal_call:
            super().save_model(output_dir, _internal_call)
            if self.args.should_save:
                self.average.save(Path(output_dir or self.args.output_dir))
        else:
            with self.averaged():
                super().save_model(output_dir, _internal_call)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            self.average.load(Path(resume_from_checkpoint))

    # Log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means since the last log. Collective: every process has to call it."""
        if (sums := self._take_train_sums()) is not None:
            logs = {**logs, **without_empty(self.summarize(sums), sums)}
        super().log(logs, start_time)

    # Evaluation

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Trainer's loop, with the averaged denoiser and metrics that are sums over the whole set."""
        with self.averaged():
            return super().evaluation_loop(*args, **kwargs)

    def summarize(self, sums: dict[str, float]) -> dict[str, float]:
        """Means from the sums of `PARTS`."""
        rows = sums["rows"]
        if self.stage == "autoencoder":
            return {"token_accuracy": ratio(sums["correct"], sums["items"]), "exact": ratio(sums["exact"], rows)}
        return {"squared_error": ratio(sums["squared_error"], rows), "bound": ratio(sums["bound"], rows)}


def has_statistics(autoencoder: LatentAutoencoder) -> bool:
    """Whether `set_statistics` was called: nothing that was measured is exactly 0 and 1 everywhere."""
    return bool((autoencoder.latent_mean != 0).any() or (autoencoder.latent_std != 1).any())


def decoder_lora_config(autoencoder: LatentAutoencoder, *, r: int = 16, alpha: int = 32, dropout: float = 0.0) -> Any:
    """
    peft's LoRA on every linear layer of the decoder; compressor and reconstructor are trained in full.

    Args:
        r, alpha, dropout: as in `peft.LoraConfig`.
    """
    from peft import LoraConfig

    decoder = autoencoder.language_model.get_decoder()
    inside = {id(module) for module in decoder.modules()}
    targets = [
        name for name, module in autoencoder.named_modules() if isinstance(module, nn.Linear) and id(module) in inside
    ]
    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        modules_to_save=["compressor", "reconstructor"],
        task_type="FEATURE_EXTRACTION",
    )


__all__ = ["LatentDiffusionTrainer", "decoder_lora_config"]
