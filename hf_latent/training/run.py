"""A training run from a configuration file: what `hf-latent train --config run.yaml` and the recipes call."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    TrainerCallback,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint
from trl import ModelConfig, TrlParser, get_peft_config

from hf_latent.evaluation import solve_puzzles
from hf_latent.tasks import ArithmeticTask, SudokuTask, Task
from hf_latent.training.config import MaskedDiffusionConfig
from hf_latent.training.report import describe_environment, plot_training_curve, write_json, write_log
from hf_latent.training.trainer import MaskedDiffusionTrainer

TASKS = ("arithmetic", "sudoku")


@dataclass
class TrainArguments:
    """
    What is trained on, what is trained from scratch, and how a task is evaluated. Learning rate, steps, objective:
    [`MaskedDiffusionConfig`]; pretrained model and LoRA: [`~trl.ModelConfig`].
    """

    # Data: one of task, dataset_name, train_file
    task: str | None = field(default=None, metadata={"help": "Task that generates its own data.", "choices": TASKS})
    task_size: int = field(default=4, metadata={"help": "Side of the Sudoku board: 4, 6 or 9."})
    task_seed: int = field(default=0, metadata={"help": "Seed of the instances."})
    num_train_examples: int = field(default=20_000, metadata={"help": "Instances of the task to train on."})
    num_eval_examples: int = field(default=200, metadata={"help": "Held-out instances of the task."})
    given_share: float = field(
        default=0.0, metadata={"help": "Share of the word problems that come with a part of their reasoning."}
    )
    num_drills: int = field(default=0, metadata={"help": "Rows of calculations to train on beside the word problems."})
    min_givens: int | None = field(default=None, metadata={"help": "Fewest given cells of a Sudoku."})
    max_givens: int | None = field(default=None, metadata={"help": "Most given cells of a Sudoku."})
    num_ambiguous_examples: int = field(
        default=0, metadata={"help": "Further Sudokus to train on that may have several solutions; one is the target."}
    )
    min_ambiguous_givens: int = field(default=2, metadata={"help": "Fewest given cells of those."})
    max_ambiguous_givens: int = field(default=14, metadata={"help": "Most given cells of those."})
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, or a local folder of one."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of `dataset_name`."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split of `dataset_name` to train on."})
    dataset_test_split: str | None = field(default=None, metadata={"help": "Split of `dataset_name` to evaluate on."})
    train_file: str | None = field(default=None, metadata={"help": "Local JSON or JSON lines file to train on."})
    eval_file: str | None = field(default=None, metadata={"help": "Local JSON or JSON lines file to evaluate on."})

    # Model: this or `model_name_or_path`
    model_config: dict[str, Any] | str | None = field(
        default=None,
        metadata={
            "help": "Configuration of a model to train from scratch: fields (in YAML, or as JSON), or a path to a "
            "JSON file. `model_type` defaults to llada; vocabulary and special tokens are those of the tokenizer."
        },
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer for `model_config`. Defaults to the task's."}
    )

    # Evaluation of a task by generation
    eval_generation_steps: int = field(
        default=0, metadata={"help": "Solve the held-out instances every this many steps. 0: at the end only."}
    )
    eval_generation_batch_size: int = field(default=64, metadata={"help": "Instances solved at a time."})
    generation_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of `generate` for that (in YAML, or as JSON)."}
    )

    def __post_init__(self) -> None:
        given = [name for name in ("task", "dataset_name", "train_file") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of `task`, `dataset_name` and `train_file`, got {given or 'none'}")
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"`task` must be one of {TASKS}, got {self.task!r}")
        if (self.min_givens is None) != (self.max_givens is None):
            raise ValueError(
                f"`min_givens` and `max_givens` go together, got {self.min_givens!r} and {self.max_givens!r}"
            )
        if self.task is None and self.eval_generation_steps:
            raise ValueError(f"`eval_generation_steps` needs a `task`, got {self.eval_generation_steps}")
        self.model_config = read_mapping(self.model_config)
        self.generation_kwargs = read_mapping(self.generation_kwargs)


def read_mapping(value: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """A mapping from a mapping, from JSON text, or from a path to a JSON file."""
    if isinstance(value, str):
        return json.loads(value if value.lstrip().startswith("{") else Path(value).read_text(encoding="utf-8"))
    return value


def load_data(arguments: TrainArguments) -> tuple[Dataset, Dataset | None, Task | None]:
    """Training set, evaluation set and task. Instances of a task never occur in both sets."""
    if arguments.task == "arithmetic":
        problems = ArithmeticTask()
        train = problems.dataset(
            arguments.num_train_examples,
            arguments.task_seed,
            split="train",
            given_share=arguments.given_share,
            num_drills=arguments.num_drills,
        )
        return train, problems.dataset(arguments.num_eval_examples, arguments.task_seed, split="test"), problems
    if arguments.task == "sudoku":
        task = SudokuTask(arguments.task_size)
        givens = None if arguments.min_givens is None else (arguments.min_givens, arguments.max_givens)
        train, test = (
            task.dataset(num, arguments.task_seed, split=split, num_givens=givens)
            for split, num in (("train", arguments.num_train_examples), ("test", arguments.num_eval_examples))
        )
        if arguments.num_ambiguous_examples:
            givens = (arguments.min_ambiguous_givens, arguments.max_ambiguous_givens)
            # Another seed: the same one would draw the same solutions in the same order.
            seed = arguments.task_seed + 1
            more = task.dataset(arguments.num_ambiguous_examples, seed, split="train", num_givens=givens, unique=False)
            train = concatenate_datasets([train, more])
        return train, test, task
    if arguments.train_file is not None:
        files = {"train": arguments.train_file}
        if arguments.eval_file is not None:
            files["test"] = arguments.eval_file
        data = load_dataset("json", data_files=files)
        return data["train"], data.get("test"), None
    source = (arguments.dataset_name, arguments.dataset_config)
    test = load_dataset(*source, split=arguments.dataset_test_split) if arguments.dataset_test_split else None
    return load_dataset(*source, split=arguments.dataset_train_split), test, None


def build_model(model_config: dict[str, Any], tokenizer: PreTrainedTokenizerBase, model_args: ModelConfig) -> Any:
    """A model with random weights; its vocabulary and special tokens are those of `tokenizer`."""
    config_class = CONFIG_MAPPING[model_config.get("model_type", "llada")]
    chosen = {name: value for name, value in model_config.items() if name != "model_type"}
    known = {f.name for f in fields(config_class)} | set(config_class.attribute_map)
    if unknown := set(chosen) - known:
        raise ValueError(f"`model_config` has {sorted(unknown)}, which {config_class.__name__} does not know")
    if tokenizer.mask_token_id is None and "mask_token_id" not in chosen:
        raise ValueError(
            "the tokenizer has no mask token: add one or give `mask_token_id` in `model_config`, got None"
        )
    own = {"vocab_size": len(tokenizer)}
    own |= {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("mask", "pad", "eos", "bos")}
    return AutoModelForCausalLM.from_config(
        config_class(**{**own, **chosen}), dtype=torch.float32, attn_implementation=model_args.attn_implementation
    )


class TaskEvaluation(TrainerCallback):
    """Solve the held-out instances every `every` steps, and write the log so far beside the checkpoints."""

    def __init__(self, trainer: MaskedDiffusionTrainer, every: int, solve_all: Callable[[], dict[str, Any]]) -> None:
        self.trainer, self.every, self.solve_all = trainer, every, solve_all

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every and state.global_step % self.every == 0:
            self.trainer.model.eval()  # also tells `log` that these are metrics of an evaluation
            should_log = control.should_log
            self.trainer.log({f"eval_{name}": value for name, value in self.solve_all().items()})
            control.should_log = should_log  # `log` takes it for done, and the step's own metrics would be lost
            self.trainer.model.train()
            write_log(Path(args.output_dir), state.log_history)


def make_trainer(
    script_args: TrainArguments, training_args: MaskedDiffusionConfig, model_args: ModelConfig
) -> tuple[MaskedDiffusionTrainer, Task | None, Dataset | None]:
    """The trainer, its task and the raw held-out instances."""
    if (script_args.model_config is None) == (model_args.model_name_or_path is None):
        raise ValueError(
            "give either `model_config` (from scratch) or `model_name_or_path`, got "
            f"{script_args.model_config!r} and {model_args.model_name_or_path!r}"
        )
    train, test, task = load_data(script_args)
    name = model_args.model_name_or_path or script_args.tokenizer_name
    if name is None and task is None:
        raise ValueError("`tokenizer_name` is needed to train on a dataset from scratch, got None")
    tokenizer = AutoTokenizer.from_pretrained(name) if name else task.tokenizer()
    set_seed(training_args.seed)
    model: Any
    if (model_config := read_mapping(script_args.model_config)) is not None:
        model = build_model(model_config, tokenizer, model_args)
    else:
        model = model_args.model_name_or_path
        chosen = {"revision": model_args.model_revision, "attn_implementation": model_args.attn_implementation}
        training_args.model_init_kwargs = {
            "dtype": model_args.dtype,
            **chosen,
            **(training_args.model_init_kwargs or {}),
        }
    trainer = MaskedDiffusionTrainer(
        model,
        training_args,
        train_dataset=train,
        eval_dataset=test,
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    return trainer, task, test


def main(script_args: TrainArguments, training_args: MaskedDiffusionConfig, model_args: ModelConfig) -> dict[str, Any]:
    """
    Train, evaluate, and write beside the checkpoint what it takes to understand and repeat the run.

    `output_dir` then holds the model and tokenizer, `run.json` (resolved configuration, versions, commit, hardware),
    `training_log.jsonl`, `training_curve.png` and `results.json`, whose content is returned.
    `resume_from_checkpoint: auto` goes on from the last checkpoint in `output_dir`, if there is one.
    """
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
    resume = training_args.resume_from_checkpoint
    if resume == "auto":
        resume = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    output = trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()

    trainer.model.eval()
    results: dict[str, Any] = {
        "task": None if task is None else {"name": task.name, "version": task.version},
        "steps": output.global_step,
        "train_seconds": output.metrics["train_runtime"],
        "held_out": {} if test is None else trainer.evaluate(),
        "generation": {} if task is None else {**solve_all(), "settings": script_args.generation_kwargs},
        "run": {name: run[name] for name in ("command", "num_parameters", "environment")},
    }
    write_json(folder / "results.json", results)
    write_log(folder, trainer.state.log_history)
    plot_training_curve(trainer.state.log_history, folder / "training_curve.png")
    return results


def parse(arguments: Sequence[str] | None = None) -> tuple[TrainArguments, MaskedDiffusionConfig, ModelConfig]:
    """Read the command line (`--config run.yaml`, then anything that overrides it). Unknown names raise."""
    return TrlParser((TrainArguments, MaskedDiffusionConfig, ModelConfig)).parse_args_and_config(arguments)


__all__ = ["TrainArguments", "build_model", "load_data", "main", "make_trainer", "parse"]
