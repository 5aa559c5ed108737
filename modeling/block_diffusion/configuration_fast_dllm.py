"""Configuration of Fast-dLLM v2 (arXiv 2509.26328): transformers' Qwen2 configuration, block-causal."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config

from hf_latent.modeling.published_config import PublishedConfigMixin


@strict
class FastDllmConfig(PublishedConfigMixin, Qwen2Config):
    r"""
    Configuration of [`FastDllmForMaskedDiffusion`].

    Args:
        mask_token_id (`int`, *optional*):
            Id of the token that marks a position still to be written. 151665 where the configuration has none, as the
            published one, and the vocabulary that many.
        block_size (`int`, *optional*, defaults to 32):
            Positions of a block; `bd_size` in the original configuration.
        conplemenrary_mask (`bool`, *optional*, defaults to `True`):
            Field of the original configuration, spelt so: whether it was trained on masks and their complements.

    Raises:
        ValueError: for a value of the original configuration that this implementation does not support, by name.
    """

    model_type = "Fast_dLLM_Qwen"
    travels_with = ("hf_latent.modeling.block_diffusion.modeling_fast_dllm",)
    auto_classes = {"AutoModel": "FastDllmForMaskedDiffusion", "AutoModelForCausalLM": "FastDllmForMaskedDiffusion"}
    supported_values = {"is_causal": (False,), "use_sliding_window": (False,), "num_experts": (None, 0)}
    attribute_map = {"bd_size": "block_size"}
    published_names = {"bd_size": "block_size"}
    not_published = ("is_causal",)
    published_mask_token_id = 151665

    # Without a mask a layer sees everything: the base model's forward hands this to the mask *and* to the kernel.
    is_causal: bool = False
    mask_token_id: int | None = None
    block_size: int = 32
    conplemenrary_mask: bool = True

    def validate_architecture(self) -> None:
        """Refuse by name what the original configuration can say and this implementation does not do."""
        super().validate_architecture()
        if set(self.layer_types) - {"full_attention"}:
            raise ValueError(f"`layer_types`={self.layer_types!r} is not supported; only 'full_attention' is.")


__all__ = ["FastDllmConfig"]
