"""Tasks by name: the object that verifies answers, and its instances as a dataset with splits."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

from hf_latent.tasks.answer_first import AnswerFirstTask
from hf_latent.tasks.arithmetic import ArithmeticTask
from hf_latent.tasks.countdown import CountdownTask
from hf_latent.tasks.drawing import progress
from hf_latent.tasks.star_graph import StarGraphTask
from hf_latent.tasks.sudoku import SudokuTask
from hf_latent.tasks.zebra import ZebraTask

if TYPE_CHECKING:
    from datasets import DatasetDict

    from hf_latent.tasks.task import Task

__all__ = ["SIZED_NAMES", "TASKS", "get_task", "load_task"]

TASKS: dict[str, Any] = {
    "answer_first": AnswerFirstTask,
    "arithmetic": ArithmeticTask,
    "countdown": CountdownTask,
    "star_graph": StarGraphTask,
    "sudoku": SudokuTask,
    "zebra": ZebraTask,
}
# Name of a task to: what follows a hyphen behind it, and the options that this says.
SIZED_NAMES: dict[str, tuple[str, tuple[str, ...]]] = {
    "countdown": (r"(\d+)", ("num_numbers",)),
    "star_graph": (r"(\d+)x(\d+)", ("degree", "path_length")),
    "sudoku": (r"(\d+)x\1", ("size",)),
    "zebra": (r"(\d+)x(\d+)", ("num_houses", "num_attributes")),
}
EXAMPLES = "countdown-4, star_graph-2x5, sudoku-9x9, zebra-4x4"


def get_task(name: str, **options: Any) -> Task:
    """
    The task of a name, to generate, format and verify with.

    Args:
        name (`str`): one of `TASKS`, or with sizes behind it: `countdown-4` (numbers), `star_graph-2x5` (degree, path
            length), `sudoku-9x9`, `zebra-4x3` (houses, attributes).
        options: arguments of the task's class, e.g. `num_givens=(24, 30)` of [`SudokuTask`].

    Raises:
        ValueError: for an unknown name, option or value.

    Example:

    ```python
    >>> from hf_latent.tasks import get_task

    >>> task = get_task("zebra", num_houses=3, num_attributes=2)
    >>> task.verify("=A2B1;@B23;@A32", "231\\n132")
    True
    ```
    """
    base, sizes = split_name(name)
    allowed = [option for option in inspect.signature(TASKS[base].__init__).parameters if option != "self"]
    if unknown := sorted(set(options) - set(allowed)):
        raise ValueError(f"`{name}` has no options {unknown}: it takes {', '.join(allowed)}.")
    if twice := sorted(set(options) & set(sizes)):
        raise ValueError(f"`name` {name!r} gives {twice} already: leave them out.")
    return TASKS[base](**sizes, **options)


def split_name(name: str) -> tuple[str, dict[str, int]]:
    """`"zebra-4x3"` to `("zebra", {"num_houses": 4, "num_attributes": 3})`."""
    base, hyphen, text = name.partition("-")
    if base in TASKS and not hyphen:
        return base, {}
    if base in SIZED_NAMES:
        pattern, options = SIZED_NAMES[base]
        if match := re.fullmatch(pattern, text):
            return base, dict(zip(options, map(int, match.groups()), strict=True))
    raise ValueError(f"`name` must be one of {', '.join(TASKS)}, or with sizes, like {EXAMPLES}. Got {name!r}.")


def load_task(
    name: str,
    *,
    num_train: int = 10_000,
    num_validation: int = 500,
    num_test: int = 500,
    seed: int = 0,
    **options: Any,
) -> DatasetDict:
    """
    Instances of a task as a dataset with the splits "train", "validation" and "test".

    No instance is twice in a split or in two splits. A test instance is on the task's test side, which is a function
    of what the instance is and not of a seed: no seed makes it a training instance. The validation set is on the test
    side, too, behind the first `num_test` instances: test sets of another seed may hold some of it.
    One draw in ten is on the test side: a held-out instance takes nine times as long to find as one to train on.

    Args:
        name (`str`): as [`get_task`] takes it.
        num_train, num_validation, num_test (`int`): instances of a split, at least 1.
        seed (`int`): of the instances.
        options: arguments of the task's class.

    Returns:
        `DatasetDict`: columns `prompt` and `completion` (text, as trl's trainers read it), `difficulty` (`int`, see
        the task's method), and those of the instance: `get_task(name, **options).is_solved(row, text)` judges a
        decoded completion.

    Raises:
        ValueError: for an unknown name, option or value, or if there are fewer instances than asked for.

    Example:

    ```python
    >>> from hf_latent.tasks import load_task

    >>> data = load_task("star_graph", num_train=100, num_validation=10, num_test=10, degree=3)
    >>> {split: len(rows) for split, rows in data.items()}
    {'train': 100, 'validation': 10, 'test': 10}
    ```
    """
    from datasets import Dataset, DatasetDict

    task = get_task(name, **options)
    numbers = {"num_train": num_train, "num_validation": num_validation, "num_test": num_test}
    for argument, number in numbers.items():
        if number < 1:
            raise ValueError(f"`{argument}` must be at least 1, got {number!r}.")
    nums = {"test": num_test + num_validation, "train": num_train}
    if hasattr(task, "generate_splits"):
        sides = task.generate_splits(nums, seed)
    else:
        sides = {split: task.generate(num, seed, split=split) for split, num in nums.items()}
    held_out = sides["test"]
    splits = {
        "train": sides["train"],
        "validation": held_out[num_test:],
        "test": held_out[:num_test],
    }

    def row(instance: dict[str, Any]) -> dict[str, Any]:
        return task.format(instance) | {"difficulty": task.difficulty(instance)} | instance

    rows: dict[str, list[dict[str, Any]]] = {split: [] for split in splits}
    with progress(sum(nums.values()), f"difficulty of {name}") as advance:
        for split, instances in splits.items():
            for instance in instances:
                rows[split].append(row(instance))
                advance(1)
    return DatasetDict({split: Dataset.from_list(found) for split, found in rows.items()})
