"""SDAR (arXiv 2510.06303) as the difference to transformers' Qwen3: block-causal masks, and no shift of logits."""

from transformers import Qwen3Model, Qwen3PreTrainedModel

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.block_diffusion.configuration_sdar import SdarConfig
from hf_latent.modeling.block_diffusion.modeling_block_causal import BlockCausalHead
from hf_latent.modeling.published_model import PublishedDecoderMixin, PublishedHeadMixin


class SdarModel(PublishedDecoderMixin, Qwen3Model):
    """Identical to `Qwen3Model` except that without a mask it sees everything; the head makes block-causal ones."""

    config: SdarConfig


class SdarForMaskedDiffusion(PublishedHeadMixin, BlockCausalHead, DiffusionGenerationMixin, Qwen3PreTrainedModel):
    """SDAR with its head. Position `i` of the logits predicts token `i`: nothing is shifted."""

    config: SdarConfig
    decoder_class = SdarModel


__all__ = ["SdarForMaskedDiffusion", "SdarModel"]
