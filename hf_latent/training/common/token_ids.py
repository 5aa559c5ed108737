"""Whether tokens that were numbered before training have a row in the embeddings."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn

from hf_latent.data.embeddings import embedding_rows
from hf_latent.training.common.supervision import argument_of

IGNORED = -100  # of labels


def check_token_ids(dataset: Any, name: str, model: nn.Module) -> None:
    """
    Raise `ValueError` for ids of a tokenized dataset that `model` has no embedding for, naming set, column and row.

    A table is looked through once, without copying it into Python. Streams are looked at batch by batch, by the
    collator: see [`check_batch`].

    Args:
        name: `"train"`, `"eval"`, or the name of one of several evaluation sets.
    """
    rows = embedding_rows(model)
    if rows is None or not isinstance(dataset, Dataset):
        return
    for column in ("input_ids", "labels"):
        if column in dataset.column_names:
            _check_column(dataset, column, f"{argument_of(name)}, column {column!r}", rows)


def _check_column(dataset: Dataset, column: str, place: str, rows: int) -> None:
    first = 0
    for batch in dataset.select_columns([column]).with_format("arrow").iter(10_000):
        lists = batch[column]
        values = pc.list_flatten(lists)
        if pa.types.is_integer(values.type) and len(values):
            wrong = pc.or_(pc.greater_equal(values, rows), pc.less(values, 0))
            if column == "labels":
                wrong = pc.and_(wrong, pc.not_equal(values, IGNORED))
            if pc.any(wrong).as_py():
                at = pc.index(wrong, True).as_py()
                row = first + pc.list_parent_indices(lists)[at].as_py()
                raise ValueError(message(f"{place}, row {row}", values[at].as_py(), rows))
        first += len(lists)


def check_batch(batch: dict[str, torch.Tensor], rows: int | None) -> None:
    """As [`check_token_ids`], for a batch on the CPU."""
    for column in ("input_ids", "labels") if rows is not None else ():
        ids = batch.get(column)
        if ids is None or ids.numel() == 0:
            continue
        wrong = (ids >= rows) | (ids < 0)
        if column == "labels":
            wrong &= ids != IGNORED
        if wrong.any():
            raise ValueError(message(f"the data, column {column!r}", int(ids[wrong][0]), int(rows or 0)))


def message(place: str, token_id: int, rows: int) -> str:
    """What is wrong, and what helps."""
    return (
        f"{place}: the token id {token_id} is not in [0, {rows}), for which the model has embeddings. Take the "
        "tokenizer that belongs to the model, or call `model.resize_token_embeddings` before training"
    )


__all__ = ["check_batch", "check_token_ids"]
