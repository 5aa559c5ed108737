"""What transformers' `generate` is told beyond a call's arguments, so that the model looks ahead."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from transformers import DynamicCache, GenerationConfig, StoppingCriteriaList, StopStringCriteria

from hf_latent.generation.arguments.stock_generate import find_knob
from hf_latent.generation.autoregressive.speculative import speculate

# Values of `cache_implementation` that name the cache which looking ahead uses.
DYNAMIC = (None, "dynamic")


def look_ahead_arguments(
    num_latent_tokens: int, kwargs: Mapping[str, Any], configs: Sequence[GenerationConfig | None]
) -> dict[str, Any]:
    """
    Arguments of `generate` for a call with latent tokens.

    Args:
        kwargs: of the call, its cache as `past_key_values`.
        configs: the configuration of the call and the model's.

    Raises:
        ValueError: for a `cache_implementation` of the call that cannot forget the masks again.
    """
    arguments: dict[str, Any] = {"num_latent_tokens": num_latent_tokens}
    asked = find_knob("cache_implementation", kwargs, *configs[:1])
    if asked not in DYNAMIC:
        raise ValueError(
            f"`cache_implementation` must be 'dynamic' or left out with `num_latent_tokens`={num_latent_tokens}, "
            f"whose masks leave the cache again, got {asked!r}: with `num_latent_tokens`=0 it can be any."
        )
    if find_knob("cache_implementation", {}, *configs) is not None or asked is not None:
        arguments["cache_implementation"] = None  # the cache that is passed is of that kind; a default gives way
    if kwargs.get("past_key_values") is None and kwargs.get("use_cache", True):
        arguments["past_key_values"] = DynamicCache()  # without windows, which cannot forget the masks
    return arguments


def speculation_arguments(
    kwargs: Mapping[str, Any],
    stopping_criteria: StoppingCriteriaList | None,
    configs: Sequence[GenerationConfig | None],
    *,
    verified_by_text: bool,
) -> tuple[dict[str, Any], StoppingCriteriaList | None]:
    """
    Further arguments of `generate` for self-speculative decoding, and when it stops; see `look_ahead_arguments`.

    `verified_by_text`: as in [`~generation.speculative.speculate`]. Of its arguments transformers hands neither a
    streamer nor a tokenizer to a function that generates.
    """
    for name in ("custom_generate", "assistant_model", "synced_gpus"):
        if kwargs.get(name):
            raise ValueError(f"`{name}` must be left out with `self_speculative`, got {kwargs[name]!r}.")
    asked = find_knob("cache_implementation", kwargs, *configs[:1])
    if asked is not None:
        raise ValueError(
            "`cache_implementation` must be left out with `self_speculative`, whose cache is its own: rejected drafts "
            f"and the masks of `num_latent_tokens` leave it again. Got {asked!r}."
        )
    decode = partial(speculate, streamer=kwargs.get("streamer"), verified_by_text=verified_by_text)
    arguments: dict[str, Any] = {"custom_generate": decode}
    arguments["use_cache"] = kwargs.get("use_cache", True)  # training with checkpointed activations leaves it off
    stop_strings = find_knob("stop_strings", kwargs, *configs)
    if stop_strings is not None:
        tokenizer = kwargs.get("tokenizer")
        if tokenizer is None:
            raise ValueError(f"`stop_strings`={stop_strings!r} needs the model's `tokenizer`: pass `tokenizer=`.")
        arguments["stop_strings"] = None
        stops = StopStringCriteria(tokenizer=tokenizer, stop_strings=stop_strings)
        stopping_criteria = StoppingCriteriaList([*(stopping_criteria or ()), stops])
    return arguments, stopping_criteria


__all__ = ["look_ahead_arguments", "speculation_arguments"]
