"""A decoder as transformers calls it: `model.generate(..., custom_generate=folder)`, on any masked diffusion model."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from hf_latent.generation.configuration_generation import DiffusionGenerationConfig
from hf_latent.generation.generate import run_generate
from hf_latent.generation.output import DiffusionGenerateOutput
from hf_latent.generation.preparation import find_config_class


def generate(
    inputs: torch.Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    model: PreTrainedModel,
    defaults: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> torch.LongTensor | DiffusionGenerateOutput:
    """
    Write tokens behind each prompt with the decoder that `defaults` describes.

    A knob is taken from the first of these that sets it: the keywords of the call, `defaults`, `generation_config`,
    the model's own generation configuration.

    Args:
        inputs: prompts `(B, P)`; also as `input_ids=`.
        generation_config: what neither the keywords nor `defaults` say.
        model: any model whose `forward(input_ids, attention_mask)` gives logits `(B, L, V)`; with latent refinement it
            takes `inputs_embeds` too.
        defaults: fields of `DiffusionGenerationConfig`.
        kwargs: those of `DiffusionGenerationMixin.generate`, and what transformers' own `generate` passes on.

    Raises:
        ValueError: for an argument of transformers' `generate` that no denoising loop can honour, by name, and for all
            that `DiffusionGenerationMixin.generate` refuses.
    """
    defaults = dict(defaults or {})
    # A configuration's None means that it leaves a stock knob unset; as a keyword it is a value.
    unset = {name: value for name, value in defaults.items() if value is None}
    config = _overlaid(find_config_class(model), generation_config, defaults)
    return run_generate(model, inputs, config, **(unset | kwargs))


def _overlaid(
    config_class: type[DiffusionGenerationConfig], given: GenerationConfig | None, defaults: dict[str, Any]
) -> DiffusionGenerationConfig:
    """A configuration that sets what `given` sets and, before that, `defaults`."""
    if given is None:
        return config_class(**defaults)
    # By attribute: a checkpoint that carries its code has a configuration class that is a copy of this one.
    left_out = getattr(given, "_left_out", ())
    config = config_class.from_dict({name: value for name, value in given.to_dict().items() if name not in left_out})
    config.update(**defaults)
    return config


__all__ = ["generate"]
