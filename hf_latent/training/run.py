"""A training run from a configuration file: what `hf-latent train --config run.yaml` and the recipes call."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.integrations import get_reporting_integration_callbacks
from trl import ModelConfig, get_peft_config, get_quantization_config

from hf_latent.checkpoints.names import resolve_checkpoint
from hf_latent.evaluation import solve_puzzles
from hf_latent.modeling.latent_token.backbone import load_tokenizer
from hf_latent.modeling.latent_token.modeling_latent_token import LatentTokenForMaskedDiffusion
from hf_latent.modeling.latent_token.modeling_latent_token_causal import LatentTokenForCausalLM
from hf_latent.modeling.mode import evaluation_mode
from hf_latent.tasks import Task
from hf_latent.training.common.sources import TrainArguments, load_data, read_mapping
from hf_latent.training.latent_tokens.config import LatentTokenTrainingConfig
from hf_latent.training.latent_tokens.trainer import LatentTokenTrainer
from hf_latent.training.masked_diffusion.config import MaskedDiffusionConfig
from hf_latent.training.masked_diffusion.trainer import MaskedDiffusionTrainer
from hf_latent.training.runs.finishing import going_on, last_loss
from hf_latent.training.runs.options import OptionParser, config_of, read_config
from hf_latent.training.runs.report import (
    describe_environment,
    peak_memory,
    plot_training_curve,
    write_json,
    write_log,
)


def build_model(model_config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, model_args: ModelConfig) -> Any:
    """A model with random weights; its vocabulary and special tokens are those of `tokenizer`."""
    model_type = model_config.get("model_type", "llada")
    if model_type not in CONFIG_MAPPING:
        ours = "llada, Dream, latent_token"
        raise ValueError(f"`model_type` of `model_config` must be one of {ours}, got {model_type!r}")
    config_class = CONFIG_MAPPING[model_type]
    chosen = {name: value for name, value in model_config.items() if name != "model_type"}
    known = {f.name for f in fields(config_class)} | set(config_class.attribute_map)
    if unknown := set(chosen) - known:
        raise ValueError(f"`model_config` has {sorted(unknown)}, which {config_class.__name__} does not know")
    if tokenizer.mask_token_id is None and "mask_token_id" not in chosen:
        raise ValueError(
            "the tokenizer has no mask token: add one or give `mask_token_id` in `model_config`, got None"
        )
    own = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("mask", "pad", "eos", "bos")}
    size = {"vocab_size": len(tokenizer)}
    if "text_config" in known:  # of a composite, whose decoder has the vocabulary
        chosen["text_config"] = {"model_type": "llama", **size, **chosen.get("text_config", {})}
    else:
        own |= size
    return AutoModelForCausalLM.from_config(
        config_class(**{**own, **chosen}), dtype=torch.float32, attn_implementation=model_args.attn_implementation
    )


class TaskEvaluation(TrainerCallback):
    """Solve the held-out instances every `every` steps, and write the log so far beside the checkpoints."""

    def __init__(self, trainer: MaskedDiffusionTrainer, every: int, solve_all: Callable[[], dict[str, Any]]) -> None:
        self.trainer, self.every, self.solve_all = trainer, every, solve_all

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every and state.global_step % self.every == 0:
            should_log = control.should_log
            with evaluation_mode(self.trainer.model):  # also tells `log` that these are metrics of an evaluation
                self.trainer.log({f"eval_{name}": value for name, value in self.solve_all().items()})
            control.should_log = should_log  # `log` takes it for done, and the step's own metrics would be lost
            write_log(Path(args.output_dir), state.log_history)


def load_start(
    script_args: TrainArguments,
    training_args: MaskedDiffusionConfig,
    model_args: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
) -> PreTrainedModel | str:
    """The model that a run starts from, or, where the trainer loads it, its name."""
    if (model_args.load_in_4bit or model_args.load_in_8bit) and not model_args.use_peft:
        raise ValueError("`load_in_4bit` and `load_in_8bit` need `use_peft`: quantized weights cannot be trained")
    chosen = {
        "dtype": model_args.dtype,
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        **(training_args.model_init_kwargs or {}),
    }
    if (model_config := read_mapping(script_args.model_config)) is not None:
        return build_model(model_config, tokenizer, model_args)
    if script_args.backbone is None:
        training_args.model_init_kwargs = chosen
        return model_args.model_name_or_path
    if (quantization_config := get_quantization_config(model_args)) is not None:
        chosen["quantization_config"] = quantization_config
    chosen["trust_remote_code"] = training_args.trust_remote_code
    if not isinstance(training_args, LatentTokenTrainingConfig):
        chosen |= {"attention": script_args.attention, "block_size": script_args.block_size}
        return LatentTokenForMaskedDiffusion.from_backbone(
            script_args.backbone, tokenizer, shift_logits=script_args.shift_logits, **chosen
        )
    chosen["num_latent_tokens"] = max(training_args.num_latent_tokens)
    if script_args.order == "left_to_right":
        return LatentTokenForCausalLM.from_backbone(script_args.backbone, tokenizer, **chosen)
    return LatentTokenForMaskedDiffusion.from_backbone(
        script_args.backbone, tokenizer, attention="semi_causal", **chosen
    )


def check_blocks(script_args: TrainArguments, training_args: MaskedDiffusionConfig) -> None:
    """Raise `ValueError` for blocks that nothing would be made of, and for block-causal attention without a size."""
    is_latent = isinstance(training_args, LatentTokenTrainingConfig)
    if script_args.attention == "block_causal" and (script_args.backbone is None or is_latent):
        raise ValueError(
            "`attention` 'block_causal' is for a `backbone` that is turned into a model without `num_latent_tokens`: "
            f"a loaded model has its attention, and `model_config` says its own; got `backbone` {script_args.backbone}"
        )
    if (script_args.attention == "block_causal") != (script_args.block_size is not None):
        raise ValueError(
            f"`block_size` goes with `attention` 'block_causal', got {script_args.block_size} with "
            f"{script_args.attention!r}"
        )


def check_targets(model_args: ModelConfig) -> None:
    """LoRA has to be told its layers: peft knows those of no model of this library by its type."""
    if model_args.use_peft and not model_args.lora_target_modules and not model_args.lora_target_parameters:
        raise ValueError(
            "`use_peft` needs `lora_target_modules`, got None: all-linear for every linear layer, or names of some, "
            "such as q_proj v_proj (gate_proj, up_proj, down_proj ... of Llama-like layers)"
        )


def resolve_backbone(name: str, training_args: MaskedDiffusionConfig) -> str:
    """The folder or name of a backbone; of a GGUF file its folder, with `gguf_file` among `model_init_kwargs`."""
    path = Path(name).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        training_args.model_init_kwargs = {**(training_args.model_init_kwargs or {}), "gguf_file": path.name}
        return str(path.parent)
    name = resolve_checkpoint(name, "backbone")
    files = sorted(file.name for file in path.glob("*.gguf")) if path.is_dir() else []
    is_named = "gguf_file" in (training_args.model_init_kwargs or {})
    if files and not is_named and not (path / "config.json").is_file():
        raise ValueError(f"`backbone` must be one of the GGUF files in {name} ({', '.join(files)}), got the folder")
    return name


def find_tokenizer(
    script_args: TrainArguments, training_args: MaskedDiffusionConfig, model_args: ModelConfig, task: Task | None
) -> PreTrainedTokenizerBase:
    """The tokenizer named, else the one beside the model or in its GGUF file, else that of the task."""
    name = script_args.tokenizer_name or model_args.model_name_or_path
    if name is not None:
        return AutoTokenizer.from_pretrained(name)
    if script_args.backbone is not None:
        given = {"revision": model_args.model_revision, "trust_remote_code": training_args.trust_remote_code}
        try:
            return load_tokenizer(script_args.backbone, given | (training_args.model_init_kwargs or {}))
        except ValueError as error:
            raise ValueError(f"`tokenizer_name` is needed with this `backbone`, got None: {error}") from error
    if task is None:
        raise ValueError("`tokenizer_name` is needed to train on a dataset from scratch, got None")
    return task.tokenizer()


def make_trainer(
    script_args: TrainArguments, training_args: MaskedDiffusionConfig, model_args: ModelConfig
) -> tuple[MaskedDiffusionTrainer, Task | None, Dataset | None]:
    """The trainer, its task and the raw held-out instances."""
    sources = {
        "model_config": script_args.model_config,
        "backbone": script_args.backbone,
        "model_name_or_path": model_args.model_name_or_path,
    }
    if sum(source is not None for source in sources.values()) != 1:
        raise ValueError(
            "give exactly one of `model_config` (from scratch), `backbone` (an autoregressive model to turn into a "
            f"masked diffusion model) and `model_name_or_path`, got {sources}"
        )
    check_blocks(script_args, training_args)
    if script_args.backbone is not None:
        script_args.backbone = resolve_backbone(script_args.backbone, training_args)
    if model_args.model_name_or_path is not None:
        model_args.model_name_or_path = resolve_checkpoint(model_args.model_name_or_path, "model_name_or_path")
    check_targets(model_args)
    train, test, task = load_data(script_args)
    tokenizer = find_tokenizer(script_args, training_args, model_args, task)
    set_seed(training_args.seed)
    is_latent = isinstance(training_args, LatentTokenTrainingConfig)
    trainer = (LatentTokenTrainer if is_latent else MaskedDiffusionTrainer)(
        load_start(script_args, training_args, model_args, tokenizer),
        training_args,
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
        quantization_config=get_quantization_config(model_args) if model_args.model_name_or_path else None,
        peft_config=get_peft_config(model_args),
    )
    return trainer, task, test


def main(script_args: TrainArguments, training_args: MaskedDiffusionConfig, model_args: ModelConfig) -> dict[str, Any]:
    """
    Train, evaluate, and write beside the checkpoint what it takes to understand and repeat the run.

    `output_dir` then holds the model and tokenizer, `run.json` (resolved configuration, versions, commit, hardware),
    `training_log.jsonl`, `training_curve.png` and `results.json`, whose content is returned.
    The run goes on from the newest whole checkpoint in `output_dir`, if there is one; `resume_from_checkpoint: false`
    begins anew. Interrupted by ctrl-C, it says how to go on.
    """
    with going_on(training_args):
        return _run(script_args, training_args, model_args)


def _run(script_args: TrainArguments, training_args: MaskedDiffusionConfig, model_args: ModelConfig) -> dict[str, Any]:
    get_reporting_integration_callbacks(training_args.report_to)  # raises for what it does not know, before any work
    folder = Path(training_args.output_dir)
    trainer, task, test = make_trainer(script_args, training_args, model_args)
    run = {
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "script": asdict(script_args),
        "training": training_args.to_dict(),
        "model": asdict(model_args),
        "model_config": trainer.model.config.to_dict(),
        "num_parameters": trainer.model.num_parameters(),
        "num_trainable_parameters": trainer.model.num_parameters(only_trainable=True),
        "environment": describe_environment(),
    }
    trainer.plan()  # refuses a folder of another run before anything there is written
    write_json(folder / "run.json", run)

    def solve_all() -> dict[str, Any]:
        result = solve_puzzles(
            trainer.model,
            trainer.processing_class,
            task,
            test,
            batch_size=script_args.eval_generation_batch_size,
            **(read_mapping(script_args.generation_kwargs) or {}),
        )
        return {name: value for name, value in result.to_dict().items() if name != "settings"}

    if task is not None:
        trainer.add_callback(TaskEvaluation(trainer, script_args.eval_generation_steps, solve_all))
    output = trainer.train()
    seconds = trainer.train_seconds
    trainer.save_model()

    trainer.model.eval()
    results: dict[str, Any] = {
        "task": None if task is None else {"name": task.name, "version": task.version},
        "steps": output.global_step,
        "train_seconds": seconds,
        "loss": last_loss(trainer.state.log_history),
        "peak_memory_mib": peak_memory(),
        "held_out": {} if test is None else trainer.evaluate(),
        "generation": {} if task is None else {**solve_all(), "settings": script_args.generation_kwargs},
        "run": {name: run[name] for name in ("command", "num_parameters", "environment")},
    }
    write_json(folder / "results.json", results)
    write_log(folder, trainer.state.log_history)
    plot_training_curve(trainer.state.log_history, folder / "training_curve.png")
    return results


def parse(arguments: Sequence[str] | None = None) -> tuple[TrainArguments, MaskedDiffusionConfig, ModelConfig]:
    """
    Read the command line (`--config run.yaml`, then anything that overrides it). Unknown names raise.

    With `num_latent_tokens`, there or in the YAML, the run is one of [`LatentTokenTrainer`].
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    config_class = LatentTokenTrainingConfig if names_latent_tokens(words) else MaskedDiffusionConfig
    return OptionParser((TrainArguments, config_class, ModelConfig)).parse_args_and_config(words)


def names_latent_tokens(words: Sequence[str]) -> bool:
    """Whether a command line or its YAML says `num_latent_tokens`."""
    if any(word.partition("=")[0].replace("-", "_") == "__num_latent_tokens" for word in words):
        return True
    config = config_of(list(words))
    return config is not None and any(name.replace("-", "_") == "num_latent_tokens" for name in read_config(config))


__all__ = ["TrainArguments", "build_model", "load_data", "main", "make_trainer", "parse"]
