"""Configuration of iLLaDA (arXiv 2606.25331): transformers' Llama configuration, bidirectional, with a mask token."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlamaConfig

from hf_latent.modeling.published_config import PublishedConfigMixin


@strict
class IlladaConfig(PublishedConfigMixin, LlamaConfig):
    r"""
    Configuration of [`IlladaForMaskedDiffusion`], with the fields of [`PublishedFields`]: `mask_token_id` is 5 where
    the configuration has none, as the published one.
    """

    model_type = "illada"
    travels_with = ("hf_latent.modeling.llada.modeling_illada",)
    # `layer_norm_eps` makes the original code use another norm.
    supported_values = {
        "layer_norm_eps": (None,),
        "resid_pdrop": (0.0, None),
        "num_experts": (None, 0),
    }
    not_published = ("pretraining_tp", "use_cache")
    published_mask_token_id = 5

    tie_word_embeddings: bool = True
    use_cache: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def to_diff_dict(self) -> dict[str, Any]:
        """What is written to `config.json`: the original field names, so that the original code reads it too."""
        fields = super().to_diff_dict()
        if self.head_dim == self.hidden_size // self.num_attention_heads:
            fields.pop("head_dim", None)
        return fields


__all__ = ["IlladaConfig"]
