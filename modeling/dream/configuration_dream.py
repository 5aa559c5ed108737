"""Configuration of Dream (arXiv 2508.15487): transformers' Qwen2 configuration, bidirectional, with a mask token."""

from huggingface_hub.dataclasses import strict
from transformers import Qwen2Config

from hf_latent.modeling.published_config import PublishedConfigMixin


@strict
class DreamConfig(PublishedConfigMixin, Qwen2Config):
    r"""
    Configuration of [`DreamForMaskedDiffusion`], with the fields of [`PublishedFields`].

    Args:
        full_attn_mask (`bool`, *optional*, defaults to `True`):
            Field of the original configuration; only `True` is supported.
        use_mrope (`bool`, *optional*, defaults to `False`):
            Field of the original configuration; only `False` is supported.
    """

    model_type = "Dream"
    travels_with = ("hf_latent.modeling.dream.modeling_dream",)
    # What the original configuration can say and a Qwen2 block cannot do.
    supported_values = {
        "full_attn_mask": (True,),
        "use_mrope": (False,),
        "use_sliding_window": (False,),
        "num_experts": (None, 0),
    }
    not_published = ("layer_types",)

    use_cache: bool = False
    full_attn_mask: bool = True
    use_mrope: bool = False

    def validate_architecture(self) -> None:
        """Refuse by name what the original configuration can say and this implementation does not do."""
        for name in ("num_attention_heads", "num_key_value_heads"):
            whole = self.hidden_size if name == "num_attention_heads" else self.num_attention_heads
            if getattr(self, name) < 1 or whole % getattr(self, name):
                raise ValueError(f"`{name}` must divide {whole}, got {getattr(self, name)}.")
        super().validate_architecture()
        if set(self.layer_types) - {"full_attention"}:
            raise ValueError(f"`layer_types`={self.layer_types!r} is not supported; only 'full_attention' is.")


__all__ = ["DreamConfig"]
