"""Whether a dataset has a token to train on, or to be judged by."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from datasets import Dataset

MOST_LOOKED_AT = 1_000  # examples of a stream, which may have no end


def has_supervised_token(dataset: Any, first: int = 0) -> bool:
    """
    Whether any label is a token. The first example nearly always says so; of a stream at most 1,000 are looked at.

    Args:
        first: position of the first token that can be predicted.
    """
    rows: Iterable[Mapping[str, Any]] = dataset
    if isinstance(dataset, Dataset):
        rows = dataset.select_columns([name for name in ("labels", "input_ids") if name in dataset.column_names])
    else:
        rows = itertools.islice(dataset, MOST_LOOKED_AT)
    number = 0
    for row in rows:
        number += 1
        labels = row.get("labels", row.get("input_ids"))
        if labels is None or any(label != -100 for label in list(labels)[first:]):
            return True
    return not isinstance(dataset, Dataset) and number == MOST_LOOKED_AT


def named_sets(train: Any, evaluation: Any) -> list[tuple[str, Any]]:
    """The sets that there are, as `"train"`, `"eval"`, or by the names of several evaluation sets."""
    sets = evaluation if isinstance(evaluation, dict) else {"eval": evaluation}
    return [(name, dataset) for name, dataset in {"train": train, **sets}.items() if dataset is not None]


def argument_of(name: str) -> str:
    """How a set of [`named_sets`] was given to the trainer."""
    return f"`{name}_dataset`" if name in ("train", "eval") else f"`eval_dataset[{name!r}]`"


def check_not_exhausted(dataset: Any, name: str) -> None:
    """Raise `ValueError` for a stream without an example; those that say which columns they have are not read."""
    if getattr(dataset, "column_names", None) is None and next(iter(dataset), None) is None:
        raise ValueError(f"{argument_of(name)} is a stream without an example: nothing can be trained on or judged by")


def check_supervised(dataset: Any, name: str, *, first: int = 0, why: str | None = None) -> None:
    """
    Raise `ValueError` for a dataset by which nothing can be trained or judged: its loss would be 0.0.

    Args:
        name: `"train"`, `"eval"`, or the name of one of several evaluation sets.
    """
    if not has_supervised_token(dataset, first):
        why = why or "all labels are -100, or `max_length` cuts every completion off"
        raise ValueError(f"{argument_of(name)} has no example with a supervised token left: {why}")


def explain_empty(uncut: Dataset, max_length: int | None) -> str:
    """Why nothing is supervised, from the same examples before they were cut."""
    if max_length is not None and has_supervised_token(uncut):
        return f"`max_length` ({max_length}) cuts every completion off"
    return (
        "all labels are -100 before anything is cut: completions are empty, or the chat template marks none of the "
        "text as the assistant's"
    )


__all__ = ["check_not_exhausted", "check_supervised", "explain_empty", "has_supervised_token", "named_sets"]
