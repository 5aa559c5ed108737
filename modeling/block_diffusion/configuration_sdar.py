"""Configuration of SDAR (arXiv 2510.06303): transformers' Qwen3 configuration, block-causal, with a mask token."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3Config

from hf_latent.modeling.published_config import PublishedConfigMixin


@strict
class SdarConfig(PublishedConfigMixin, Qwen3Config):
    r"""
    Configuration of [`SdarForMaskedDiffusion`]; TraDo's checkpoints are SDAR's, too. With the fields of
    [`PublishedFields`]: `mask_token_id` is 151669 where the configuration has none and the vocabulary that many.

    Args:
        block_size (`int`, *optional*, defaults to 4):
            Positions of a block.
    """

    model_type = "sdar"
    travels_with = ("hf_latent.modeling.block_diffusion.modeling_sdar",)
    supported_values = {"use_sliding_window": (False,), "num_experts": (None, 0)}
    not_published = ("layer_types",)
    published_mask_token_id = 151669

    block_size: int = 4


__all__ = ["SdarConfig"]
