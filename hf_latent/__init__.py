"""Language models that reason in positions they have not written yet, at home in transformers."""

import importlib
from typing import Any

from hf_latent import auto as _auto
from hf_latent.data.template import ReasoningTemplate
from hf_latent.data.traces_sampling import sample_posterior_traces
from hf_latent.data.traces_scoring import score_traces
from hf_latent.generation.configuration_generation import DiffusionGenerationConfig
from hf_latent.generation.output import DiffusionGenerateOutput
from hf_latent.modeling.dream.configuration_dream import DreamConfig
from hf_latent.modeling.dream.modeling_dream import DreamForMaskedDiffusion
from hf_latent.modeling.latent_diffusion.configuration_latent_diffusion import LatentDiffusionConfig
from hf_latent.modeling.latent_diffusion.configuration_latent_sampling import LatentDiffusionGenerationConfig
from hf_latent.modeling.latent_diffusion.modeling_latent_autoencoder import LatentAutoencoder
from hf_latent.modeling.latent_diffusion.modeling_latent_denoiser import LatentDenoiser
from hf_latent.modeling.latent_diffusion.modeling_latent_diffusion import LatentDiffusionForConditionalGeneration
from hf_latent.modeling.latent_token.configuration_latent_token import LatentTokenConfig
from hf_latent.modeling.latent_token.modeling_latent_token import LatentTokenForMaskedDiffusion
from hf_latent.modeling.latent_token.modeling_latent_token_causal import LatentTokenForCausalLM
from hf_latent.modeling.llada.configuration_llada import LladaConfig
from hf_latent.modeling.llada.modeling_llada import LladaForMaskedDiffusion

__version__ = "0.1.0"

_auto.register()

# Rooms that are reached as attributes (`hf_latent.hub.bundle`) but loaded on first use only.
_ROOMS = ("data", "evaluation", "hub", "tasks", "training", "viz")
_TASK_FUNCTIONS = ("get_task", "load_task")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"hf_latent.{name}")
    if name in _TASK_FUNCTIONS:
        return getattr(importlib.import_module("hf_latent.tasks"), name)
    raise AttributeError(f"module 'hf_latent' has no attribute {name!r}")


__all__ = [
    "DiffusionGenerateOutput",
    "DiffusionGenerationConfig",
    "DreamConfig",
    "DreamForMaskedDiffusion",
    "LatentAutoencoder",
    "LatentDenoiser",
    "LatentDiffusionConfig",
    "LatentDiffusionForConditionalGeneration",
    "LatentDiffusionGenerationConfig",
    "LatentTokenConfig",
    "LatentTokenForCausalLM",
    "LatentTokenForMaskedDiffusion",
    "LladaConfig",
    "LladaForMaskedDiffusion",
    "ReasoningTemplate",
    "sample_posterior_traces",
    "score_traces",
]
