"""Dream (arXiv 2508.15487) as the difference to transformers' Qwen2: a bidirectional mask and shifted logits."""

from transformers import Qwen2Model, Qwen2PreTrainedModel

from hf_latent.generation.configuration_generation import DreamGenerationConfig
from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.dream.configuration_dream import DreamConfig
from hf_latent.modeling.masked_diffusion import MaskedDiffusionHead
from hf_latent.modeling.published_model import PublishedDecoderMixin, PublishedHeadMixin


class DreamModel(PublishedDecoderMixin, Qwen2Model):
    """Identical to `Qwen2Model` except that the configuration makes attention bidirectional."""

    config: DreamConfig


class DreamForMaskedDiffusion(PublishedHeadMixin, MaskedDiffusionHead, DiffusionGenerationMixin, Qwen2PreTrainedModel):
    """
    Dream with its head. Dream keeps the alignment of the autoregressive model it came from (the state at `i - 1`
    predicts token `i`); the shift is done here, so that position `i` of the logits predicts token `i`.
    """

    config: DreamConfig
    decoder_class = DreamModel
    generation_config_class = DreamGenerationConfig
    reads_previous_state = True


__all__ = ["DreamForMaskedDiffusion", "DreamModel"]
