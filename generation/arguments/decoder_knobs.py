"""Knobs of decoders, refused by name where the model or another knob leaves them no meaning."""

import math
from typing import Any

from transformers import PreTrainedModel

from hf_latent.generation.arguments.block_knobs import is_block_causal


def check_verification(model: PreTrainedModel, config: Any) -> None:
    """Raise `ValueError` if a `DiffusionGenerationConfig` verifies tokens where the model or a knob forbids it."""
    if config.verification_threshold is None:
        return
    name, given = type(model).__name__, f"`verification_threshold`={config.verification_threshold}"
    if getattr(model.config, "is_semi_causal", False) or is_block_causal(model):
        raise ValueError(
            f"{given} must be left out for {name}: it is for models in which every position sees all others."
        )
    if getattr(model, "reads_previous_state", False):
        raise ValueError(
            f"{given} must be left out for {name}: its tokens are predicted by the state before them, which has seen "
            "them where they are written."
        )
    for other in ("editing_threshold", "block_cache"):
        value = getattr(config, other)
        if value is not None:
            why = "both revise what is written" if other == "editing_threshold" else "which keeps no shadows"
            raise ValueError(f"{given} does not go with `{other}`={value!r}, {why}: one of them must be None.")


def check_rejection(config: Any) -> None:
    """Raise `ValueError` if a `DiffusionGenerationConfig` rejects mixtures that it does not make."""
    if config.rejection_js is not None and not config.latent_refinement:
        raise ValueError(
            f"`rejection_js`={config.rejection_js} needs `latent_refinement`=True, whose mixtures it rejects."
        )


def check_early_exit(config: Any) -> None:
    """Raise `ValueError` if a `DiffusionGenerationConfig` moves a threshold that there is not, or that is infinite."""
    first, last = config.early_exit_threshold, config.early_exit_final_threshold
    if last is not None and (first is None or not math.isfinite(first) or not math.isfinite(last)):
        raise ValueError(
            f"`early_exit_final_threshold`={last} needs an `early_exit_threshold` to start from, both finite, got "
            f"{first}."
        )


__all__ = ["check_early_exit", "check_rejection", "check_verification"]
