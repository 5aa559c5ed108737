"""Knobs of decoders, refused by name where the model or another knob leaves them no meaning."""

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


__all__ = ["check_rejection", "check_verification"]
