"""Fast-dLLM v2 (arXiv 2509.26328) as the difference to transformers' Qwen2: block-causal masks, shifted logits."""

from transformers import Qwen2Model, Qwen2PreTrainedModel

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.block_diffusion.configuration_fast_dllm import FastDllmConfig
from hf_latent.modeling.block_diffusion.modeling_block_causal import BlockCausalHead
from hf_latent.modeling.published_model import PublishedDecoderMixin, PublishedHeadMixin


class FastDllmModel(PublishedDecoderMixin, Qwen2Model):
    """Identical to `Qwen2Model` except that without a mask it sees everything; the head makes block-causal ones."""

    config: FastDllmConfig


class FastDllmForMaskedDiffusion(PublishedHeadMixin, BlockCausalHead, DiffusionGenerationMixin, Qwen2PreTrainedModel):
    """
    Fast-dLLM v2 with its head. It keeps the alignment of the autoregressive model it came from (the state at `i - 1`
    predicts token `i`); the shift is done here, so that position `i` of the logits predicts token `i`.
    """

    config: FastDllmConfig
    decoder_class = FastDllmModel
    reads_previous_state = True


__all__ = ["FastDllmForMaskedDiffusion", "FastDllmModel"]
