"""
Plain encoder-decoders for latent diffusion: denoising pre-training of a small BART (arXiv 1910.13461), and the
baseline, fine-tuned from input to target. Both are transformers' own model and `Trainer`.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from hf_latent.training.common.fields import choice
from hf_latent.training.common.sources import read_mapping
from hf_latent.training.common.token_ids import check_token_ids
from hf_latent.training.latent_diffusion.data import TextCollator
from hf_latent.training.latent_diffusion.run import load_tokenizer
from hf_latent.training.latent_diffusion.sources import (
    PairArguments,
    judge_outputs,
    load_pairs,
    tokenize_sides,
    write_outputs,
)
from hf_latent.training.run import TaskEvaluation
from hf_latent.training.runs.finishing import going_on, last_loss
from hf_latent.training.runs.loss_log import TrueLossMixin
from hf_latent.training.runs.options import OptionParser
from hf_latent.training.runs.report import describe_environment, write_json, write_log
from hf_latent.training.runs.resuming import ResumableMixin

OBJECTIVES = ("denoise", "translate")


@dataclass
class BackboneArguments(PairArguments):
    """Data, model and evaluation of a plain encoder-decoder; the rest: [`~transformers.TrainingArguments`]."""

    objective: str = choice(
        "translate",
        OBJECTIVES,
        "`denoise`: restore inputs and targets from corrupted ones. `translate`: inputs to targets.",
    )
    model_config: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Fields of a BartConfig to train from scratch (in YAML, or as JSON)."}
    )
    mask_ratio: float = field(default=0.3, metadata={"help": "Share of tokens that are masked, for `denoise`."})
    mean_span_length: float = field(
        default=3.0, metadata={"help": "Mean of the Poisson distribution of span lengths, for `denoise`."}
    )
    num_corruptions: int = field(default=1, metadata={"help": "Corrupted copies of each text, for `denoise`."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.model_config = read_mapping(self.model_config)
        self.generation_kwargs = read_mapping(self.generation_kwargs)
        if self.objective not in OBJECTIVES:
            raise ValueError(f"`objective` must be one of {OBJECTIVES}, got {self.objective!r}")
        if (self.model_config is None) == (self.model_name_or_path is None):
            raise ValueError(
                "give either `model_config` (from scratch) or `model_name_or_path`, got "
                f"{self.model_config!r} and {self.model_name_or_path!r}"
            )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"`mask_ratio` must be in (0, 1), got {self.mask_ratio}")
        if self.mean_span_length <= 0 or self.num_corruptions < 1:
            raise ValueError(
                "`mean_span_length` must be above 0 and `num_corruptions` at least 1, got "
                f"{self.mean_span_length} and {self.num_corruptions}"
            )


def infill_spans(
    ids: list[int], rng: random.Random, *, mask_token_id: int, mask_ratio: float, mean_span_length: float
) -> list[int]:
    """
    BART's text infilling: spans whose lengths are Poisson become one mask each, until about `mask_ratio` of the tokens
    are gone; a span of length 0 inserts a mask. The first and the last token, special ones, stay.
    """
    inner, budget = list(ids[1:-1]), round(mask_ratio * max(len(ids) - 2, 0))
    while budget > 0 and inner:
        length = min(_poisson(rng, mean_span_length), budget)
        start = rng.randrange(len(inner) - length + 1) if length <= len(inner) else 0
        span = inner[start : start + length]
        if mask_token_id not in span:
            inner[start : start + length] = [mask_token_id]
        budget -= max(length, 1)
    return [ids[0], *inner, ids[-1]]


def _poisson(rng: random.Random, mean: float) -> int:
    """A Poisson number: arrivals within the time `mean`."""
    count, elapsed = 0, rng.expovariate(1.0)
    while elapsed < mean:
        count, elapsed = count + 1, elapsed + rng.expovariate(1.0)
    return count


def corrupted_texts(
    pairs: Dataset, arguments: BackboneArguments, tokenizer: PreTrainedTokenizerBase, seed: int
) -> Dataset:
    """`input_ids` corrupted and `labels` whole, of inputs and targets. A text's corruption depends on seed and row."""
    texts = concatenate_datasets(
        [pairs.map(lambda row, name=name: {"labels": row[name]}) for name in ("input_ids", "labels")]
    )

    def corrupt(row: dict[str, Any], index: int, copy: int) -> dict[str, Any]:
        rng = random.Random(f"{seed} {copy} {index}")
        options = {"mask_ratio": arguments.mask_ratio, "mean_span_length": arguments.mean_span_length}
        return {"input_ids": infill_spans(row["labels"], rng, mask_token_id=tokenizer.mask_token_id, **options)}

    copies = [
        texts.map(corrupt, with_indices=True, fn_kwargs={"copy": copy}) for copy in range(arguments.num_corruptions)
    ]
    return concatenate_datasets(copies)


def build_bart(model_config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> BartForConditionalGeneration:
    """A BART with random weights; its vocabulary and special tokens are those of `tokenizer`."""
    if unknown := set(model_config) - set(BartConfig.__dataclass_fields__) - set(BartConfig.attribute_map):
        raise ValueError(f"`model_config` has {sorted(unknown)}, which BartConfig does not know")
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    config = {
        "vocab_size": len(tokenizer),
        "decoder_start_token_id": tokenizer.eos_token_id,
        "forced_eos_token_id": None,
        **special,
        **model_config,
    }
    return BartForConditionalGeneration(BartConfig(**config))


class BackboneTrainer(ResumableMixin, TrueLossMixin, Trainer):
    """transformers' `Trainer` that saves, goes on and logs as our other trainers do."""

    def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        """As in transformers; losses that are not finite are counted."""
        result = super().compute_loss(model, inputs, return_outputs, **kwargs)
        if self.model.training:
            self._note_loss(result[0] if return_outputs else result)
        return result


def make_trainer(
    arguments: BackboneArguments, training_args: TrainingArguments
) -> tuple[BackboneTrainer, PreTrainedTokenizerBase, Dataset | None]:
    """The trainer, the tokenizer and the raw held-out pairs."""
    train, test = load_pairs(arguments)
    tokenizer = load_tokenizer(arguments)
    set_seed(training_args.seed)
    model: PreTrainedModel
    if (model_config := read_mapping(arguments.model_config)) is not None:
        model = build_bart(model_config, tokenizer)
    else:
        model = AutoModelForSeq2SeqLM.from_pretrained(arguments.model_name_or_path)
    tokenized = tokenize_sides(train, test, tokenizer, arguments)
    if arguments.objective == "denoise":
        tokenized = [
            None if pairs is None else corrupted_texts(pairs, arguments, tokenizer, training_args.seed)
            for pairs in tokenized
        ]
    for name, rows in zip(("train", "eval"), tokenized, strict=True):
        check_token_ids(rows, name, model)
    trainer = BackboneTrainer(
        model=model,
        args=training_args,
        data_collator=TextCollator(tokenizer.pad_token_id),
        train_dataset=tokenized[0],
        eval_dataset=tokenized[1],
        processing_class=tokenizer,
    )
    return trainer, tokenizer, test


def main(arguments: BackboneArguments, training_args: TrainingArguments) -> dict[str, Any]:
    """
    Train, evaluate, and leave in `output_dir` the model, its tokenizer, `run.json`, `training_log.jsonl` and
    `results.json`, whose content is returned. It goes on from the newest whole checkpoint there, if there is one.
    """
    with going_on(training_args):
        return _run(arguments, training_args)


def _run(arguments: BackboneArguments, training_args: TrainingArguments) -> dict[str, Any]:
    folder = Path(training_args.output_dir)
    trainer, tokenizer, test = make_trainer(arguments, training_args)
    run = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "script": asdict(arguments),
        "training": training_args.to_dict(),
        "model_config": trainer.model.config.to_dict(),
        "num_parameters": trainer.model.num_parameters(),
        "environment": describe_environment(),
    }
    trainer.plan()  # refuses a folder of another run before anything there is written
    write_json(folder / "run.json", run)

    def solve_all(with_outputs: bool = False) -> dict[str, Any]:
        trainer.model.eval()
        given = {"max_new_tokens": arguments.max_length, **(read_mapping(arguments.generation_kwargs) or {})}
        texts = {"input_ids": list(test[arguments.input_column])}
        with torch.no_grad():
            outputs, seconds = write_outputs(
                lambda **batch: trainer.model.generate(**batch, **given),
                tokenizer,
                texts,
                arguments,
                device=training_args.device,
            )
        result = judge_outputs(outputs, test, list(test[arguments.target_column]), arguments) | {"seconds": seconds}
        return {name: value for name, value in result.items() if with_outputs or name != "outputs"}

    is_judged = test is not None and arguments.objective == "translate"
    if is_judged:
        trainer.add_callback(TaskEvaluation(trainer, arguments.eval_generation_steps, solve_all))
    output = trainer.train()
    seconds = trainer.train_seconds
    trainer.save_model()
    results: dict[str, Any] = {
        "objective": arguments.objective,
        "tasks": arguments.tasks,
        "order": arguments.order,
        "steps": output.global_step,
        "train_seconds": seconds,
        "loss": last_loss(trainer.state.log_history),
        "held_out": {} if test is None else trainer.evaluate(),
        "generation": solve_all(with_outputs=True) if is_judged else {},
        "run": {name: run[name] for name in ("command", "num_parameters", "environment")},
    }
    write_json(folder / "results.json", results)
    write_log(folder, trainer.state.log_history)
    return results


def parse(arguments: Sequence[str] | None = None) -> tuple[BackboneArguments, TrainingArguments]:
    """Read the command line (`--config run.yaml`, then anything that overrides it). Unknown names raise."""
    return OptionParser((BackboneArguments, TrainingArguments)).parse_args_and_config(arguments)


__all__ = ["BackboneArguments", "build_bart", "infill_spans", "main", "make_trainer", "parse"]
