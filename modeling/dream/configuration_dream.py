"""Configuration of Dream (arXiv 2508.15487): transformers' Qwen2 configuration, bidirectional, with a mask token."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config

from hf_latent.modeling.published_config import (
    refuse_partial_rotation,
    refuse_unsupported,
    write_published_rotation,
)
from hf_latent.modeling.travel import TravellingConfigMixin

# What the original configuration can say and a Qwen2 block cannot do: the one value we honour, the rest is refused.
SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "full_attn_mask": (True,),
    "is_causal": (False,),
    "use_mrope": (False,),
    "use_sliding_window": (False,),
    "num_experts": (None, 0),
}


@strict
class DreamConfig(TravellingConfigMixin, Qwen2Config):
    r"""
    Configuration of [`DreamForMaskedDiffusion`].

    Args:
        mask_token_id (`int`, *optional*):
            Id of the token that marks a position still to be written. Needed to generate and to train.
        full_attn_mask (`bool`, *optional*, defaults to `True`):
            Field of the original configuration; only `True` is supported.
        use_mrope (`bool`, *optional*, defaults to `False`):
            Field of the original configuration; only `False` is supported.

    Raises:
        ValueError: for a value of the original configuration that this implementation does not support, by name.
    """

    model_type = "Dream"
    travels_with = ("hf_latent.modeling.dream.modeling_dream",)
    auto_classes = {
        "AutoModel": "DreamForMaskedDiffusion",
        "AutoModelForCausalLM": "DreamForMaskedDiffusion",
    }

    # Bidirectional: the base model's forward hands this to the mask *and* to the attention kernel.
    is_causal: bool = False
    mask_token_id: int | None = None
    use_cache: bool = False
    full_attn_mask: bool = True
    use_mrope: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # Also run by `@strict`, which hides the ValueError in an error type of its own.
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Refuse by name what the original configuration can say and this implementation does not do."""
        refuse_unsupported(self, SUPPORTED_VALUES)
        refuse_partial_rotation(self)
        for name in ("num_attention_heads", "num_key_value_heads"):
            whole = self.hidden_size if name == "num_attention_heads" else self.num_attention_heads
            if getattr(self, name) < 1 or whole % getattr(self, name):
                raise ValueError(f"`{name}` must divide {whole}, got {getattr(self, name)}.")
        if set(self.layer_types) - {"full_attention"}:
            raise ValueError(f"`layer_types`={self.layer_types!r} is not supported; only 'full_attention' is.")

    def to_diff_dict(self) -> dict[str, Any]:
        """What is written to `config.json`: the original field names, so that the original code reads it too."""
        config = super().to_diff_dict()
        write_published_rotation(config, self.default_theta)
        config.pop("layer_types", None)
        config.pop("is_causal", None)
        return config


__all__ = ["DreamConfig"]
