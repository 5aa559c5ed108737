"""
Exact caches, whose keys and values never change: one slot a column of the canvas, and what is left of them for the
next turn of a conversation.

`B` rows of the batch, `A` of them still being written, `L` columns.
"""

from dataclasses import dataclass
from typing import Any

import torch

from hf_latent.generation.model_calls.block_cache import BlockCache, BlockCacheLayer
from hf_latent.generation.model_calls.semi_causal_masks import NOT_IN_STREAM
from hf_latent.generation.state.canvas import Canvas


@dataclass(frozen=True)
class ExactCache:
    """
    Keys and values of a batch's text, for the next turn: pass it as `past_key_values` with the text so far.

    Args:
        layers: keys and values of each layer, `(B, H, L, D)`; a token's are in its column.
        order: int64 `(B, L)`, places of the cached tokens in the order they see each other in; the largest int64 for
            what is not cached.
        ids: int64 `(B, L)`, the tokens.
        position_ids: int64 `(B, L)`, their positions.
    """

    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    order: torch.Tensor
    ids: torch.Tensor
    position_ids: torch.Tensor

    def get_seq_length(self) -> int:
        """Columns."""
        return self.ids.shape[1]


@dataclass(frozen=True)
class SemiCausalCache(ExactCache):
    """Of a semi-causal model, in the order of writing. Padding and the tokens of the last step are not cached."""


@dataclass(frozen=True)
class BlockCausalCache(ExactCache):
    """
    Of a block-causal model, by position. Padding and a row's last block are not cached.

    Args:
        block_size: positions of a block.
    """

    block_size: int


class ColumnCacheLayer(BlockCacheLayer):
    """A `BlockCacheLayer` that need not begin with a forward of everything."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put `(A, H, Q, D)` in their columns; returns the keys and values `(A, H, length, D)` of all."""
        if not self.is_initialized:
            length = max(self.target.length, self.target.capacity)
            self.lazy_initialization(
                *(x.new_zeros(*x.shape[:2], length, x.shape[3]) for x in (key_states, value_states))
            )
        return super().update(key_states, value_states, *args, **kwargs)


class ColumnCache(BlockCache):
    """
    A cache of `ColumnCacheLayer`s: a column's keys and values are in its slot, whatever the order of writing.

    Args:
        capacity: columns to make room for at once; as many as a forward sees if not given.
    """

    layer_class = ColumnCacheLayer

    def __init__(self, capacity: int = 0) -> None:
        super().__init__()
        self.target.capacity = capacity


class TurnKeeper:
    """
    Keys and values of rows that have left a run, until the batch is whole again.

    Args:
        cache: the run's.
    """

    def __init__(self, cache: ColumnCache) -> None:
        self.cache = cache
        self._finished: list[_FinishedRows] = []

    def store(self, rows: torch.Tensor, index: torch.Tensor, values: tuple[torch.Tensor, ...]) -> None:
        """
        Keep the cache of some `rows` `(A',)`.

        Args:
            index: `(A,)`, where the rows of the run are in the batch.
            values: `(A, ...)` each, what `collect` gives back with them.
        """
        layers = [(layer.keys[rows], layer.values[rows]) for layer in self.cache.layers]
        self._finished.append(_FinishedRows(index[rows], tuple(value[rows] for value in values), layers))

    def collect(self, length: int) -> tuple[tuple[tuple[torch.Tensor, torch.Tensor], ...], tuple[torch.Tensor, ...]]:
        """The first `length` columns of the layers of the whole batch, and the values, in the batch's order."""
        index = torch.cat([part.index for part in self._finished]).argsort()
        values = zip(*(part.values for part in self._finished), strict=True)
        layers: Any = tuple(
            tuple(
                torch.cat([part.states(i, which, layer) for part in self._finished])[index][:, :, :length]
                for which in (0, 1)
            )
            for i, layer in enumerate(self.cache.layers)
        )
        return layers, tuple(torch.cat(parts)[index] for parts in values)


@dataclass(frozen=True)
class _FinishedRows:
    """Rows that have left the run; `index`: where they are in the batch."""

    index: torch.Tensor
    values: tuple[torch.Tensor, ...]
    layers: list[tuple[torch.Tensor, torch.Tensor]]  # none if they left before the first forward

    def states(self, number: int, which: int, layer: Any) -> torch.Tensor:
        """Keys (0) or values (1) of a layer; zeros, of the shape of `layer`'s, for rows that were never read."""
        if self.layers:
            return self.layers[number][which]
        like = (layer.keys, layer.values)[which]
        return like.new_zeros(len(self.index), *like.shape[1:])


def resume(past: ExactCache, canvas: Canvas, cache: ColumnCache) -> torch.Tensor:
    """
    Take over the keys and values of an earlier turn, whose columns are the first of the canvas.

    Returns:
        int64 `(B, L)`, the places of its tokens in the stream; `NOT_IN_STREAM` for all others.

    Raises:
        ValueError: if it is of another text, or of other columns.
    """
    batch_size, length = past.ids.shape
    fits = batch_size == len(canvas.ids) and length <= canvas.ids.shape[1]
    if fits:
        same = (past.ids == canvas.ids[:, :length]) & (past.position_ids == canvas.position_ids[:, :length])
        same &= (canvas.valid & ~canvas.masked)[:, :length]
        fits = bool((same | (past.order == NOT_IN_STREAM)).all())
    if not fits:
        raise ValueError(
            "`past_key_values` must be those of the first tokens of `input_ids`, in the same columns and with the "
            f"same padding; got others (batch {batch_size}, {length} columns)."
        )
    order = torch.full_like(canvas.ids, NOT_IN_STREAM)
    order[:, :length] = past.order
    missing = canvas.ids.shape[1] - length
    for number, states in enumerate(past.layers):
        keys, values = (torch.nn.functional.pad(x, (0, 0, 0, missing)) for x in states)
        if number == len(cache.layers):
            cache.layers.append(cache.layer_class(cache.target))
        cache.layers[number].lazy_initialization(keys, values)
    return order


__all__ = ["BlockCausalCache", "ColumnCache", "ExactCache", "SemiCausalCache", "TurnKeeper", "resume"]
