"""
Block-wise caches of keys and values for models that read every position at once (Fast-dLLM, arXiv 2505.22618).

A forward of all positions at the start of a block fills the cache; until the block is written, only a window of
positions is read again, against the cached keys and values of all others. That is approximate: what is cached does not
see what the block becomes. With `"prefix"` the window goes from the block's first position to the row's end, with
`"dual"` it is the block alone. Rows have windows of their own, wherever their padding lies, and refresh by themselves.

`A` rows in the batch, `L` columns of the canvas, `Q` positions read.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from hf_latent.generation.state.canvas import Canvas

BlockCacheName = Literal["prefix", "dual"]
BLOCK_CACHES: tuple[BlockCacheName, ...] = ("prefix", "dual")


class CacheTarget:
    """Where the keys and values of the running forward belong: `rows` `(A', 1)` and `columns` `(A', Q)`, or all."""

    rows: torch.Tensor | None = None
    columns: torch.Tensor | None = None
    # The first of the columns, where all rows are read and share one run of them: a slice is quicker than an index.
    start: int | None = None
    # Columns that the canvas has so far: keys and values of later ones do not exist.
    length: int = 0
    # Columns to make room for at once, where they are known to come.
    capacity: int = 0


class BlockCacheLayer(CacheLayerMixin):
    """
    Keys and values of every column; a forward replaces those of the columns that it reads.

    Args:
        target: shared by all layers, set before every forward.
    """

    is_sliding = False

    def __init__(self, target: CacheTarget) -> None:
        super().__init__()
        self.target = target

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Take the keys and values `(A, H, L, D)` of a forward of everything."""
        self.keys, self.values, self.is_initialized = key_states, value_states, True

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put `(A', H, Q, D)` in their columns; returns the keys and values `(A', H, length, D)` of these rows."""
        if self.target.rows is None and self.target.columns is None:
            self.lazy_initialization(key_states, value_states)
            return key_states, value_states
        assert self.keys is not None and self.values is not None
        self._grow()
        kept = [self._put(states, new) for states, new in ((self.keys, key_states), (self.values, value_states))]
        return kept[0], kept[1]

    def _put(self, states: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        """Put `new` `(A', H, Q, D)` into `states` `(A, H, L, D)`, in place; what the forward sees of them."""
        rows, columns, start = self.target.rows, self.target.columns, self.target.start
        states = states[:, :, : self.target.length]
        if rows is None and start is not None:
            states[:, :, start : start + new.shape[2]] = new
            return states
        by_row, new_by_row = states.transpose(1, 2), new.transpose(1, 2)
        if rows is None:
            every = torch.arange(len(states), device=states.device)
            by_row[every[:, None], columns.to(states.device)] = new_by_row
            return states
        row_index = rows.to(states.device)
        if columns is None:
            by_row[row_index.squeeze(-1)] = new_by_row
            return new
        by_row[row_index, columns.to(states.device)] = new_by_row
        return states[row_index.squeeze(-1)]

    def _grow(self) -> None:
        assert self.keys is not None and self.values is not None
        missing = self.target.length - self.keys.shape[2]
        if missing > 0:
            self.keys, self.values = (torch.nn.functional.pad(x, (0, 0, 0, missing)) for x in (self.keys, self.values))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Every query sees all columns."""
        return self.target.length, 0

    def get_seq_length(self) -> int:
        """0: positions are passed to the model, nothing is appended."""
        return 0

    def get_max_length(self) -> int:
        """-1: no limit of its own."""
        return -1

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows."""
        if self.keys is not None and self.values is not None:
            indices = indices.to(self.keys.device)
            self.keys, self.values = self.keys[indices], self.values[indices]


class BlockCache(Cache):
    """A transformers cache of `BlockCacheLayer`s, made as the model's layers ask for them."""

    layer_class = BlockCacheLayer

    def __init__(self) -> None:
        self.target = CacheTarget()
        super().__init__(layer_class_to_replicate=lambda: self.layer_class(self.target))  # type: ignore[arg-type]

    def set_target(
        self, rows: torch.Tensor | None, columns: torch.Tensor | None, length: int, start: int | None = None
    ) -> "BlockCache":
        """
        Say what the next forward reads: which of the cached rows `(A',)` and which of their columns `(A', Q)`; None
        means all. `length`: columns of the canvas so far; `start`: first of the columns, if all rows have one run.
        """
        self.target.rows = None if rows is None else rows[:, None]
        self.target.columns, self.target.length, self.target.start = columns, length, start
        return self

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Also before the first forward, when there is no layer to ask."""
        return self.target.length, 0


@dataclass(frozen=True)
class QueryWindow:
    """The positions that a forward reads of each row."""

    columns: torch.Tensor  # (A, Q): in order; rows with fewer repeat their first
    position_ids: torch.Tensor  # (A, Q): theirs
    index_in_window: torch.Tensor  # (A, L): where a position is among its row's
    widths: list[int]  # how many there are of each row
    start: int | None  # the first column, where all rows have one run of columns: a slice is quicker than an index

    @classmethod
    def of(cls, positions: torch.Tensor, position_ids: torch.Tensor) -> "QueryWindow":
        """`positions` `(A, L)` bool; `position_ids` `(A, L)`. Needs a host sync."""
        columns = torch.arange(positions.shape[1], device=positions.device)
        first = torch.where(positions, columns, len(columns)).amin(-1)
        last = torch.where(positions, columns, -1).amax(-1)
        widths, starts, ends = torch.stack([positions.sum(-1), first, last]).tolist()
        is_run = len({*zip(widths, starts, ends, strict=True)}) == 1 and ends[0] - starts[0] + 1 == widths[0]
        columns = true_columns(positions, max(widths))
        return cls(
            columns=columns,
            position_ids=position_ids.gather(1, columns),
            index_in_window=positions.cumsum(-1) - 1,
            widths=widths,
            start=starts[0] if is_run else None,
        )

    def select(self, numbers: list[int], rows: torch.Tensor) -> "QueryWindow":
        """That of some rows, given on the host and on the device; `index_in_window` stays that of all."""
        widths = [self.widths[i] for i in numbers]
        columns, position_ids = (x[rows, : max(widths)] for x in (self.columns, self.position_ids))
        return QueryWindow(columns, position_ids, self.index_in_window, widths, None)


def true_columns(positions: torch.Tensor, width: int) -> torch.Tensor:
    """Columns `(A, width)` of `(A, L)` bool in order; rows with fewer repeat their first, which changes nothing."""
    columns = (~positions).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]
    inside = torch.arange(width, device=positions.device) < positions.sum(-1, keepdim=True)
    return torch.where(inside, columns, columns[:, :1])


def query_window_mask(
    canvas: Canvas, block: torch.Tensor, to_predict: torch.Tensor, kind: BlockCacheName, reads_previous_state: bool
) -> torch.Tensor:
    """
    Which positions `(A, L)` a forward within a block reads.

    Args:
        block: `(A,)`, the rows' current blocks.
        to_predict: `(A, L)` bool, positions that are predicted; always in the window.
        reads_previous_state:
            whether a position is predicted by the state of the one before, which is then in the window too.
    """
    columns = torch.arange(canvas.ids.shape[1], device=canvas.ids.device)
    in_block = canvas.writable & (canvas.block_index == block[:, None])
    first = torch.where(in_block, columns, len(columns)).amin(-1, keepdim=True)
    window = canvas.valid & (columns >= first)
    if kind == "dual":
        last = torch.where(in_block, columns, -1).amax(-1, keepdim=True)
        window = (window & (columns <= last)) | to_predict
    if reads_previous_state:
        window = window | (window.roll(-1, -1) & canvas.valid & (columns < len(columns) - 1))
    return window


__all__ = [
    "BLOCK_CACHES",
    "BlockCache",
    "BlockCacheLayer",
    "BlockCacheName",
    "QueryWindow",
    "query_window_mask",
    "true_columns",
]
