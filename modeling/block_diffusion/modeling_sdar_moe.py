"""SDAR's mixtures of experts (arXiv 2510.06303) as the difference to transformers' Qwen3-MoE: block-causal masks."""

from transformers import Qwen3MoeModel, Qwen3MoePreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.block_diffusion.configuration_sdar_moe import SdarMoeConfig
from hf_latent.modeling.block_diffusion.modeling_block_causal import BlockCausalHead
from hf_latent.modeling.published_model import PublishedDecoderMixin, PublishedHeadMixin
from hf_latent.modeling.stock_experts import StockExpertsMixin

# Experts are stored one by one. `overwrite` because a checkpoint folder that carries this file registers it again.
register_checkpoint_conversion_mapping("sdar_moe", get_checkpoint_conversion_mapping("qwen3_moe"), overwrite=True)


class SdarMoeModel(PublishedDecoderMixin, StockExpertsMixin, Qwen3MoeModel):
    """Identical to `Qwen3MoeModel` except that without a mask it sees everything; the head makes block-causal ones."""

    config: SdarMoeConfig


class SdarMoeForMaskedDiffusion(
    PublishedHeadMixin, BlockCausalHead, DiffusionGenerationMixin, StockExpertsMixin, Qwen3MoePreTrainedModel
):
    """SDAR-MoE with its head. Position `i` of the logits predicts token `i`: nothing is shifted."""

    config: SdarMoeConfig
    decoder_class = SdarMoeModel


__all__ = ["SdarMoeForMaskedDiffusion", "SdarMoeModel"]
