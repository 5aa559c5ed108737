"""From pairs of texts to batches of tokens, and to latents that are encoded once."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from safetensors.torch import load_file, save_file
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from hf_latent.data.identity import digest_weights, without_incidental
from hf_latent.data.vocabulary import naming_rows
from hf_latent.modeling.atomic import replacing
from hf_latent.modeling.latent_diffusion.modeling_latent_autoencoder import LatentAutoencoder
from hf_latent.modeling.mode import in_evaluation_mode

SHARD_ROWS = 16_384


def tokenize_pairs(
    dataset: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    input_column: str = "prompt",
    target_column: str = "completion",
    name: str = "dataset",
) -> Dataset:
    """
    Columns `input_ids` and `labels`, with the tokenizer's special tokens, of two columns of text.

    Texts longer than `max_length` tokens are cut. Raises `ValueError` for a column that is not there, and for a text
    that the tokenizer has no token for, with its row in `name`, the file or argument that the pairs are from.
    """
    for argument, column in (("input_column", input_column), ("target_column", target_column)):
        if column not in dataset.column_names:
            raise ValueError(f"`{argument}` must be one of {dataset.column_names}, got {column!r}")

    def tokenize(rows: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        inputs, targets = (
            tokenizer(rows[column], truncation=True, max_length=max_length)["input_ids"]
            for column in (input_column, target_column)
        )
        return {"input_ids": inputs, "labels": targets}

    texts = dataset.select_columns(sorted({input_column, target_column}))
    with naming_rows(name, tokenizer, texts):
        return dataset.map(tokenize, batched=True, remove_columns=dataset.column_names)


def texts_to_reconstruct(dataset: Dataset, reconstruct: str, with_context: bool) -> Dataset:
    """
    Rows for the autoencoder, of pairs `input_ids`, `labels`: `input_ids` is the text, `labels` what is predicted of
    it, `context_ids` the input where the decoder reads it.

    Of pairs with a context only targets are reconstructed: an input could be copied from its own context.
    """
    if with_context and reconstruct != "target":
        raise ValueError(f"`reconstruct` must be 'target' where the decoder reads the input, got {reconstruct!r}")

    def targets(row: dict[str, list[int]]) -> dict[str, list[int]]:
        context = {"context_ids": row["input_ids"]} if with_context else {}
        return {"input_ids": row["labels"], "labels": row["labels"], **context}

    rows = dataset.map(targets)
    if reconstruct == "both":
        inputs = dataset.map(lambda row: {"labels": row["input_ids"]})
        rows = concatenate_datasets([rows, inputs])
    return rows.map(lambda _, index: {"example_id": index}, with_indices=True)


@dataclass
class TextCollator:
    """
    Pad on the right: `{"input_ids": [5, 6], "labels": [7]}` and `{"input_ids": [8], "labels": [9, 4]}` become
    `input_ids [[5, 6], [8, pad]]`, `attention_mask [[1, 1], [1, 0]]`, `labels [[7, -100], [9, 4]]`; `context_ids` like
    `input_ids`, with `context_mask`; `example_id` is stacked.
    """

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {}
        for name, mask in (("input_ids", "attention_mask"), ("context_ids", "context_mask")):
            if name in rows[0]:
                ids = [torch.as_tensor(row[name]) for row in rows]
                batch[name] = pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id)
                batch[mask] = pad_sequence([torch.ones_like(i) for i in ids], batch_first=True)
        if "labels" in rows[0]:
            labels = [torch.as_tensor(row["labels"]) for row in rows]
            batch["labels"] = pad_sequence(labels, batch_first=True, padding_value=-100)
        if "example_id" in rows[0]:
            batch["example_id"] = torch.tensor([row["example_id"] for row in rows])
        return batch


class LatentPairs(torch.utils.data.Dataset):
    """Pairs of normalized latents, ready for the denoiser: `latents` and `condition` `[Z, C]`, `example_id`."""

    def __init__(self, latents: torch.Tensor, condition: torch.Tensor) -> None:
        self.latents, self.condition = latents, condition

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"latents": self.latents[index], "condition": self.condition[index], "example_id": index}


def stack_latents(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Collate rows of [`LatentPairs`]."""
    return {name: torch.stack([torch.as_tensor(row[name]) for row in rows]) for name in rows[0]}


@in_evaluation_mode
@torch.no_grad()
def encode_texts(
    autoencoder: LatentAutoencoder, texts: list[list[int]], *, pad_token_id: int, batch_size: int
) -> torch.Tensor:
    """Unnormalized latents `[N, Z, C]` of tokenized texts, float32, on the CPU; texts of a length go together."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    latents = torch.empty(len(texts), autoencoder.config.latent_length, autoencoder.config.latent_dim)
    collate = TextCollator(pad_token_id)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        batch = collate([{"input_ids": texts[i]} for i in chosen])
        batch = {name: value.to(autoencoder.device) for name, value in batch.items()}
        latents[chosen] = autoencoder.encode(**batch, normalized=False).float().cpu()
    return latents


def cache_latents(
    autoencoder: LatentAutoencoder, dataset: Dataset, folder: Path, *, pad_token_id: int, batch_size: int
) -> dict[str, torch.Tensor]:
    """
    Unnormalized latents of the `input_ids` and `labels` of every row, encoded once and kept in `folder`.

    The files' name is a hash of the autoencoder's weights, dtype and configuration and of the tokens: another of any
    is encoded anew. An interrupted run goes on with the first shard that is not there.

    Returns:
        `input_ids` and `labels`, each `torch.FloatTensor` of shape `(N, Z, C)`.
    """
    key = fingerprint(autoencoder, dataset)
    folder.mkdir(parents=True, exist_ok=True)
    shards = []
    for number, first in enumerate(range(0, len(dataset), SHARD_ROWS)):
        path = folder / f"{key}-{number:05}.safetensors"
        if not path.exists():
            rows = dataset[first : first + SHARD_ROWS]
            encoded = {
                name: encode_texts(autoencoder, rows[name], pad_token_id=pad_token_id, batch_size=batch_size)
                for name in ("input_ids", "labels")
            }
            with replacing(path) as beside:
                save_file(encoded, beside)
        shards.append(load_file(path))
    return {name: torch.cat([shard[name] for shard in shards]) for name in ("input_ids", "labels")}


def fingerprint(autoencoder: LatentAutoencoder, dataset: Dataset) -> str:
    """Hash of what makes latents, weights, their dtype and the configuration, and of the tokens."""
    facts = {
        "weights": [
            digest_weights(part) for part in (autoencoder.language_model.get_encoder(), autoencoder.compressor)
        ],
        "config": without_incidental(autoencoder.config.to_dict()),
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for rows in dataset.select_columns(["input_ids", "labels"]).iter(10_000):
        digest.update(str(rows).encode())
    return digest.hexdigest()[:16]


def latent_statistics(latents: torch.Tensor, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Mean and standard deviation of latents `[N, Z, C]`, of shape `(Z, C)` or what broadcasts to it.

    Args:
        kind: `"element"` (each component its own), `"channel"` (pooled over the vectors of a latent), `"global"`.
    """
    pooled = {"element": (0,), "channel": (0, 1), "global": (0, 1, 2)}[kind]
    latents = latents.double()
    mean = latents.mean(pooled)
    # A component that never changes carries nothing: it is left as it is instead of being divided by 0.
    std = latents.std(pooled, correction=0)
    std = torch.where(std < 1e-6, torch.ones_like(std), std)
    return mean.float(), std.float()


__all__ = [
    "LatentPairs",
    "TextCollator",
    "cache_latents",
    "encode_texts",
    "fingerprint",
    "latent_statistics",
    "stack_latents",
    "texts_to_reconstruct",
    "tokenize_pairs",
]
