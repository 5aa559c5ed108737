"""Registration with transformers' Auto classes; importing `hf_latent` does it."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from hf_latent.modeling.dream.configuration_dream import DreamConfig
from hf_latent.modeling.dream.modeling_dream import DreamForMaskedDiffusion
from hf_latent.modeling.latent_diffusion.configuration_latent_diffusion import LatentDiffusionConfig
from hf_latent.modeling.latent_diffusion.modeling_latent_diffusion import LatentDiffusionForConditionalGeneration
from hf_latent.modeling.latent_token.configuration_latent_token import LatentTokenConfig
from hf_latent.modeling.latent_token.modeling_latent_token import LatentTokenForMaskedDiffusion
from hf_latent.modeling.latent_token.modeling_latent_token_causal import LatentTokenForCausalLM
from hf_latent.modeling.llada.configuration_llada import LladaConfig
from hf_latent.modeling.llada.modeling_llada import LladaForMaskedDiffusion

MODELS = (
    (LladaConfig, LladaForMaskedDiffusion),
    (DreamConfig, DreamForMaskedDiffusion),
    (LatentTokenConfig, LatentTokenForMaskedDiffusion),
)


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


__all__ = ["MODELS", "register"]
