"""Where pairs of texts come from, and how outputs are judged: what all recipes of latent diffusion share."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from datasets import Dataset, concatenate_datasets, load_dataset
from transformers import PreTrainedTokenizerBase

from hf_latent.data.data_files import read_rows, to_dataset
from hf_latent.evaluation.solving.similarity import TEXT_METRICS, text_similarity
from hf_latent.tasks.answer_first import KINDS, ORDERS, AnswerFirstTask, strip_special
from hf_latent.training.common.fields import choice
from hf_latent.training.latent_diffusion.data import TextCollator, tokenize_pairs


@dataclass
class PairArguments:
    """Pairs of input and target: of tasks, of a local file, or of a dataset on the Hub."""

    tasks: list[str] | None = field(
        default=None, metadata={"help": f"Tasks that generate their own data, of {', '.join(KINDS)}."}
    )
    order: str = choice("answer_first", ORDERS, "Where the answer stands in a target.")
    task_seed: int = field(default=0, metadata={"help": "Seed of the instances."})
    num_train_examples: int = field(
        default=90_000, metadata={"help": "Instances of each task to train on, or as many as there are."}
    )
    num_eval_examples: int = field(default=500, metadata={"help": "Held-out instances of each task."})
    dataset_name: str | None = field(default=None, metadata={"help": "Dataset on the Hub, or a local folder of one."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of `dataset_name`."})
    dataset_train_split: str = field(default="train", metadata={"help": "Split of `dataset_name` to train on."})
    dataset_test_split: str | None = field(default=None, metadata={"help": "Split of `dataset_name` to evaluate on."})
    train_file: str | None = field(default=None, metadata={"help": "Local JSON or JSON lines file to train on."})
    eval_file: str | None = field(default=None, metadata={"help": "Local JSON or JSON lines file to evaluate on."})
    input_column: str = field(default="prompt", metadata={"help": "Column of the inputs."})
    target_column: str = field(default="completion", metadata={"help": "Column of the targets."})
    max_length: int = field(default=128, metadata={"help": "Most tokens of a text; longer ones are cut."})

    model_name_or_path: str | None = field(default=None, metadata={"help": "Name on the Hub, or folder."})
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer, if not that of `model_name_or_path` or of the tasks."}
    )

    eval_generation_steps: int = field(
        default=0, metadata={"help": "Generate for the held-out instances every this many steps. 0: at the end only."}
    )
    eval_generation_batch_size: int = field(default=100, metadata={"help": "Instances generated for at a time."})
    generation_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Arguments of `generate` for that (in YAML, or as JSON)."}
    )
    text_metric: str | None = choice(None, TEXT_METRICS, "Also compare outputs with targets by this similarity.")

    def __post_init__(self) -> None:
        given = [name for name in ("tasks", "dataset_name", "train_file") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of `tasks`, `dataset_name` and `train_file`, got {given or 'none'}")
        for kind in self.tasks or ():
            AnswerFirstTask(kind, self.order)  # refuses unknown names
        if self.text_metric not in (None, *TEXT_METRICS):
            raise ValueError(f"`text_metric` must be one of {TEXT_METRICS}, got {self.text_metric!r}")
        for name in ("num_train_examples", "num_eval_examples", "max_length", "eval_generation_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")


def load_pairs(arguments: PairArguments) -> tuple[Dataset, Dataset | None]:
    """
    Training set and held-out set with the input and the target column. Instances of a task never occur in both; of a
    task with fewer instances than asked for, all are taken. Columns `task` and `answer` say how to judge an output.
    """
    if arguments.tasks:
        sets = []
        for split, count in (("train", arguments.num_train_examples), ("test", arguments.num_eval_examples)):
            parts = []
            for kind in arguments.tasks:
                task = AnswerFirstTask(kind, arguments.order)
                part = task.dataset(count, arguments.task_seed, split=split, at_most=True)
                parts.append(part.add_column("task", [kind] * len(part)))
            sets.append(concatenate_datasets(parts))
        return sets[0], sets[1]
    if arguments.train_file is not None:
        columns = (arguments.input_column, arguments.target_column)
        files = (arguments.train_file, arguments.eval_file)
        train, test = (None if file is None else to_dataset(read_rows(file), columns) for file in files)
        return cast(Dataset, train), test
    source = (arguments.dataset_name, arguments.dataset_config)
    test = load_dataset(*source, split=arguments.dataset_test_split) if arguments.dataset_test_split else None
    return load_dataset(*source, split=arguments.dataset_train_split), test


def tokenize_sides(
    train: Dataset, test: Dataset | None, tokenizer: PreTrainedTokenizerBase, arguments: PairArguments
) -> list[Dataset | None]:
    """[`tokenize_pairs`] of the pairs of [`load_pairs`]; what is wrong with a text is said with its file."""
    options: dict[str, Any] = {
        "max_length": arguments.max_length,
        "input_column": arguments.input_column,
        "target_column": arguments.target_column,
    }
    sides = ((arguments.train_file or "the training set", train), (arguments.eval_file or "the held-out set", test))
    return [None if pairs is None else tokenize_pairs(pairs, tokenizer, name=name, **options) for name, pairs in sides]


def write_outputs(
    write: Callable[..., torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    texts: dict[str, list[str]],
    arguments: PairArguments,
    *,
    device: torch.device,
) -> tuple[list[str], float]:
    """
    Outputs for held-out texts, as text without special tokens, and the seconds it took.

    Args:
        write: from a batch of `TextCollator` to ids of the outputs `(B, length)`.
        texts: name in that batch (`input_ids`, `context_ids`) to the texts.
    """
    start = time.perf_counter()
    outputs: list[str] = []
    collate, size = TextCollator(tokenizer.pad_token_id), arguments.eval_generation_batch_size
    for first in range(0, len(texts["input_ids"]), size):
        encoded = {
            name: tokenizer(all_texts[first : first + size], truncation=True, max_length=arguments.max_length)
            for name, all_texts in texts.items()
        }
        rows = zip(*(encoded[name]["input_ids"] for name in texts), strict=True)
        batch = collate([dict(zip(texts, row, strict=True)) for row in rows])
        written = write(**{name: value.to(device) for name, value in batch.items()})
        outputs += tokenizer.batch_decode(written, skip_special_tokens=True)
    return outputs, time.perf_counter() - start


def judge_outputs(outputs: list[str], pairs: Dataset, targets: list[str], arguments: PairArguments) -> dict[str, Any]:
    """
    Compare outputs with targets.

    Returns:
        `exact` (whole target right), the `text_metric` if one is asked for, `accuracy` (answer right, of tasks), its
        standard error, accuracy and `exact` of each task as well where there are several, `num_examples`, and
        `outputs`, the first ten.
    """
    exact = [strip_special(o) == strip_special(t) for o, t in zip(outputs, targets, strict=True)]
    result: dict[str, Any] = {"exact": share(exact)}
    if arguments.text_metric is not None:
        written, wanted = ([strip_special(text) for text in side] for side in (outputs, targets))
        result[arguments.text_metric] = text_similarity(written, wanted, arguments.text_metric)
    if arguments.tasks:
        judge = AnswerFirstTask(order=arguments.order)
        solved = [judge.is_solved({"answer": a}, o) for a, o in zip(pairs["answer"], outputs, strict=True)]
        result["accuracy"] = share(solved)
        result["standard_error"] = math.sqrt(result["accuracy"] * (1 - result["accuracy"]) / len(solved))
        for kind in arguments.tasks if len(arguments.tasks) > 1 else ():
            for name, flags in (("accuracy", solved), ("exact", exact)):
                chosen = [flag for flag, k in zip(flags, pairs["task"], strict=True) if k == kind]
                result[f"{name}_{kind}"] = share(chosen)
    return {**result, "num_examples": len(outputs), "outputs": outputs[:10]}


def share(flags: list[bool]) -> float:
    """Share of true ones."""
    return sum(flags) / max(len(flags), 1)


__all__ = ["PairArguments", "judge_outputs", "load_pairs", "tokenize_sides", "write_outputs"]
