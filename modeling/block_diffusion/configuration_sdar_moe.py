"""Configuration of SDAR's mixtures of experts (arXiv 2510.06303): transformers' Qwen3-MoE, block-causal."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3MoeConfig

from hf_latent.modeling.published_config import PublishedConfigMixin


@strict
class SdarMoeConfig(PublishedConfigMixin, Qwen3MoeConfig):
    r"""
    Configuration of SDAR's mixtures of experts, [`SdarMoeForMaskedDiffusion`]. With the fields of
    [`PublishedFields`]: `mask_token_id` is 151669 where the configuration has none, as the published one, and the
    vocabulary that many.

    Args:
        block_size (`int`, *optional*, defaults to 4):
            Positions of a block.
    """

    model_type = "sdar_moe"
    travels_with = ("hf_latent.modeling.block_diffusion.modeling_sdar_moe",)
    supported_values = {"use_sliding_window": (False,), "output_router_logits": (False,)}
    published_names = {"num_experts": "num_local_experts"}
    published_mask_token_id = 151669

    block_size: int = 4


__all__ = ["SdarMoeConfig"]
