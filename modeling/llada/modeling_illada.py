"""iLLaDA (arXiv 2606.25331) as the difference to transformers' Llama: a bidirectional mask."""

from transformers import LlamaModel, LlamaPreTrainedModel

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.llada.configuration_illada import IlladaConfig
from hf_latent.modeling.masked_diffusion import MaskedDiffusionHead
from hf_latent.modeling.published_model import PublishedDecoderMixin, PublishedHeadMixin


class IlladaModel(PublishedDecoderMixin, LlamaModel):
    """Identical to `LlamaModel` except that the configuration makes attention bidirectional."""

    config: IlladaConfig


class IlladaForMaskedDiffusion(
    PublishedHeadMixin, MaskedDiffusionHead, DiffusionGenerationMixin, LlamaPreTrainedModel
):
    """iLLaDA with its head. Position `i` of the logits predicts token `i`: nothing is shifted."""

    config: IlladaConfig
    decoder_class = IlladaModel


__all__ = ["IlladaForMaskedDiffusion", "IlladaModel"]
