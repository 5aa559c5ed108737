"""Configuration of SDAR (arXiv 2510.06303): transformers' Qwen3 configuration, block-causal, with a mask token."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3Config

from hf_latent.modeling.published_config import PublishedConfigMixin


@strict
class SdarConfig(PublishedConfigMixin, Qwen3Config):
    r"""
    Configuration of [`SdarForMaskedDiffusion`]; TraDo's checkpoints are SDAR's, too.

    Args:
        mask_token_id (`int`, *optional*):
            Id of the token that marks a position still to be written. 151669 where the configuration has none and the
            vocabulary that many.
        block_size (`int`, *optional*, defaults to 4):
            Positions of a block.

    Raises:
        ValueError: for a value of the original configuration that this implementation does not support, by name.
    """

    model_type = "sdar"
    travels_with = ("hf_latent.modeling.block_diffusion.modeling_sdar",)
    auto_classes = {"AutoModel": "SdarForMaskedDiffusion", "AutoModelForCausalLM": "SdarForMaskedDiffusion"}
    supported_values = {"is_causal": (False,), "use_sliding_window": (False,), "num_experts": (None, 0)}
    not_published = ("is_causal", "layer_types")
    published_mask_token_id = 151669

    # Without a mask a layer sees everything: the base model's forward hands this to the mask *and* to the kernel.
    is_causal: bool = False
    mask_token_id: int | None = None
    block_size: int = 4


__all__ = ["SdarConfig"]
