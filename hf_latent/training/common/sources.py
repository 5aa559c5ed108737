"""What a training run is told from outside its trainer: where the data, the model and the evaluation come from."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets, load_dataset

from hf_latent.data.data_files import check_features, is_local_file, pair_text, read_rows, to_dataset
from hf_latent.data.json_files import read_json_object
from hf_latent.evaluation.solving.local_files import ANSWER_FIELDS, QUESTION_FIELDS
from hf_latent.tasks import ArithmeticTask, SudokuTask, Task, get_task
from hf_latent.training.common.fields import choice

# Those of the library whose texts one model continues: answer_first has an encoder's.
TASKS = ("arithmetic", "countdown", "star_graph", "sudoku", "zebra")

# Columns of which trl reads one, or two, and those of them that are texts or conversations.
TRAINED_ON = ("text", "messages", "prompt", "input_ids")
TRAINED_TEXTS = ("text", "prompt", "completion")


@dataclass
class TrainArguments:
    """
    What is trained on, what is trained from scratch, and how a task is evaluated. Learning rate, steps, objective:
    [`MaskedDiffusionConfig`]; pretrained model and LoRA: [`~trl.ModelConfig`].
    """

    # Data: one of task, dataset_name, train_file
    task: str | None = choice(None, TASKS, "Task that generates its own data.")
    task_options: dict[str, Any] | str | None = field(
        default=None,
        metadata={"help": "Options of `task` as `get_task` takes them (in YAML, or as JSON), e.g. num_houses: 3."},
    )
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
        default=None,
        metadata={"help": "Local JSON lines, JSON, CSV or Parquet file to train on, in the place of `dataset_name`."},
    )
    eval_file: str | None = field(default=None, metadata={"help": "Local file to evaluate on."})

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
    attention: str = choice(
        "bidirectional",
        ["bidirectional", "block_causal"],
        "How the attention of a `backbone` is opened: to all positions, or within blocks and to those "
        "before (needs `block_size`).",
    )
    block_size: int | None = field(
        default=None, metadata={"help": "Positions of a block of a `backbone` with `attention` block_causal."}
    )
    order: str = choice(
        "left_to_right",
        ["left_to_right", "any"],
        "With `num_latent_tokens`: order in which a model made from a `backbone` writes.",
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
        for name in ("num_train_examples", "num_eval_examples", "max_train_examples", "max_eval_examples"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        if self.dataset_name is not None and is_local_file(self.dataset_name):
            raise ValueError(
                f"`dataset_name` is a dataset on the Hub or a folder, got {self.dataset_name!r}: give a file as "
                "`train_file`"
            )
        if self.task is not None and self.task not in TASKS:
            raise ValueError(f"`task` must be one of {TASKS}, got {self.task!r}")
        self.task_options = read_mapping(self.task_options, "task_options")
        if self.task is None and self.task_options:
            raise ValueError(f"`task_options` needs a `task`, got {self.task_options!r}")
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
        self.model_config = read_mapping(self.model_config, "model_config")
        self.generation_kwargs = read_mapping(self.generation_kwargs, "generation_kwargs")


def read_mapping(value: dict[str, Any] | str | None, name: str = "value") -> dict[str, Any] | None:
    """
    A mapping from a mapping, from JSON text, or from a path to a JSON file.

    Raises:
        ValueError: naming the option `name`, or the file, with line and column of what is no JSON.
    """
    if value is None or isinstance(value, dict):
        return value
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be fields, JSON or the path of a JSON file, got {value!r}")
    if not value.lstrip().startswith("{"):
        if not Path(value).is_file():
            raise ValueError(f"`{name}` must be JSON or the path of a JSON file, got {value!r}, which does not exist")
        return read_json_object(Path(value))
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"`{name}` is not JSON: {error.msg} at column {error.colno} of {value!r}") from None


def load_data(arguments: TrainArguments) -> tuple[Dataset, Dataset | None, Task | None]:
    """Training set, evaluation set and task. Instances of a task never occur in both sets."""
    task = None if arguments.task is None else task_of(arguments)
    if isinstance(task, ArithmeticTask):
        train = task.dataset(
            arguments.num_train_examples,
            arguments.task_seed,
            split="train",
            given_share=arguments.given_share,
            num_drills=arguments.num_drills,
        )
        return train, task.dataset(arguments.num_eval_examples, arguments.task_seed, split="test"), task
    if isinstance(task, SudokuTask):
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
    if task is not None:
        train = task.dataset(arguments.num_train_examples, arguments.task_seed, split="train")
        return train, task.dataset(arguments.num_eval_examples, arguments.task_seed, split="test"), task
    train, test = load_files(arguments) if arguments.train_file is not None else load_named(arguments)
    columns = arguments.prompt_column, arguments.completion_column

    def prepare(rows: Dataset, length: int | None) -> Dataset:
        return as_prompt_completion(cut(rows, length), *columns, chat=arguments.chat)

    train = prepare(train, arguments.max_train_examples)
    return train, None if test is None else prepare(test, arguments.max_eval_examples), None


def task_of(arguments: TrainArguments) -> Task:
    """The task that the arguments name; a Sudoku's size is `task_size` unless its options say it."""
    options = dict(read_mapping(arguments.task_options) or {})
    if arguments.task == "sudoku":
        options = {"size": arguments.task_size} | options
    return get_task(str(arguments.task), **options)


def load_files(arguments: TrainArguments) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation set of local files: JSON lines, JSON, CSV or Parquet."""

    named = {"prompt": arguments.prompt_column, "completion": arguments.completion_column}

    def read(option: str, limit: int | None) -> Dataset:
        rows = read_rows(getattr(arguments, option), limit)
        sources = {name: column or name for name, column in named.items()}
        if not any(named.values()) and not any(name in rows.columns for name in TRAINED_ON):
            # Files to evaluate on call them otherwise.
            usual = {"prompt": QUESTION_FIELDS, "completion": ANSWER_FIELDS}
            sources = {name: next((c for c in usual[name] if c in rows.columns), name) for name in named}
        is_pair = any(named.values()) or not any(name in rows.columns for name in TRAINED_ON if name != "prompt")
        if is_pair and (missing := sorted(set(sources.values()) - set(rows.columns))):
            raise ValueError(
                f"{rows.source} has no column {missing}; it has {rows.columns}: name two with `prompt_column` and "
                f"`completion_column`, or give one of {', '.join(TRAINED_ON)}"
            )
        texts = {*TRAINED_TEXTS, *sources.values()} & set(rows.columns)
        data = to_dataset(rows, sorted(texts), may_be_empty=(sources["prompt"],))
        if any(named.values()) or not is_pair:
            return data  # `as_prompt_completion` takes the two
        return data.rename_columns({column: name for name, column in sources.items() if column != name})

    test = None if arguments.eval_file is None else read("eval_file", arguments.max_eval_examples)
    return read("train_file", arguments.max_train_examples), test


def load_named(arguments: TrainArguments) -> tuple[Dataset, Dataset | None]:
    """Training and evaluation set of a dataset on the Hub or in a folder."""
    source = (arguments.dataset_name, arguments.dataset_config)
    test = load_dataset(*source, split=arguments.dataset_test_split) if arguments.dataset_test_split else None
    train = load_dataset(*source, split=arguments.dataset_train_split)
    for data in (train, test):
        if data is not None:
            check_features(data, str(arguments.dataset_name))
    return train, test


def cut(dataset: Dataset, length: int | None) -> Dataset:
    """The first `length` examples; all if None."""
    return dataset if length is None else dataset.select(range(min(length, len(dataset))))


def as_prompt_completion(
    dataset: Dataset, prompt_column: str | None, completion_column: str | None, *, chat: bool
) -> Dataset:
    """
    The two named columns as trl's `prompt` and `completion`, as text or, for `chat`, as messages; all others are
    dropped. A column that is not named has the name already; with neither named nothing is changed.
    """
    if prompt_column is None and completion_column is None:
        return dataset
    sources = {"prompt": prompt_column or "prompt", "completion": completion_column or "completion"}
    if missing := sorted(set(sources.values()) - set(dataset.column_names)):
        raise ValueError(f"the data has no column {missing}; it has {dataset.column_names}")
    roles = {"prompt": "user", "completion": "assistant"}

    def convert(row: dict[str, Any], number: int) -> dict[str, Any]:
        sides = {}
        for name, source in sources.items():
            place = f"the data, row {number}, column {source!r}"
            side = pair_text(row[source], place, may_be_empty=name == "prompt")
            if chat and not isinstance(side, str):
                raise ValueError(f"{place}: is a conversation already: leave `chat` out")
            sides[name] = [{"role": roles[name], "content": side}] if chat else side
        return sides

    return dataset.map(convert, with_indices=True, remove_columns=dataset.column_names)


__all__ = ["TASKS", "TrainArguments", "as_prompt_completion", "load_data", "read_mapping"]
