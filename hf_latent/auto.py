"""Registration with transformers' Auto classes; importing `hf_latent` does it."""

from collections.abc import Mapping
from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

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
from hf_latent.modeling.latent_diffusion.modeling_latent_diffusion import LatentDiffusionForConditionalGeneration
from hf_latent.modeling.latent_token.configuration_latent_token import LatentTokenConfig
from hf_latent.modeling.latent_token.modeling_latent_token import LatentTokenForMaskedDiffusion
from hf_latent.modeling.latent_token.modeling_latent_token_causal import LatentTokenForCausalLM
from hf_latent.modeling.llada.configuration_illada import IlladaConfig
from hf_latent.modeling.llada.configuration_llada import LladaConfig
from hf_latent.modeling.llada.configuration_llada_moe import LladaMoeConfig
from hf_latent.modeling.llada.expert_fields import has_experts
from hf_latent.modeling.llada.modeling_illada import IlladaForMaskedDiffusion
from hf_latent.modeling.llada.modeling_llada import LladaForMaskedDiffusion
from hf_latent.modeling.llada.modeling_llada_moe import LladaMoeForMaskedDiffusion

MODELS = (
    (LladaConfig, LladaForMaskedDiffusion),
    (DreamConfig, DreamForMaskedDiffusion),
    (LladaMoeConfig, LladaMoeForMaskedDiffusion),  # whose checkpoints say "llada": LladaConfig hands them on
    (IlladaConfig, IlladaForMaskedDiffusion),
    (SdarConfig, SdarForMaskedDiffusion),
    (SdarMoeConfig, SdarMoeForMaskedDiffusion),
    (FastDllmConfig, FastDllmForMaskedDiffusion),
    (Llada2Config, Llada2ForMaskedDiffusion),
    (LatentTokenConfig, LatentTokenForMaskedDiffusion),
)


def family_of(fields: Mapping[str, Any]) -> str | None:
    """
    The `model_type` of the class in [`MODELS`] that reads the `fields` of a `config.json`, if one does: LLaDA-MoE's
    files say "llada", too.
    """
    model_type = fields.get("model_type")
    return LladaMoeConfig.model_type if model_type == LladaConfig.model_type and has_experts(fields) else model_type


def register() -> None:
    """Make the Auto classes return our models; `AutoModel` too gives the class whose `generate` works."""
    for config_class, model_class in MODELS:
        AutoConfig.register(config_class.model_type, config_class, exist_ok=True)
        for auto_class in (AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM):
            auto_class.register(config_class, model_class, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForCausalLM):  # which choose between two classes by `architectures`
        auto_class.register(LatentTokenConfig, (LatentTokenForMaskedDiffusion, LatentTokenForCausalLM), exist_ok=True)
    AutoConfig.register(LatentDiffusionConfig.model_type, LatentDiffusionConfig, exist_ok=True)
    for auto_class in (AutoModel, AutoModelForSeq2SeqLM):
        auto_class.register(LatentDiffusionConfig, LatentDiffusionForConditionalGeneration, exist_ok=True)


__all__ = ["MODELS", "family_of", "register"]
