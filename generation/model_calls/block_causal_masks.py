"""
Who sees whom in block-causal attention (arXiv 2503.09573): a token sees the blocks before its own and all of its own.
Blocks are counted from position 0 of a document: the block of position `p` is `p // block_size`.

`B` rows, `L` columns.
"""

from typing import NamedTuple

import torch

from hf_latent.generation.model_calls.semi_causal_masks import NOT_IN_STREAM, Visibility

# Between the sort keys of two documents: more than any position.
_STRIDE = 2**32


class _Places(NamedTuple):
    """Of each token, int64 `(B, L)`: its own place in the row, the first of its document, those its block spans."""

    order: torch.Tensor
    document_start: torch.Tensor
    block_start: torch.Tensor
    block_end: torch.Tensor


def block_causal_visibility(
    position_ids: torch.Tensor, exists: torch.Tensor, block_size: int | torch.Tensor
) -> Visibility:
    """
    Visibility `(B, L)` of rows of tokens, masked or not: the stream holds all, each sees it to the end of its block.
    Size 1 is causal attention, a size of the longest document is bidirectional attention within documents.

    Args:
        position_ids: int64 `(B, L)`, positions within the document; a position 0 starts one.
        exists: bool `(B, L)`, what is not padding.
        block_size: positions of a block, at least 1; or int64 `(B, 1)` or `(B, L)`, the same within a document.
    """
    places = _find_places(position_ids, exists, block_size)
    return Visibility(
        order=places.order,
        visible_from=places.document_start,
        visible_until=places.block_end,
        group=torch.full_like(places.order, -1),
        position=position_ids,
    )


def canvas_block_visibility(position_ids: torch.Tensor, exists: torch.Tensor, block_size: int) -> Visibility:
    """
    What `block_causal_visibility` is where every row holds one document: its places are positions. A forward that
    enters a block asks for it, where sorting would show.

    Args: those of `block_causal_visibility`.
    """
    return Visibility(
        order=torch.where(exists, position_ids, NOT_IN_STREAM),
        visible_from=torch.zeros_like(position_ids),
        visible_until=torch.where(exists, position_ids - position_ids % block_size + block_size, 0),
        group=torch.full_like(position_ids, -1),
        position=position_ids,
    )


def noisy_and_clean_visibility(
    position_ids: torch.Tensor, exists: torch.Tensor, block_size: int | torch.Tensor
) -> Visibility:
    """
    Visibility `(B, 2L)` of `[x_t | x_0]`, the noisy copy of rows and the clean one (arXiv 2503.09573, section 3.1):
    clean tokens as in `block_causal_visibility`; a noisy token sees the clean blocks before its own, and its own noisy
    block. Nobody else sees a noisy token.

    Args: those of `block_causal_visibility`, `(B, L)` of one copy.
    """
    places = _find_places(position_ids, exists, block_size)
    noisy = Visibility(
        order=torch.full_like(places.order, NOT_IN_STREAM),
        visible_from=places.document_start,
        visible_until=places.block_start,
        group=torch.where(exists, places.block_start, -1),  # no other block of the row begins there
        position=position_ids,
    )
    return noisy.join(block_causal_visibility(position_ids, exists, block_size))


def _find_places(position_ids: torch.Tensor, exists: torch.Tensor, block_size: int | torch.Tensor) -> _Places:
    document = (exists & (position_ids == 0)).long().cumsum(-1) * _STRIDE
    # Padding, which may lie on either side, is sorted behind everything else.
    keys = torch.where(exists, document + position_ids, NOT_IN_STREAM)
    columns = keys.argsort(dim=-1, stable=True)
    block = torch.where(exists, document + position_ids // block_size, NOT_IN_STREAM)
    in_order = block.gather(-1, columns).contiguous()
    found = (
        torch.searchsorted(in_order, document),
        torch.searchsorted(in_order, block),
        torch.searchsorted(in_order, block, right=True),
    )
    order = torch.where(exists, columns.argsort(dim=-1), NOT_IN_STREAM)
    return _Places(order, *(torch.where(exists, places, 0) for places in found))


__all__ = ["block_causal_visibility", "canvas_block_visibility", "noisy_and_clean_visibility"]
