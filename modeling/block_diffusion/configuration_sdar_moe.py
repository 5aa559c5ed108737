"""Configuration of SDAR's mixtures of experts (arXiv 2510.06303): transformers' Qwen3-MoE, block-causal."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen3MoeConfig

from hf_latent.modeling.published_config import PublishedConfigMixin


@strict
class SdarMoeConfig(PublishedConfigMixin, Qwen3MoeConfig):
    r"""
    Configuration of [`SdarMoeForMaskedDiffusion`].

    Args:
        mask_token_id (`int`, *optional*):
            Id of the token that marks a position still to be written. 151669 where the configuration has none, as the
            published one, and the vocabulary that many.
        block_size (`int`, *optional*, defaults to 4):
            Positions of a block.

    Raises:
        ValueError: for a value of the original configuration that this implementation does not support, by name.
    """

    model_type = "sdar_moe"
    travels_with = ("hf_latent.modeling.block_diffusion.modeling_sdar_moe",)
    auto_classes = {"AutoModel": "SdarMoeForMaskedDiffusion", "AutoModelForCausalLM": "SdarMoeForMaskedDiffusion"}
    supported_values = {"is_causal": (False,), "use_sliding_window": (False,), "output_router_logits": (False,)}
    published_names = {"num_experts": "num_local_experts"}
    not_published = ("is_causal",)
    published_mask_token_id = 151669

    # Without a mask a layer sees everything: the base model's forward hands this to the mask *and* to the kernel.
    is_causal: bool = False
    mask_token_id: int | None = None
    block_size: int = 4


__all__ = ["SdarMoeConfig"]
