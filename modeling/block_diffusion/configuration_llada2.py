"""Configuration of LLaDA2 (arXiv 2512.15745, 2602.08676): its own field names on transformers' GLM-4-MoE."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import Glm4MoeConfig

from hf_latent.modeling.published_config import PublishedConfigMixin


@strict
class Llada2Config(PublishedConfigMixin, Glm4MoeConfig):
    r"""
    Configuration of [`Llada2ForMaskedDiffusion`], of LLaDA2.0 and 2.1. Reads and writes the field names of the
    published checkpoints (`num_experts`, `use_qkv_bias`, ...); in Python both those and transformers' names work.
    With the fields of [`PublishedFields`]: `mask_token_id` is 156895 where the configuration has none, as the
    published one, and the vocabulary that many.

    Args:
        block_size (`int`, *optional*, defaults to 32):
            Positions of a block. Not a field of the published configuration.
    """

    model_type = "llada2_moe"
    travels_with = ("hf_latent.modeling.block_diffusion.modeling_llada2",)
    published_names = {
        "num_experts": "n_routed_experts",
        "num_shared_experts": "n_shared_experts",
        "use_qkv_bias": "attention_bias",
    }
    attribute_map = {
        "num_local_experts": "n_routed_experts",
        "num_mtp_layers": "num_nextn_predict_layers",
        **published_names,
    }
    # The published code does not read all of these; where it does not, the one value is what it does.
    supported_values = {
        "embedding_dropout": (0.0, None),
        "output_dropout": (0.0, None),
        "moe_router_enable_expert_bias": (True,),
        "norm_head": (False,),
        "norm_softmax": (False,),
        "norm_topk_prob": (True,),
        "output_router_logits": (False,),
        "router_dtype": ("fp32",),
        "score_function": ("sigmoid",),
        "use_bias": (False,),
        "use_rmsnorm": (True,),
        "use_sliding_window": (False,),
        "using_split_qkv_in_self_attention": (False,),
        "num_mtp_layers": (0,),
    }
    not_published = ("num_nextn_predict_layers", "num_mtp_layers")
    published_mask_token_id = 156895
    rotates_partly = True

    block_size: int = 32
    head_dim: int | None = None
    use_qk_norm: bool = True
    num_mtp_layers: int = 0
    rotary_dim: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)

    def validate_architecture(self) -> None:
        """Refuse by name what the original configuration can say and this implementation does not do."""
        super().validate_architecture()
        if self.n_shared_experts < 1:
            raise ValueError(f"`num_shared_experts` must be at least 1, got {self.n_shared_experts}.")
        if self.num_experts_per_tok < 2:  # the published code does not normalise the weight of one
            raise ValueError(f"`num_experts_per_tok` must be at least 2, got {self.num_experts_per_tok}.")
        if self.n_routed_experts % self.n_group or self.n_routed_experts // self.n_group < 2:
            raise ValueError(
                f"`n_group` must divide `num_experts` ({self.n_routed_experts}) into groups of at least 2, got "
                f"{self.n_group}."
            )
        rotated = int(self.head_dim * self.rope_parameters.get("partial_rotary_factor", 1.0))
        if self.rotary_dim not in (None, rotated):
            raise ValueError(
                f"`rotary_dim` must be `head_dim` times `partial_rotary_factor` ({rotated}), got {self.rotary_dim}."
            )


__all__ = ["Llada2Config"]
