"""
Who sees whom in semi-causal attention (latent tokens, arXiv 2602.03769): a clean stream of tokens, causal in the order
in which they were revealed, and groups of queries, which see the stream up to their state and one another.

`B` rows, `Q` positions that look, `K` positions that are looked at.
"""

from dataclasses import dataclass, fields
from types import EllipsisType
from typing import Any

import torch
from transformers import PreTrainedConfig

from hf_latent.generation.model_calls.sliding_windows import (
    MASKED_IMPLEMENTATIONS,
    Windows,
    build_masks,
    sliding_windows_of,
)

# Place in the stream of what is not in it: queries and padding. Nobody sees as far.
NOT_IN_STREAM = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Visibility:
    """
    What decides who sees whom; int64 `(B, T)` each. A position always sees itself.

    Args:
        order: place in the clean stream, 0, 1, ...; `NOT_IN_STREAM` for queries and padding.
        visible_from: first place of the stream that the position sees, that of its document; 0 where a row holds one.
        visible_until: one past the last place that it sees: its own for a clean token, the tokens so far for a query.
        group: number of a query's group; -1 for all others.
        position: position id, which windows count by.
    """

    order: torch.Tensor
    visible_from: torch.Tensor
    visible_until: torch.Tensor
    group: torch.Tensor
    position: torch.Tensor

    def select(self, index: tuple[Any, ...]) -> "Visibility":
        """At `(rows, columns)`, which broadcast to the new `(B, T)`, or `(rows,)`."""
        return Visibility(*(getattr(self, field.name)[index] for field in fields(self)))

    def join(self, other: "Visibility") -> "Visibility":
        """`other`'s positions behind these."""
        return Visibility(
            *(torch.cat([getattr(self, field.name), getattr(other, field.name)], -1) for field in fields(self))
        )


def stream_order(clean: torch.Tensor, reveal_order: torch.Tensor | None = None) -> torch.Tensor:
    """
    Places in the stream `(B, T)` of the `clean` tokens `(B, T)`, bool: by `reveal_order` `(B, T)`, the lowest first
    and columns breaking ties; by columns without. `NOT_IN_STREAM` for the others.
    """
    if reveal_order is None:
        order = clean.long().cumsum(-1) - 1
    else:
        columns = reveal_order.argsort(dim=-1, stable=True)
        others_last = (~clean).gather(-1, columns).to(torch.uint8).argsort(dim=-1, stable=True)
        order = columns.gather(-1, others_last).argsort(dim=-1)
    return torch.where(clean, order, NOT_IN_STREAM)


def canvas_visibility(
    clean: torch.Tensor, queried: torch.Tensor, order: torch.Tensor, group: torch.Tensor, position: torch.Tensor
) -> Visibility:
    """
    Visibility of rows in which every column is a token of the stream, a query that sees all of it, or nothing.

    Args:
        clean, queried: bool `(B, T)`.
        order: as `stream_order` gives it.
        group: int64 `(B, T)`, read where `queried`.
        position: int64 `(B, T)`.
    """
    order = torch.where(clean, order, NOT_IN_STREAM)
    everything = clean.sum(-1, keepdim=True)
    visible_until = torch.where(clean, order.clamp(max=NOT_IN_STREAM - 1) + 1, torch.where(queried, everything, 0))
    return Visibility(order, torch.zeros_like(order), visible_until, torch.where(queried, group, -1), position)


def is_visible(queries: Visibility, keys: Visibility, window: int | None = None) -> torch.Tensor:
    """
    Bool `(B, Q, K)`: which key each query sees, of the last `Q` of the keys or of `Q` positions that are among them.

    With a `window`, only those at most `window - 1` positions away, on either side.
    """
    key_order = keys.order[:, None]
    seen = (key_order >= queries.visible_from[..., None]) & (key_order < queries.visible_until[..., None])
    seen |= (queries.group[..., None] == keys.group[:, None]) & (queries.group >= 0)[..., None]
    if window is not None:
        seen &= (queries.position[..., None] - keys.position[:, None]).abs() < window
    return seen


class SemiCausalMasks:
    """
    Prepared attention masks for a decoder of transformers, in the form its attention takes.

    Args:
        config: the decoder's. Layers with a sliding window get a mask of their own.
        decoder: its class; see `sliding_windows_of`.
        windows: as `find_windows` found them before; looked for if not given.

    Raises:
        ValueError: for an attention implementation that takes no mask of ours.
    """

    def __init__(
        self, config: PreTrainedConfig, decoder: type | None = None, windows: Windows | EllipsisType = ...
    ) -> None:
        self.attention = config._attn_implementation
        if self.attention not in MASKED_IMPLEMENTATIONS:
            raise ValueError(
                "`attn_implementation` must be 'sdpa', 'eager' or 'flex_attention' for semi-causal and block-causal "
                f"attention, got {self.attention!r}."
            )
        self.windows = find_windows(config, decoder) if windows is ... else windows

    def __call__(
        self, queries: Visibility, keys: Visibility, self_index: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor | dict[str, Any] | Any:
        """
        Mask for `queries` `(B, Q)` and `keys` `(B, K)`.

        Args:
            self_index: int64 `(B, Q)` or `(1, Q)`, the key that each query itself is.
            dtype: the model's.
        """

        def dense(window: int | None) -> torch.Tensor:
            seen = is_visible(queries, keys, window)
            return seen.scatter_(-1, self_index.expand(len(seen), -1)[..., None], True)

        def sparse(window: int | None) -> Any:
            return _block_mask(queries, keys, self_index, window)

        return build_masks(
            self.windows, self.attention, dtype, sparse if self.attention == "flex_attention" else dense
        )


def find_windows(config: PreTrainedConfig, decoder: type | None = None) -> Windows:
    """`sliding_windows_of` a decoder; `ValueError` for one with layers that are no attention."""
    try:
        return sliding_windows_of(config, decoder)
    except ValueError as error:
        raise ValueError(f"the decoder must have attention layers only: {error}") from error


def _block_mask(queries: Visibility, keys: Visibility, self_index: torch.Tensor, window: int | None) -> Any:
    """For flex attention, which skips the blocks that nobody sees."""
    from torch.nn.attention.flex_attention import create_block_mask

    self_index = self_index.expand(len(queries.order), -1)

    def visible_until(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        key_order = keys.order[b, k]
        seen = (key_order >= queries.visible_from[b, q]) & (key_order < queries.visible_until[b, q])
        seen = seen | ((queries.group[b, q] == keys.group[b, k]) & (queries.group[b, q] >= 0))
        if window is not None:
            seen = seen & ((queries.position[b, q] - keys.position[b, k]).abs() < window)
        return seen | (self_index[b, q] == k)

    batch, num_queries = queries.order.shape
    return create_block_mask(visible_until, batch, None, num_queries, keys.order.shape[1], device=queries.order.device)


__all__ = [
    "NOT_IN_STREAM",
    "SemiCausalMasks",
    "Visibility",
    "canvas_visibility",
    "find_windows",
    "is_visible",
    "stream_order",
]
