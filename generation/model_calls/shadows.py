"""
Shadows of the positions of a block (WINO, arXiv 2507.18578): masks behind the canvas that stand where those do and do
not see them, so that a forward says of each written token, too, how probable it is given all the rest.

`A` rows, `L` columns of the canvas, `W` shadows, of which a row has as many as its block has positions.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.masking_utils import sliding_window_bidirectional_mask_function

from hf_latent.generation.model_calls.block_cache import QueryWindow
from hf_latent.generation.model_calls.sliding_windows import MASKED_IMPLEMENTATIONS, build_masks, sliding_windows_of


@dataclass(frozen=True)
class Shadows:
    """
    The shadows of a block, as the forwards within it read them.

    Args:
        window: the positions `(A, W)` that have one.
        masks: who sees whom among the columns and the shadows behind them, as the decoder takes it.
        position_ids (`torch.LongTensor` of shape `(A, L + W)`): of both.
    """

    window: QueryWindow
    masks: Any
    position_ids: torch.Tensor

    @property
    def count(self) -> int:
        """`W`."""
        return self.window.columns.shape[1]


class ShadowMasks:
    """
    Makes `Shadows` for a bidirectional decoder.

    Args:
        decoder: the base model.

    Raises:
        ValueError: for layers, or an attention implementation, that take no masks of ours.
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        self.config = decoder.config
        if getattr(decoder, "_is_stateful", False):
            raise ValueError(f"{type(decoder).__name__} has recurrent layers.")
        self.windows = sliding_windows_of(decoder.config, type(decoder))
        if self.config._attn_implementation not in MASKED_IMPLEMENTATIONS:
            raise ValueError(
                f"`attn_implementation` must be one of {MASKED_IMPLEMENTATIONS}, got "
                f"{self.config._attn_implementation!r}."
            )

    def __call__(
        self,
        shadowed: torch.Tensor,
        exists: torch.Tensor,
        position_ids: torch.Tensor,
        num_copies: int,
        dtype: torch.dtype,
    ) -> Shadows:
        """
        Shadows of the positions `shadowed`; needs a host sync.

        Args:
            shadowed, exists: bool `(A, L)`; the latter are the columns that are not hidden.
            position_ids: int64 `(A, L)`, within the row.
            num_copies: how often the rows follow one another in a forward.
            dtype: the model's.
        """
        window = QueryWindow.of(shadowed, position_ids)
        count, length = window.columns.shape[1], shadowed.shape[1]
        number = torch.arange(count, device=exists.device)
        is_shadow = number < torch.tensor(window.widths, device=exists.device)[:, None]
        # Rows with fewer shadows repeat their first: a repeated one is seen by nobody.
        keys = torch.cat([exists, is_shadow], 1)
        # (A, L + W): the column that a query does not see; none of those that are no shadows.
        own = torch.cat([torch.full_like(position_ids, -1), window.columns], 1)
        places = torch.cat([position_ids, window.position_ids], 1)
        keys, own, places = (x.repeat(num_copies, 1) for x in (keys, own, places))

        def sees(b: Any, q: Any, k: Any) -> Any:
            return keys[b, k] & (k != own[b, q]) & ((k < length) | (q >= length))

        def dense(sliding_window: int | None) -> torch.Tensor:
            rows, columns = (torch.arange(n, device=exists.device) for n in keys.shape)
            seen = sees(rows[:, None, None], columns[:, None], columns)
            if sliding_window is None:
                return seen
            return seen & sliding_window_bidirectional_mask_function(sliding_window)(
                0, 0, places[..., None], places[:, None]
            )

        def sparse(sliding_window: int | None) -> Any:
            from torch.nn.attention.flex_attention import create_block_mask

            band = None if sliding_window is None else sliding_window_bidirectional_mask_function(sliding_window)

            def visible_keys(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
                return sees(b, q, k) if band is None else sees(b, q, k) & band(b, h, places[b, q], places[b, k])

            size = len(keys), None, keys.shape[1], keys.shape[1]
            return create_block_mask(visible_keys, *size, device=exists.device)

        attention = self.config._attn_implementation
        masks = build_masks(self.windows, attention, dtype, sparse if attention == "flex_attention" else dense)
        return Shadows(window, masks, places)


def find_shadow_masks(model: PreTrainedModel, is_ours: bool) -> ShadowMasks:
    """Those of `model`; `ValueError` for one that cannot read shadows beside the canvas."""
    name = type(model).__name__
    if not is_ours:
        raise ValueError(
            f"`verification_threshold` needs a model of hf-latent, got {name}: load the checkpoint with `import "
            "hf_latent` and without its own code."
        )
    try:
        return ShadowMasks(model.base_model)
    except ValueError as error:
        raise ValueError(f"`verification_threshold` needs masks of its own in {name}: {error}") from error


__all__ = ["ShadowMasks", "Shadows", "find_shadow_masks"]
