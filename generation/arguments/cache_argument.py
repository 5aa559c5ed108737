"""The name of a cache among the arguments of a forward: `past_key_values` before transformers 5.24, `cache` since."""

import inspect
from typing import Any

from transformers.modeling_outputs import BaseModelOutputWithPast

OLD_NAME, NEW_NAME = "past_key_values", "cache"
# What `generate` of the installed transformers and its outputs call it.
CACHE_NAME = NEW_NAME if NEW_NAME in BaseModelOutputWithPast.__dataclass_fields__ else OLD_NAME


def cache_name(model_class: Any) -> str:
    """What the forward of a class calls it: code that is not transformers' may be of either time."""
    return NEW_NAME if NEW_NAME in inspect.signature(model_class.forward).parameters else OLD_NAME


def cache_of(outputs: Any) -> Any:
    """The cache in a model's outputs."""
    return getattr(outputs, CACHE_NAME, None)


__all__ = ["CACHE_NAME", "cache_name", "cache_of"]
