"""How much a checkpoint writes that nobody told."""

from typing import Any

from hf_latent.generation.preparation import DEFAULT_MAX_NEW_TOKENS


def default_length(model: Any) -> dict[str, int]:
    """
    `max_new_tokens` of a model that writes from left to right and says none itself: as many as the others write.

    transformers would stop after 20 tokens, with a warning; a denoising loop takes its own default.
    """
    config = model.generation_config
    said = hasattr(model, "infill") or config.max_new_tokens is not None or config.max_length is not None
    return {} if said else {"max_new_tokens": DEFAULT_MAX_NEW_TOKENS}


__all__ = ["default_length"]
