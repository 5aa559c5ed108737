"""Configuration of LLaDA-MoE (arXiv 2509.24389): its own field names on transformers' Qwen3-MoE, bidirectional."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Qwen3MoeConfig

from hf_latent.modeling.llada.expert_fields import has_experts
from hf_latent.modeling.published_config import PublishedConfigMixin


@strict
class LladaMoeConfig(PublishedConfigMixin, Qwen3MoeConfig):
    r"""
    Configuration of [`LladaMoeForMaskedDiffusion`]. Reads and writes the field names of the published checkpoints,
    whose `model_type` is "llada": `AutoConfig` tells them from dense LLaDA by `num_experts`. With the fields of
    [`PublishedFields`]: `mask_token_id` is 156895 where the configuration has none and the vocabulary that many.

    Args:
        moe_layer_freq (`list[int]`, *optional*):
            Of each layer, whether it has experts (1) or is dense (0); not given, all have.
    """

    model_type = "llada_moe"
    published_model_type = "llada"
    travels_with = ("hf_latent.modeling.llada.modeling_llada_moe",)
    published_names = {
        "num_experts": "num_local_experts",
        "expert_intermediate_size": "moe_intermediate_size",
        "dense_intermediate_size": "intermediate_size",
    }
    attribute_map = dict(published_names)
    # The published code does not read all of these; where it does not, the one value is what it does.
    supported_values = {
        "attention_bias": (False,),
        "clip_qkv": (None,),
        "decoder_sparse_step": (1,),
        "moe_router_enable_expert_bias": (False,),
        "moe_router_score_function": ("softmax",),
        "norm_topk_prob": (False, None),
        "output_router_logits": (False,),
        "qk_layernorm": (True,),
        "routed_scaling_factor": (1.0, None),
        "router_num_group": (None,),
        "router_topk_group": (None,),
        "shared_expert_intermediate_size": (None, 0),
        "use_sliding_window": (False,),
    }
    not_published = ("decoder_sparse_step", "mlp_only_layers", "sliding_window", "use_sliding_window")
    published_mask_token_id = 156895

    moe_layer_freq: list[int] | None = None
    norm_topk_prob: bool | None = None
    use_cache: bool = False

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers, which would warn of the `model_type` that LLaDA-MoE shares with dense LLaDA."""
        fields, rest = super().get_config_dict(*args, **kwargs)
        if fields.get("model_type") == cls.published_model_type and has_experts(fields):
            fields["model_type"] = cls.model_type
        return fields, rest

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; `ValueError` for the fields of dense LLaDA, whose `model_type` is the same."""
        if config_dict.get("model_type") == cls.published_model_type and not has_experts(config_dict):
            raise ValueError(
                "`num_experts` must be at least 1 for LladaMoeConfig, got none: dense LLaDA is LladaConfig."
            )
        return super().from_dict(config_dict, **kwargs)

    def __post_init__(self, **kwargs: Any) -> None:
        if self.moe_layer_freq is not None:
            self.mlp_only_layers = [i for i, has_experts in enumerate(self.moe_layer_freq) if not has_experts]
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse by name what the original configuration can say and this implementation does not do."""
        super().validate_architecture()
        frequencies = self.moe_layer_freq
        if frequencies is not None and (len(frequencies) != self.num_hidden_layers or set(frequencies) - {0, 1}):
            raise ValueError(
                f"`moe_layer_freq` must be 0 or 1 for each of {self.num_hidden_layers} layers, got {frequencies}."
            )


__all__ = ["LladaMoeConfig"]
