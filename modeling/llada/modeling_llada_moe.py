"""LLaDA-MoE (arXiv 2509.24389) as the difference to transformers' Qwen3-MoE: a bidirectional mask."""

from transformers import Qwen3MoeModel, Qwen3MoePreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.llada.configuration_llada_moe import LladaMoeConfig
from hf_latent.modeling.masked_diffusion import MaskedDiffusionHead
from hf_latent.modeling.published_model import PublishedDecoderMixin, PublishedHeadMixin
from hf_latent.modeling.stock_experts import StockExpertsMixin

# Experts are stored one by one. `overwrite` because a checkpoint folder that carries this file registers it again.
register_checkpoint_conversion_mapping("llada_moe", get_checkpoint_conversion_mapping("qwen3_moe"), overwrite=True)


class LladaMoeModel(PublishedDecoderMixin, StockExpertsMixin, Qwen3MoeModel):
    """Identical to `Qwen3MoeModel` except that the configuration makes attention bidirectional."""

    config: LladaMoeConfig


class LladaMoeForMaskedDiffusion(
    PublishedHeadMixin, MaskedDiffusionHead, DiffusionGenerationMixin, StockExpertsMixin, Qwen3MoePreTrainedModel
):
    """LLaDA-MoE with its head. Position `i` of the logits predicts token `i`: nothing is shifted."""

    config: LladaMoeConfig
    decoder_class = LladaMoeModel


__all__ = ["LladaMoeForMaskedDiffusion", "LladaMoeModel"]
