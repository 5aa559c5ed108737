"""Language models that reason in positions they have not written yet, at home in transformers."""

import importlib
from typing import TYPE_CHECKING, Any

from hf_latent.moved import find_moved_modules as _find_moved_modules
from hf_latent.registration import register_when_needed as _register_when_needed

if TYPE_CHECKING:
    from hf_latent.data.template import ReasoningTemplate
    from hf_latent.data.traces.sampling import sample_posterior_traces
    from hf_latent.data.traces.scoring import score_traces
    from hf_latent.generation.configuration_generation import DiffusionGenerationConfig
    from hf_latent.generation.output import DiffusionGenerateOutput
    from hf_latent.modeling.block_diffusion.configuration_fast_dllm import FastDllmConfig
    from hf_latent.modeling.block_diffusion.configuration_llada2 import Llada2Config
    from hf_latent.modeling.block_diffusion.configuration_sdar import SdarConfig
    from hf_latent.modeling.block_diffusion.configuration_sdar_moe import SdarMoeConfig
    from hf_latent.modeling.block_diffusion.modeling_fast_dllm import FastDllmForMaskedDiffusion
    from hf_latent.modeling.block_diffusion.modeling_llada2 import Llada2ForMaskedDiffusion
    from hf_latent.modeling.block_diffusion.modeling_sdar import SdarForMaskedDiffusion
    from hf_latent.modeling.block_diffusion.modeling_sdar_moe import SdarMoeForMaskedDiffusion
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
    from hf_latent.modeling.llada.configuration_illada import IlladaConfig
    from hf_latent.modeling.llada.configuration_llada import LladaConfig
    from hf_latent.modeling.llada.configuration_llada_moe import LladaMoeConfig
    from hf_latent.modeling.llada.modeling_illada import IlladaForMaskedDiffusion
    from hf_latent.modeling.llada.modeling_llada import LladaForMaskedDiffusion
    from hf_latent.modeling.llada.modeling_llada_moe import LladaMoeForMaskedDiffusion
    from hf_latent.tasks import get_task, load_task

__version__ = "0.1.0"

# What is here and where it is defined: imported on first use, so that `import hf_latent` (and with it `--help` of a
# command) does not wait for torch.
_DEFINED_IN = {
    "DiffusionGenerateOutput": "hf_latent.generation.output",
    "DiffusionGenerationConfig": "hf_latent.generation.configuration_generation",
    "DreamConfig": "hf_latent.modeling.dream.configuration_dream",
    "DreamForMaskedDiffusion": "hf_latent.modeling.dream.modeling_dream",
    "FastDllmConfig": "hf_latent.modeling.block_diffusion.configuration_fast_dllm",
    "FastDllmForMaskedDiffusion": "hf_latent.modeling.block_diffusion.modeling_fast_dllm",
    "IlladaConfig": "hf_latent.modeling.llada.configuration_illada",
    "IlladaForMaskedDiffusion": "hf_latent.modeling.llada.modeling_illada",
    "LatentAutoencoder": "hf_latent.modeling.latent_diffusion.modeling_latent_autoencoder",
    "LatentDenoiser": "hf_latent.modeling.latent_diffusion.modeling_latent_denoiser",
    "LatentDiffusionConfig": "hf_latent.modeling.latent_diffusion.configuration_latent_diffusion",
    "LatentDiffusionForConditionalGeneration": "hf_latent.modeling.latent_diffusion.modeling_latent_diffusion",
    "LatentDiffusionGenerationConfig": "hf_latent.modeling.latent_diffusion.configuration_latent_sampling",
    "LatentTokenConfig": "hf_latent.modeling.latent_token.configuration_latent_token",
    "LatentTokenForCausalLM": "hf_latent.modeling.latent_token.modeling_latent_token_causal",
    "LatentTokenForMaskedDiffusion": "hf_latent.modeling.latent_token.modeling_latent_token",
    "Llada2Config": "hf_latent.modeling.block_diffusion.configuration_llada2",
    "Llada2ForMaskedDiffusion": "hf_latent.modeling.block_diffusion.modeling_llada2",
    "LladaConfig": "hf_latent.modeling.llada.configuration_llada",
    "LladaForMaskedDiffusion": "hf_latent.modeling.llada.modeling_llada",
    "LladaMoeConfig": "hf_latent.modeling.llada.configuration_llada_moe",
    "LladaMoeForMaskedDiffusion": "hf_latent.modeling.llada.modeling_llada_moe",
    "ReasoningTemplate": "hf_latent.data.template",
    "SdarConfig": "hf_latent.modeling.block_diffusion.configuration_sdar",
    "SdarForMaskedDiffusion": "hf_latent.modeling.block_diffusion.modeling_sdar",
    "SdarMoeConfig": "hf_latent.modeling.block_diffusion.configuration_sdar_moe",
    "SdarMoeForMaskedDiffusion": "hf_latent.modeling.block_diffusion.modeling_sdar_moe",
    "get_task": "hf_latent.tasks",
    "load_task": "hf_latent.tasks",
    "sample_posterior_traces": "hf_latent.data.traces.sampling",
    "score_traces": "hf_latent.data.traces.scoring",
}
# Rooms that are reached as attributes (`hf_latent.hub.bundle`) but loaded on first use only.
_ROOMS = ("auto", "data", "evaluation", "generation", "hub", "modeling", "tasks", "training", "viz")

_register_when_needed()
_find_moved_modules()


def __getattr__(name: str) -> Any:
    if name in _DEFINED_IN:
        value = getattr(importlib.import_module(_DEFINED_IN[name]), name)
        globals()[name] = value
        return value
    if name in _ROOMS:
        return importlib.import_module(f"hf_latent.{name}")
    raise AttributeError(f"module 'hf_latent' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_DEFINED_IN, *_ROOMS})


__all__ = [
    "DiffusionGenerateOutput",
    "DiffusionGenerationConfig",
    "DreamConfig",
    "DreamForMaskedDiffusion",
    "FastDllmConfig",
    "FastDllmForMaskedDiffusion",
    "IlladaConfig",
    "IlladaForMaskedDiffusion",
    "LatentAutoencoder",
    "LatentDenoiser",
    "LatentDiffusionConfig",
    "LatentDiffusionForConditionalGeneration",
    "LatentDiffusionGenerationConfig",
    "LatentTokenConfig",
    "LatentTokenForCausalLM",
    "LatentTokenForMaskedDiffusion",
    "Llada2Config",
    "Llada2ForMaskedDiffusion",
    "LladaConfig",
    "LladaForMaskedDiffusion",
    "LladaMoeConfig",
    "LladaMoeForMaskedDiffusion",
    "ReasoningTemplate",
    "SdarConfig",
    "SdarForMaskedDiffusion",
    "SdarMoeConfig",
    "SdarMoeForMaskedDiffusion",
    "sample_posterior_traces",
    "score_traces",
]
