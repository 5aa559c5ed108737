"""trl's `SFTTrainer` with the masked diffusion objective."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import is_peft_model
from datasets import Dataset
from torch import nn
from transformers import (
    BitsAndBytesConfig,
    DataCollator,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTTrainer

from hf_latent.data.corruption import sample_opening, sample_prompt_dropout
from hf_latent.data.embeddings import embedding_rows
from hf_latent.data.vocabulary import naming_rows
from hf_latent.modeling.masked_diffusion import MaskedDiffusionHead, ScoredOutput
from hf_latent.training.common import supervision
from hf_latent.training.common.adapters import check_adapters, check_peft_config
from hf_latent.training.common.bases import keep_base
from hf_latent.training.common.endings import check_endings
from hf_latent.training.common.objectives import count_items, normalize_rows, reduce_loss
from hf_latent.training.common.publishing import SelfContainedPushMixin
from hf_latent.training.common.token_ids import check_token_ids
from hf_latent.training.masked_diffusion.batch_noise import BatchNoiseMixin
from hf_latent.training.masked_diffusion.block_inputs import BlockRows, block_causal_inputs, pack
from hf_latent.training.masked_diffusion.checks import (
    AnyDataset,
    add_example_ids,
    check_block_options,
    check_model,
    check_tokenizer,
    has_prompts_in_evaluation_only,
    is_block_causal,
    load_model,
    load_processing_class,
)
from hf_latent.training.masked_diffusion.collator import MaskedDiffusionCollator
from hf_latent.training.masked_diffusion.config import MaskedDiffusionConfig
from hf_latent.training.masked_diffusion.noising import CorruptedRows, twice
from hf_latent.training.masked_diffusion.packing import attention_bias, lay_out, pack_documents
from hf_latent.training.runs.loss_log import ratio, without_empty
from hf_latent.training.runs.resuming import ResumableMixin
from hf_latent.training.runs.summed_metrics import SummedMetricsMixin

logger = logging.getLogger(__name__)

# What is summed for the log: weighted nats and what they are divided by; nats of the bound; nats and hits of masked
# tokens; masked, supervised and attended tokens.
PARTS = ("loss", "items", "bound", "nll", "correct", "masked", "supervised", "tokens")


class MaskedDiffusionTrainer(BatchNoiseMixin, SelfContainedPushMixin, ResumableMixin, SummedMetricsMixin, SFTTrainer):
    """
    Fine-tune a masked diffusion language model on anything `SFTTrainer` accepts: text, prompt-completion,
    conversations, or `input_ids` with `labels`. Supervised tokens are masked at random and predicted from all others;
    the rest (prompts, user turns) is given and never masked.

    - Logits exist for masked positions only.
    - Models with block-causal attention read noisy and clean rows in one forward, `[x_t | x_0]` (arXiv 2503.09573):
      each block is predicted from the clean blocks before it.
    - Noise is a function of (`noise_seed`, example, epoch): batches 8x1 and 1x8 give the same gradient, evaluation
      does not depend on the batch size, and a resumed run meets the noise of the uninterrupted one.
    - Logged: `loss` (what is minimised), `nll` (estimated bound on -log p, nats per supervised token, whatever the
      weighting), `masked_nll` and `masked_accuracy` (per masked token), `mask_ratio`, `num_tokens` (seen so far).
    - `push_to_hub` gives a repository that loads without hf-latent and has no pickle; see `SelfContainedPushMixin`.

    Args:
        model (`str`, [`PreTrainedModel`] or [`~peft.PeftModel`]):
            Masked diffusion model, or a path or repository of one (loaded in float32, as trl does).
        args ([`MaskedDiffusionConfig`], *optional*):
            Arguments.
        peft_config ([`~peft.PeftConfig`], *optional*):
            Train an adapter instead of the model. `task_type` is set if missing, `modules_to_save` is checked.

    The others are those of [`~trl.SFTTrainer`]. An example is known by its column `example_id`, which is added (its
    place in the dataset) where missing.
    """

    _tag_names = ["hf-latent", "masked-diffusion"]
    _name = "Masked diffusion"
    loss_is_scaled_for_ga = True  # `compute_loss` divides by the items of the whole optimizer step
    parts: tuple[str, ...] = PARTS
    _first_supervised = 0  # position in a row

    def __init__(
        self,
        model: str | PreTrainedModel | nn.Module,
        args: MaskedDiffusionConfig | None = None,
        *,
        train_dataset: AnyDataset,
        eval_dataset: AnyDataset | dict[str, AnyDataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        data_collator: DataCollator | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, torch.optim.lr_scheduler.LambdaLR | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None = None,
        quantization_config: BitsAndBytesConfig | None = None,
        peft_config: Any | None = None,
        formatting_func: Callable[[dict], str] | None = None,
    ) -> None:
        if args is None:
            name = model if isinstance(model, str) else model.config._name_or_path
            args = MaskedDiffusionConfig(f"{name.rstrip('/').split('/')[-1] or 'model'}-masked-diffusion")
        if not isinstance(args, MaskedDiffusionConfig):
            raise ValueError(f"`args` must be a MaskedDiffusionConfig, got {type(args).__name__}")
        if isinstance(model, str):
            processing_class = processing_class or load_processing_class(model, args)
            model = load_model(model, args, quantization_config)
        check_adapters(model)
        self._check_model(model, args)
        if processing_class is not None:
            check_tokenizer(processing_class, model)
        if peft_config is not None:
            peft_config = check_peft_config(peft_config, model)
        for name, dataset in supervision.named_sets(train_dataset, eval_dataset):
            supervision.check_not_exhausted(dataset, name)
        if peft_config is not None or is_peft_model(model):
            keep_base(model, processing_class, args)
        if isinstance(eval_dataset, dict):
            eval_dataset = {key: add_example_ids(dataset) for key, dataset in eval_dataset.items()}
        elif eval_dataset is not None:
            eval_dataset = add_example_ids(eval_dataset)
        if args.completion_only_loss is None and has_prompts_in_evaluation_only(train_dataset, eval_dataset):
            args.completion_only_loss = True  # trl looks at the training set alone, and would score the questions too
        model_init_kwargs, args.model_init_kwargs = args.model_init_kwargs, None  # used above; trl would warn
        # trl packs for causal models: it drops the first target of a document and refuses collators of others.
        self._packs, args.packing = args.packing, False
        super().__init__(
            model=model,
            args=args,
            data_collator=data_collator,
            train_dataset=add_example_ids(train_dataset),
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            optimizers=optimizers,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
            peft_config=peft_config,
            formatting_func=formatting_func,
        )
        args.model_init_kwargs, args.packing = model_init_kwargs, self._packs
        for name, dataset in supervision.named_sets(self.train_dataset, self.eval_dataset):
            supervision.check_supervised(dataset, name, first=self._first_supervised)
            check_token_ids(dataset, name, unwrap(self.model))
        check_tokenizer(self._tokenizer, unwrap(self.model))
        if args.pad_completion_with_eos == "none":
            check_endings(self.train_dataset, self._tokenizer, unwrap(self.model))
        if data_collator is None:  # only now do tokenizer and model agree on the padding token: trl has seen to it
            self.data_collator = self._make_collator()

    def _check_model(self, model: nn.Module, args: MaskedDiffusionConfig) -> None:
        """Raise `ValueError` for a model that the objective cannot train."""
        needs_mask = args.packing or args.attention_annealing_steps > 0
        check_model(model, needs_mask=needs_mask and not is_block_causal(model), max_length=args.max_length)
        check_block_options(model, args)

    # Data

    def _make_collator(self) -> MaskedDiffusionCollator:
        padding = self.args.pad_completion_with_eos
        return MaskedDiffusionCollator(
            pad_token_id=self._tokenizer.pad_token_id,
            pad_to_multiple_of=self.args.pad_to_multiple_of,
            eos_token_id=None if padding == "none" else self._tokenizer.eos_token_id,
            eos_length=self.args.max_length if padding == "max_length" else None,
            mask_token_id=self.model.config.mask_token_id,
            num_embeddings=embedding_rows(unwrap(self.model)),
        )

    def _prepare_dataset(
        self,
        dataset: AnyDataset,
        processing_class: Any,
        args: Any,
        packing: bool,
        formatting_func: Callable[[dict], str] | None,
        dataset_name: str,
    ) -> AnyDataset:
        with naming_rows(f"`{dataset_name}_dataset`", processing_class, dataset):
            prepared = super()._prepare_dataset(
                add_example_ids(dataset), processing_class, args, False, formatting_func, dataset_name
            )
        if isinstance(dataset, Dataset) and len(prepared) < len(dataset):
            dropped = len(dataset) - len(prepared)
            logger.warning("Dropped %d of %d examples without a supervised token left", dropped, len(dataset))
        if isinstance(prepared, Dataset) and not supervision.has_supervised_token(prepared):
            few = add_example_ids(dataset.select(range(min(len(dataset), 8))))
            uncut = copy.copy(args)
            uncut.max_length = None
            whole = super()._prepare_dataset(few, processing_class, uncut, False, formatting_func, dataset_name)
            supervision.check_supervised(prepared, dataset_name, why=supervision.explain_empty(whole, args.max_length))
        if self._packs and dataset_name == "train":
            map_kwargs = {"num_proc": args.dataset_num_proc} if isinstance(prepared, Dataset) else {}
            return pack_documents(prepared, args.max_length, map_kwargs)
        return prepared

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = ["input_ids", "labels", "example_id", "seq_lengths"]

    # Loss

    def _count_items(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return count_items(self._supervised(inputs), self.args.loss_normalization).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """
        Masked diffusion loss of a batch; with `return_outputs` also its `PARTS`, of every example.

        1. Draw times and noise, and mask supervised tokens. 2. Predict those. 3. Weigh and score.
        """
        args, training = self.args, self.model.training
        if "example_id" not in inputs:
            raise ValueError("the batch has no `example_id`, which seeds its noise: use MaskedDiffusionCollator")
        num_examples = len(inputs["example_id"])
        if args.complementary_masks:
            inputs = twice(inputs)  # B is then twice the number of examples
        draw = self._draw(inputs)
        attended, supervised = self._attended(inputs), self._supervised(inputs)  # [B, L]

        # 1. Time, noise, corruption
        noise = self._add_noise(inputs, attended, supervised)
        noisy, masked = noise.input_ids, noise.masked
        clean = inputs["input_ids"]
        if training and args.prompt_dropout > 0:
            hidden = sample_prompt_dropout(inputs["example_id"], args.prompt_dropout, **draw)  # [B]
            hidden = hidden[:, None] & attended & ~supervised
            noisy, clean = (each.masked_fill(hidden, self.model.config.mask_token_id) for each in (noisy, clean))

        # 2. Prediction
        given, at = self._model_inputs(inputs, CorruptedRows(noisy, clean, attended, masked))
        score = self._score(model, given, at, inputs["labels"][masked])

        # 3. Score
        row = masked.nonzero()[:, 0]  # [N]
        items = count_items(supervised, args.loss_normalization)  # [B]
        share = normalize_rows(torch.ones_like(items, dtype=torch.float32), supervised, args.loss_normalization)
        weights = noise.weights[masked] * share[row]  # [N]
        num_items = items[:num_examples].sum() if num_items_in_batch is None else num_items_in_batch
        loss = reduce_loss(score.nll, weights, num_items)
        loss = self._undo_averaging(loss, num_items_in_batch)

        # 4. Sums for the log
        nll = score.nll.detach()
        values = torch.stack([weights * nll, noise.bound[masked] * nll, nll, score.correct.float()], -1).float()
        sums = values.new_zeros(num_examples, 4).index_add_(0, row % num_examples, values)
        weighted, bound, nll, correct = sums.unbind(-1)
        counts = [masked.sum(-1).view(-1, num_examples).sum(0)]
        counts += [mask.sum(-1)[:num_examples] for mask in (supervised, attended)]
        parts = [weighted, items[:num_examples], bound, nll, correct, *counts]
        parts = torch.stack([part.float() for part in parts], -1)  # [examples, len(PARTS)]
        self._note_parts(parts, loss)
        return (loss, parts) if return_outputs else loss

    def _model_inputs(
        self, inputs: dict[str, torch.Tensor], corrupted: CorruptedRows
    ) -> tuple[dict[str, Any], torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
        """What the model is given, and where in it the masked tokens are, in the order of `masked`."""
        if self._is_block_causal:
            return self._block_causal_inputs(inputs, corrupted)
        noisy, _, attended, masked = corrupted
        dtype = unwrap(self.model).dtype
        if "pack_row" in inputs:
            row, start = inputs["pack_row"], inputs["pack_start"]
            packed = lay_out(noisy, attended, row, start, padding=self._tokenizer.pad_token_id)
            allowed = packed.document[:, :, None] == packed.document[:, None]
            number, column = masked.nonzero(as_tuple=True)
            given = {"input_ids": packed.input_ids, "position_ids": packed.position_ids}
            given["attention_mask"] = attention_bias(allowed, dtype)
            return given, (row[number], start[number] + column)
        given = {"input_ids": noisy, "attention_mask": attended.long()}
        if "position_ids" in inputs:
            given["position_ids"] = inputs["position_ids"]
        steps = self.args.attention_annealing_steps
        if self.model.training and self.state.global_step < steps:
            share = self.state.global_step / steps
            opening = sample_opening(inputs["example_id"], noisy.shape[1], share, **self._draw(inputs))  # [B, L, L]
            given["attention_mask"] = attention_bias(opening & attended[:, None], dtype)
        return given, masked

    def _block_causal_inputs(
        self, inputs: dict[str, torch.Tensor], corrupted: CorruptedRows
    ) -> tuple[dict[str, Any], tuple[torch.Tensor, torch.Tensor]]:
        """As [`_model_inputs`], for models that read the clean rows beside the noisy ones."""
        noisy, clean, attended, masked = corrupted
        size = self._block_size(inputs)
        if isinstance(size, torch.Tensor):
            size = size[:, None].expand(noisy.shape)
        rows = BlockRows(noisy, clean, self._positions(inputs, attended), attended, masked, size)
        row, column = masked.nonzero(as_tuple=True)
        if "pack_row" in inputs:
            rows = pack(rows, inputs["pack_row"], inputs["pack_start"], padding=self._tokenizer.pad_token_id)
            row, column = inputs["pack_row"][row], inputs["pack_start"][row] + column
        return block_causal_inputs(unwrap(self.model), rows, (row, column))

    def _score(
        self,
        model: nn.Module,
        given: dict[str, torch.Tensor],
        at: torch.Tensor | tuple[torch.Tensor, torch.Tensor],
        targets: torch.Tensor,
    ) -> ScoredOutput:
        """-log p of the `targets` `[N]` at the positions `at`; logits exist for those only, a part at a time."""
        if isinstance(unwrap(self.model), MaskedDiffusionHead):
            return model(**given, logits_to_keep=at, targets=targets)
        if isinstance(at, tuple):
            name = type(unwrap(self.model)).__name__
            raise ValueError(f"`packing` and block-causal attention need a model of hf-latent, got {name}")
        logits = model(**given, logits_to_keep=at).logits  # [N, V]
        nll = F.cross_entropy(logits.float(), targets, reduction="none")
        return ScoredOutput(nll=nll, correct=logits.detach().argmax(-1) == targets)

    # Log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means since the last log. Collective: every process has to call it."""
        if (sums := self._take_train_sums()) is not None:
            if self._total_train_tokens == 0:  # resumed, or at the start, where there is no entry either
                seen = [entry["num_tokens"] for entry in self.state.log_history if "num_tokens" in entry]
                self._total_train_tokens = seen[-1] if seen else 0
            self._total_train_tokens += round(sums["tokens"]) // self._tp_size
            means = without_empty(self.summarize(sums), sums)
            metrics = {**means, "num_tokens": self._total_train_tokens}
            self._metrics["train"].update({name: [value] for name, value in metrics.items()})
        super().log(logs, start_time)

    # Evaluation

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Trainer's loop, with metrics that are sums over the whole set; it says where there was nothing to sum."""
        output = super().evaluation_loop(*args, **kwargs)
        if self._eval_sums[self.parts.index("items")] == 0:
            logger.warning("The evaluation set has no supervised token: its loss is NaN")
        return output

    def summarize(self, sums: dict[str, float]) -> dict[str, float]:
        """Means from the sums of `parts`: `nll` per supervised token, `masked_*` per masked token."""
        return {
            "nll": ratio(sums["bound"], sums["supervised"]),
            "masked_nll": ratio(sums["nll"], sums["masked"]),
            "masked_accuracy": ratio(sums["correct"], sums["masked"]),
            "mask_ratio": ratio(sums["masked"], sums["supervised"]),
        }


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself, under an adapter if there is one."""
    return model.get_base_model() if is_peft_model(model) else model


__all__ = ["MaskedDiffusionTrainer"]
