"""
Sliding windows of a decoder's layers, and masks that keep to them where transformers cannot: it builds a window from
columns, and what a block cache reads again stands in other columns than those it is given in.

`A` rows, `Q` positions that look, `L` positions that are looked at.
"""

import inspect
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import sliding_window_bidirectional_mask_function

# Layers of a configuration's `layer_types` that are attention with nothing to remember but keys and values.
ATTENTION_LAYERS = ("full_attention", "sliding_attention")
# What the code of a decoder with windows imports of transformers.
WINDOW_MASKS = ("create_sliding_window_causal_mask", "create_bidirectional_sliding_window_mask")
# What layers are told through which a forward runs several times; see `find_looped_layer`.
LOOP_ARGUMENT = "cache_offset"
MASKED_IMPLEMENTATIONS = ("sdpa", "eager", "flex_attention")

# The window of all layers, or of each kind of layer; None: they see everything.
Windows = dict[str, int | None] | int | None


def sliding_windows_of(config: PreTrainedConfig, decoder: type | None = None) -> Windows:
    """
    The sliding windows of a decoder, as its `config` says and its forward takes masks for: a mask for each kind of
    layer where there is a window in some, one mask for all layers else.

    Args:
        decoder: its class. Some do not look at the `sliding_window` of their configuration (Llama, of a checkpoint
            that was Mistral's; Moshi). If not given, it is taken to.

    Raises:
        ValueError: for layers that are no attention, that look at chunks, or that a forward runs through repeatedly.
    """
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds <= set(ATTENTION_LAYERS):
        raise ValueError(f"`layer_types` must be among {ATTENTION_LAYERS}, got {sorted(kinds)}.")
    if getattr(config, "attention_chunk_size", None) is not None and not kinds:
        raise ValueError(f"`attention_chunk_size` must be None, got {config.attention_chunk_size}.")
    if decoder is not None and (looped := find_looped_layer(decoder)) is not None:
        raise ValueError(f"a forward must run through each layer once, it loops through {looped}.")
    if decoder is not None and not makes_window_masks(decoder):
        return None
    if decoder is not None and not reads_kinds_of_layers(decoder):
        return window
    if "sliding_attention" in kinds and window is not None:
        return {"sliding_attention": window, "full_attention": None}
    # Without kinds of layers a window is every layer's (Mistral); with full attention only it is a leftover.
    return None if kinds else window


def makes_window_masks(decoder: type) -> bool:
    """Whether the code of a decoder's class, or of one that it is made from, builds masks with windows."""
    return bool(_window_modules(decoder))


@lru_cache
def reads_kinds_of_layers(decoder: type) -> bool:
    """
    Whether that code asks which layers see a window. Mistral's and MiniMax's goes by `sliding_window` alone, whatever
    the configuration says of its layers.
    """
    return any("sliding_attention" in inspect.getsource(module) for module in _window_modules(decoder))


def _window_modules(decoder: type) -> list[Any]:
    modules = [sys.modules.get(base.__module__) for base in decoder.__mro__]
    return [module for module in modules if any(hasattr(module, name) for name in WINDOW_MASKS)]


@lru_cache
def find_looped_layer(decoder: type) -> str | None:
    """
    The name of a class of layers through which a decoder's forward runs several times, None without: such a layer is
    told where the running loop's keys and values are in the cache, which is no place of its own.
    """
    module = sys.modules.get(decoder.__module__)
    parts: list[Any] = [part for part in getattr(module, "__dict__", {}).values() if isinstance(part, type)]
    layers = [part for part in parts if issubclass(part, nn.Module) and part.__module__ == decoder.__module__]
    looped = (part.__name__ for part in layers if LOOP_ARGUMENT in inspect.signature(part.forward).parameters)
    return next(looped, None)


def smallest_window(windows: Windows) -> int | None:
    """The smallest of the windows; None without any."""
    found = windows.values() if isinstance(windows, dict) else [windows]
    return min((window for window in found if window is not None), default=None)


def build_masks(
    windows: Windows, attention: str, dtype: torch.dtype, visible_keys: Callable[[int | None], Any]
) -> torch.Tensor | dict[str, Any] | Any:
    """
    Masks as a decoder with these `windows` takes them.

    Args:
        attention: its attention implementation, one of `MASKED_IMPLEMENTATIONS`.
        dtype: of a mask that is added.
        visible_keys: of a window, which key each query sees: bool `(A, Q, L)`, or a `BlockMask` for flex attention.
    """
    if isinstance(windows, dict):
        return {kind: build_masks(window, attention, dtype, visible_keys) for kind, window in windows.items()}
    seen = visible_keys(windows)
    if attention == "flex_attention":
        return seen
    if attention == "sdpa":
        return seen[:, None]
    least = torch.finfo(dtype).min
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, least)[:, None]


class SlidingWindowMasks:
    """
    Masks for queries of a bidirectional decoder that stand anywhere among its keys.

    Args:
        decoder: the base model.

    Raises:
        ValueError: for layers whose masks are not known, by name.
    """

    def __init__(self, decoder: PreTrainedModel) -> None:
        self.config = decoder.config
        self.windows = sliding_windows_of(decoder.config, type(decoder))
        self.smallest_window = smallest_window(self.windows)

    def needed(self, length: int) -> bool:
        """Whether a canvas of `length` columns is wider than a window; `ValueError` where no mask of ours is taken."""
        if self.smallest_window is None or length - 1 <= self.smallest_window:
            return False
        attention = self.config._attn_implementation
        if attention not in MASKED_IMPLEMENTATIONS:
            raise ValueError(
                f"`attn_implementation` must be one of {MASKED_IMPLEMENTATIONS} for a block cache of {length} tokens "
                f"with a sliding window of {self.smallest_window}, got {attention!r}."
            )
        return True

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, exists: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor | dict[str, Any] | Any:
        """
        Masks in the form that the decoder takes.

        Args:
            queries, keys: int64 `(A, Q)` and `(A, L)`, positions within the row.
            exists: bool `(A, L)`, keys that are not hidden.
            dtype: the model's.
        """
        attention = self.config._attn_implementation

        def dense(window: int | None) -> torch.Tensor:
            seen = exists[:, None].expand(-1, queries.shape[1], -1)
            if window is None:
                return seen
            band = sliding_window_bidirectional_mask_function(window)  # whether its end is in is transformers' word
            return seen & band(0, 0, queries[..., None], keys[:, None])

        def sparse(window: int | None) -> Any:
            from torch.nn.attention.flex_attention import create_block_mask

            band = None if window is None else sliding_window_bidirectional_mask_function(window)

            def visible_keys(b: torch.Tensor, h: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
                return exists[b, k] if band is None else exists[b, k] & band(b, h, queries[b, q], keys[b, k])

            size = len(queries), None, queries.shape[1], keys.shape[1]
            return create_block_mask(visible_keys, *size, device=queries.device)

        return build_masks(self.windows, attention, dtype, sparse if attention == "flex_attention" else dense)


__all__ = ["MASKED_IMPLEMENTATIONS", "SlidingWindowMasks", "Windows", "build_masks", "sliding_windows_of"]
