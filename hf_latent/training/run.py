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
from hf_latent.modeling.latent_token.modeling_latent_token import LatentTokenForMaskedDiffusion
from hf_latent.tasks import ArithmeticTask, SudokuTask, Task
from hf_latent.training.config import MaskedDiffusionConfig
from hf_latent.training.report import describe_environment, peak_memory, plot_training_curve, write_json, write_log
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
    train_file: str | None = field(
        default=None, metadata={"help": "Local JSON or JSON lines file to train on, in the place of `dataset_name`."}
    )
    eval_file: str | None = field(default=None, metadata={"help": "Local JSON or JSON lines file to evaluate on."})

    prompt_column: str | None = field(
        default=None, metadata={"help": "Column of a dataset or file that is the prompt, if it is not `prompt`."}
    )
    completion_column: str | None = field(
        default=None, metadata={"help": "Column that is the completion, if it is not `completion`."}
    )
    chat: bool = field(
        default=False,
        metadata={"help": "Make the two a conversation, a question and its answer, under the chat template."},
    )
    max_train_examples: int | None = field(
        default=None, metadata={"help": "Train on no more than this many examples of a dataset or file."}
    )
    max_eval_examples: int | None = field(
        default=None, metadata={"help": "Evaluate on no more than this many examples of a dataset or file."}
    )

    # Model: `model_name_or_path`, or one of these
    backbone: str | None = field(
        default=None,
        metadata={
            "help": "Autoregressive model (Llama, Qwen, Mistral, Gemma, GPT-2, ...) to turn into a masked diffusion "
            "model; its tokenizer gets a mask token if it has none."
        },
    )
    shift_logits: bool = field(
        default=True, metadata={"help": "Keep the alignment of the backbone's head: a state predicts the next token."}
    )
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
        if self.train_file is not None:  # the one flag that puts local data in the place of a YAML's public data
            self.dataset_name = None
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
        if self.task is not None and (self.prompt_column or self.completion_column or self.chat):
            raise ValueError(f"`prompt_column`, `completion_column` and `chat` need no `task`, got {self.task!r}")
        if self.chat and not (self.prompt_column and self.completion_column):
            raise ValueError("`chat` needs `prompt_column` and `completion_column`, got none")
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
    train, test = load_files(arguments) if arguments.train_file is not None else load_named(arguments)
    train = as_prompt_completion(cut(train, arguments.max_train_examples), arguments)
    return (
        train,
        None if test is None else as_prompt_completion(cut(test, arguments.max_eval_examples), arguments),
        None,
    )


def load_files(arguments: TrainArguments) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation set of local JSON files."""
    files = {"train": arguments.train_file}
    if arguments.eval_file is not None:
        files["test"] = arguments.eval_file
    data = load_dataset("json", data_files=files)
    return data["train"], data.get("test")


def load_named(arguments: TrainArguments) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation set of a dataset on the Hub or in a folder."""
    source = (arguments.dataset_name, arguments.dataset_config)
    test = load_dataset(*source, split=arguments.dataset_test_split) if arguments.dataset_test_split else None
    return load_dataset(*source, split=arguments.dataset_train_split), test


def cut(dataset: Dataset, length: int | None) -> Dataset:
    """The first `length` examples; all if None."""
    return dataset if length is None else dataset.select(range(min(length, len(dataset))))


def as_prompt_completion(dataset: Dataset, arguments: TrainArguments) -> Dataset:
    """The two named columns as trl's `prompt` and `completion`, as text or as messages; all others are dropped."""
    columns = {"prompt": arguments.prompt_column, "completion": arguments.completion_column}
    if not any(columns.values()):
        return dataset
    sources = {name: source or name for name, source in columns.items()}
    if missing := sorted(set(sources.values()) - set(dataset.column_names)):
        raise ValueError(f"the data has no column {missing}; it has {dataset.column_names}")
    roles = {"prompt": "user", "completion": "assistant"}

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        texts = {name: row[source] for name, source in sources.items()}
        if not arguments.chat:
            return texts
        return {name: [{"role": roles[name], "content": text}] for name, text in texts.items()}

    return dataset.map(convert, remove_columns=dataset.column_names)


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
    train, test, task = load_data(script_args)
    name = script_args.tokenizer_name or model_args.model_name_or_path or script_args.backbone
    if name is None and task is None:
        raise ValueError("`tokenizer_name` is needed to train on a dataset from scratch, got None")
    tokenizer = AutoTokenizer.from_pretrained(name) if name else task.tokenizer()
    set_seed(training_args.seed)
    model: Any
    if (model_config := read_mapping(script_args.model_config)) is not None:
        model = build_model(model_config, tokenizer, model_args)
    elif script_args.backbone is not None:
        model = LatentTokenForMaskedDiffusion.from_backbone(
            script_args.backbone,
            tokenizer,
            shift_logits=script_args.shift_logits,
            dtype=model_args.dtype or "float32",
            revision=model_args.model_revision,
            attn_implementation=model_args.attn_implementation,
            trust_remote_code=training_args.trust_remote_code,
        )
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
    """Read the command line (`--config run.yaml`, then anything that overrides it). Unknown names raise."""
    return TrlParser((TrainArguments, MaskedDiffusionConfig, ModelConfig)).parse_args_and_config(arguments)


__all__ = ["TrainArguments", "build_model", "load_data", "main", "make_trainer", "parse"]
