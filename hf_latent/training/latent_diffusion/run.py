"""The two stages of latent diffusion from a configuration file: what `recipes/latent_diffusion/stages.py` calls."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase, set_seed

from hf_latent.modeling.latent_diffusion.modeling_latent_autoencoder import LatentAutoencoder
from hf_latent.modeling.latent_diffusion.modeling_latent_diffusion import LatentDiffusionForConditionalGeneration
from hf_latent.tasks.answer_first import answer_first_tokenizer
from hf_latent.training.common.sources import read_mapping
from hf_latent.training.latent_diffusion.config import LatentDiffusionTrainingConfig
from hf_latent.training.latent_diffusion.sources import (
    PairArguments,
    judge_outputs,
    load_pairs,
    tokenize_sides,
    write_outputs,
)
from hf_latent.training.latent_diffusion.trainer import LatentDiffusionTrainer, decoder_lora_config
from hf_latent.training.run import TaskEvaluation
from hf_latent.training.runs.finishing import going_on, last_loss
from hf_latent.training.runs.options import OptionParser
from hf_latent.training.runs.report import describe_environment, write_json, write_log
from hf_latent.training.runs.resuming import replacing_files


@dataclass
class LatentDiffusionArguments(PairArguments):
    """
    Data, model and evaluation of a stage; learning rate, steps, objective: [`LatentDiffusionTrainingConfig`].

    `model_name_or_path` is a BART or T5 for the stage `autoencoder`, or an autoencoder to train on, and an autoencoder
    for `denoiser`.
    """

    model_config: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Fields of LatentDiffusionConfig, of autoencoder or denoiser (in YAML, or as JSON)."},
    )
    lora_r: int = field(default=0, metadata={"help": "Rank of LoRA on the decoder. 0: train all of it."})
    lora_alpha: int = field(default=32, metadata={"help": "Scale of LoRA."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of LoRA."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.model_name_or_path is None:
            raise ValueError("`model_name_or_path` must name a BART or T5, or an autoencoder, got None")
        self.model_config = read_mapping(self.model_config)
        self.generation_kwargs = read_mapping(self.generation_kwargs)


def load_tokenizer(arguments: PairArguments) -> PreTrainedTokenizerBase:
    """The tokenizer named, else the model's, else that of the tasks."""
    name = arguments.tokenizer_name or arguments.model_name_or_path
    if name is not None:
        return AutoTokenizer.from_pretrained(name)
    if not arguments.tasks:
        raise ValueError("`tokenizer_name` is needed to train on a dataset from scratch, got None")
    return answer_first_tokenizer()


def make_trainer(
    script_args: LatentDiffusionArguments, training_args: LatentDiffusionTrainingConfig
) -> tuple[LatentDiffusionTrainer, Dataset | None]:
    """The trainer and the raw held-out pairs."""
    train, test = load_pairs(script_args)
    tokenizer = load_tokenizer(script_args)
    set_seed(training_args.seed)
    name, fields, peft_config = script_args.model_name_or_path, read_mapping(script_args.model_config) or {}, None
    model: Any
    is_autoencoder = AutoConfig.from_pretrained(name).model_type == "latent_diffusion"
    if training_args.stage == "autoencoder":
        model = train_on(name, fields) if is_autoencoder else LatentAutoencoder.from_encoder_decoder(name, **fields)
        if script_args.lora_r:
            peft_config = decoder_lora_config(
                model, r=script_args.lora_r, alpha=script_args.lora_alpha, dropout=script_args.lora_dropout
            )
    else:
        if not is_autoencoder:
            raise ValueError(f"`model_name_or_path` must be what the stage 'autoencoder' has written, got {name}")
        model = LatentDiffusionForConditionalGeneration.from_autoencoder(name, **fields)
    tokenized = tokenize_sides(train, test, tokenizer, script_args)
    trainer = LatentDiffusionTrainer(
        model,
        training_args,
        train_dataset=tokenized[0],
        eval_dataset=tokenized[1],
        processing_class=tokenizer,
        peft_config=peft_config,
    )
    return trainer, test


def train_on(name: str, fields: dict[str, Any]) -> LatentAutoencoder:
    """An autoencoder that was trained before, for further updates; `fields`, if given, must be those it has."""
    model = LatentAutoencoder.from_pretrained(name)
    changed = {field: value for field, value in fields.items() if getattr(model.config, field, None) != value}
    if changed:
        has = {field: getattr(model.config, field, None) for field in changed}
        raise ValueError(f"`model_config` must agree with what is trained on, {name}: {has}, got {changed}")
    return model


def generate_all(
    trainer: LatentDiffusionTrainer, pairs: Dataset, arguments: LatentDiffusionArguments
) -> dict[str, Any]:
    """
    Held-out texts written by greedy decoding: the targets from their own latents (stage `autoencoder`), or from the
    latents that were denoised for the inputs (`denoiser`).
    """
    given = {"max_new_tokens": arguments.max_length, **(read_mapping(arguments.generation_kwargs) or {})}
    trainer.model.eval()
    inputs, targets = list(pairs[arguments.input_column]), list(pairs[arguments.target_column])

    def denoise(**batch: torch.Tensor) -> torch.Tensor:
        return trainer.model.generate(**batch, **{"seed": 0, **given})

    def reconstruct(input_ids: torch.Tensor, attention_mask: torch.Tensor, **context: torch.Tensor) -> torch.Tensor:
        latents = trainer.autoencoder.encode(input_ids, attention_mask)
        return trainer.autoencoder.decode(latents, **context, **given)

    texts = {"input_ids": inputs}
    write: Callable[..., torch.Tensor] = denoise
    if trainer.stage == "autoencoder":
        texts, write = {"input_ids": targets}, reconstruct
        if trainer.autoencoder.config.decoder_reads_input:
            texts["context_ids"] = inputs
    with trainer.averaged():
        outputs, seconds = write_outputs(write, trainer.processing_class, texts, arguments, device=trainer.args.device)
    return {**judge_outputs(outputs, pairs, targets, arguments), "seconds": seconds}


def main(script_args: LatentDiffusionArguments, training_args: LatentDiffusionTrainingConfig) -> dict[str, Any]:
    """
    Train a stage, evaluate, and write beside the checkpoint what it takes to understand and repeat the run.

    `output_dir` then holds the model and tokenizer, `run.json` (resolved configuration, versions, commit, hardware),
    `training_log.jsonl` and `results.json`, whose content is returned. It goes on from the newest whole checkpoint in
    `output_dir`, if there is one; `resume_from_checkpoint: false` begins anew. With LoRA the adapter is merged into
    what is written.
    """
    with going_on(training_args):
        return _run(script_args, training_args)


def _run(script_args: LatentDiffusionArguments, training_args: LatentDiffusionTrainingConfig) -> dict[str, Any]:
    folder = Path(training_args.output_dir)
    trainer, test = make_trainer(script_args, training_args)
    run = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "script": asdict(script_args),
        "training": training_args.to_dict(),
        "model_config": trainer.autoencoder.config.to_dict() if trainer.stage == "autoencoder" else None,
        "num_parameters": sum(p.numel() for p in trainer.model.parameters()),
        "num_trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "environment": describe_environment(),
    }
    run["model_config"] = run["model_config"] or trainer.model.config.to_dict()
    trainer.plan()  # refuses a folder of another run before anything there is written
    write_json(folder / "run.json", run)

    def solve_all() -> dict[str, Any]:
        result = generate_all(trainer, test, script_args)
        return {name: value for name, value in result.items() if name != "outputs"}

    if test is not None:
        trainer.add_callback(TaskEvaluation(trainer, script_args.eval_generation_steps, solve_all))
    output = trainer.train()
    seconds = trainer.train_seconds
    held_out = {} if test is None else trainer.evaluate()
    if script_args.lora_r:
        trainer.model = trainer.model.merge_and_unload()
        trainer.autoencoder = trainer.model
    save_final(trainer, folder)

    results: dict[str, Any] = {
        "stage": trainer.stage,
        "tasks": script_args.tasks,
        "steps": output.global_step,
        "train_seconds": seconds,
        "loss": last_loss(trainer.state.log_history),
        "held_out": held_out,
        "generation": {} if test is None else generate_all(trainer, test, script_args),
        "run": {name: run[name] for name in ("command", "num_parameters", "environment")},
    }
    write_json(folder / "results.json", results)
    write_log(folder, trainer.state.log_history)
    return results


def save_final(trainer: LatentDiffusionTrainer, folder: Path) -> None:
    """The model, merged and averaged, and its tokenizer."""
    with trainer.averaged(), replacing_files(folder) as beside:
        trainer.model.save_pretrained(beside)
        trainer.processing_class.save_pretrained(beside)


def parse(
    arguments: Sequence[str] | None = None,
) -> tuple[LatentDiffusionArguments, LatentDiffusionTrainingConfig]:
    """Read the command line (`--config run.yaml`, then anything that overrides it). Unknown names raise."""
    return OptionParser((LatentDiffusionArguments, LatentDiffusionTrainingConfig)).parse_args_and_config(arguments)


__all__ = ["LatentDiffusionArguments", "generate_all", "load_tokenizer", "main", "make_trainer", "parse"]
