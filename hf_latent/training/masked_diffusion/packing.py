"""
Several documents in a row that do not see each other.

trl decides which documents share a row (best fit decreasing). A batch goes on holding one document a row, so that
noise, loss and normalisation know nothing of it; only the model's input is laid out in packed rows, with positions
that start anew at each document and a mask that is a diagonal of blocks.

`D` documents of at most `S` tokens, in `B` rows of `L`.
"""

from typing import Any, NamedTuple

import torch
from trl import pack_dataset

from hf_latent.training.masked_diffusion.checks import AnyDataset

COLUMNS = ("input_ids", "labels", "example_id")


def pack_documents(dataset: AnyDataset, length: int, map_kwargs: dict[str, Any] | None = None) -> AnyDataset:
    """
    `dataset`, tokenized, with several documents in a row of at most `length` tokens and none cut.

    Its columns become lists over the tokens of a row, `example_id` too, beside `seq_lengths`.
    """

    def per_token(row: dict[str, Any]) -> dict[str, Any]:
        labels = row.get("labels")
        return {
            "input_ids": row["input_ids"],
            "labels": row["input_ids"] if labels is None else labels,
            "example_id": [row["example_id"]] * len(row["input_ids"]),
        }

    dataset = dataset.map(per_token).select_columns(list(COLUMNS))
    return pack_dataset(dataset, length, "bfd", map_kwargs or {})


def split_documents(rows: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    """The documents of packed rows, and where each goes: `pack_row` and `pack_start`, int64 `(D,)`."""
    documents, places = [], []
    for number, row in enumerate(rows):
        start = 0
        for length in row["seq_lengths"]:
            document = {name: row[name][start : start + length] for name in ("input_ids", "labels")}
            documents.append({**document, "example_id": row["example_id"][start]})
            places.append((number, start))
            start += length
    row_of, start_of = torch.tensor(places).unbind(-1)
    return documents, {"pack_row": row_of, "pack_start": start_of}


class PackedInputs(NamedTuple):
    """What the model is given `[B, L]`, and which document, numbered from 1, each position is of; 0 for padding."""

    input_ids: torch.Tensor
    position_ids: torch.Tensor
    document: torch.Tensor


def lay_out(
    ids: torch.Tensor, attended: torch.Tensor, row: torch.Tensor, start: torch.Tensor, padding: int
) -> PackedInputs:
    """
    Put documents side by side.

    Args:
        ids (`torch.LongTensor` of shape `(D, S)`): documents, padded on the right.
        attended (`torch.Tensor` of shape `(D, S)`): 1 for their tokens.
        row, start (`torch.LongTensor` of shape `(D,)`): row and first column of each document.
        padding (`int`): token of the columns that no document takes.
    """
    number, column = attended.nonzero(as_tuple=True)
    target = row[number], start[number] + column
    shape = int(row.max()) + 1, int((start + attended.sum(-1)).max())
    packed = PackedInputs(ids.new_full(shape, padding), ids.new_zeros(shape), ids.new_zeros(shape))
    packed.input_ids[target] = ids[number, column]
    packed.position_ids[target] = column
    packed.document[target] = number + 1
    return packed


def attention_bias(allowed: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """
    A mask `(B, 1, L, L)` of 0 and the smallest number from a bool `(B, L, L)`.

    Float, because eager attention adds masks and would add True as 1. Every position sees itself, so that none, not
    even padding, sees nothing and becomes nan.
    """
    allowed = allowed | torch.eye(allowed.shape[-1], dtype=torch.bool, device=allowed.device)
    bias = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
    return bias.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


__all__ = ["PackedInputs", "attention_bias", "lay_out", "pack_documents", "split_documents"]
