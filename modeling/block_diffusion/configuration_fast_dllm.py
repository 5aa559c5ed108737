"""Configuration of Fast-dLLM v2 (arXiv 2509.26328): transformers' Qwen2 configuration, block-causal."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config

from hf_latent.modeling.published_config import PublishedConfigMixin


@strict
class FastDllmConfig(PublishedConfigMixin, Qwen2Config):
    r"""
    Configuration of [`FastDllmForMaskedDiffusion`], with the fields of [`PublishedFields`]: `mask_token_id` is 151665
    where the configuration has none, as the published one, and the vocabulary that many.

    Args:
        block_size (`int`, *optional*, defaults to 32):
            Positions of a block; `bd_size` in the original configuration.
        conplemenrary_mask (`bool`, *optional*, defaults to `True`):
            Field of the original configuration, spelt so: whether it was trained on masks and their complements.
    """

    model_type = "Fast_dLLM_Qwen"
    travels_with = ("hf_latent.modeling.block_diffusion.modeling_fast_dllm",)
    supported_values = {"use_sliding_window": (False,), "num_experts": (None, 0)}
    attribute_map = {"bd_size": "block_size"}
    published_names = {"bd_size": "block_size"}
    published_mask_token_id = 151665

    block_size: int = 32
    conplemenrary_mask: bool = True

    def validate_architecture(self) -> None:
        """Refuse by name what the original configuration can say and this implementation does not do."""
        super().validate_architecture()
        if set(self.layer_types) - {"full_attention"}:
            raise ValueError(f"`layer_types`={self.layer_types!r} is not supported; only 'full_attention' is.")


__all__ = ["FastDllmConfig"]
