"""Configuration of LLaDA (arXiv 2502.09992): LLaDA's own field names on transformers' Llama configuration."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, LlamaConfig
from transformers.activations import ACT2FN

from hf_latent.modeling.llada.expert_fields import EXPERT_FIELDS, has_experts
from hf_latent.modeling.published_config import PublishedFields, refuse_partial_rotation, refuse_values
from hf_latent.modeling.travel import TravellingConfigMixin

# What the original configuration can say and a Llama block cannot do: the one value we honour, the rest is refused.
SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "block_group_size": (1,),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "attention_layer_norm": (False,),
    "input_emb_norm": (False,),
    "rope": (True,),
    "alibi": (False,),
    "residual_dropout": (0.0, None),
    "embedding_dropout": (0.0, None),
    "clip_qkv": (None,),
    "is_causal": (False,),
}
SIZES = ("d_model", "n_heads", "n_layers", "n_kv_heads", "mlp_hidden_size", "vocab_size", "max_sequence_length")


@strict
class LladaConfig(PublishedFields, TravellingConfigMixin, LlamaConfig):
    r"""
    Configuration of [`LladaForMaskedDiffusion`]. Reads and writes the field names of the published LLaDA
    checkpoints (`d_model`, `n_heads`, ...); in Python both those and transformers' names work.
    With the fields of [`PublishedFields`].

    Args:
        include_bias (`bool`, *optional*, defaults to `False`):
            Biases on every linear layer, the head included (unless tied).
        include_qkv_bias (`bool`, *optional*, defaults to `False`):
            Biases on the query, key and value projections.
        bias_for_layer_norm (`bool`, *optional*, defaults to `False`):
            Biases on the norms; `None` follows `include_bias`.
        scale_logits (`bool`, *optional*, defaults to `False`):
            Divide the logits by `sqrt(hidden_size)`.
        multi_query_attention (`bool`, *optional*):
            `True` means one key/value head, `False` as many as query heads, `None` as `num_key_value_heads` says.
    """

    model_type = "llada"
    travels_with = ("hf_latent.modeling.llada.modeling_llada",)
    auto_classes = {
        "AutoModel": "LladaForMaskedDiffusion",
        "AutoModelForCausalLM": "LladaForMaskedDiffusion",
    }
    attribute_map = {
        "d_model": "hidden_size",
        "n_heads": "num_attention_heads",
        "n_layers": "num_hidden_layers",
        "n_kv_heads": "num_key_value_heads",
        "mlp_hidden_size": "intermediate_size",
        "max_sequence_length": "max_position_embeddings",
        "activation_type": "hidden_act",
        "weight_tying": "tie_word_embeddings",
        "init_std": "initializer_range",
        "embedding_size": "vocab_size",
    }

    vocab_size: int = 126464
    hidden_size: int = 4096
    intermediate_size: int | None = None
    mlp_ratio: int | float = 4
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    hidden_act: str = "silu"
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    use_cache: bool = False
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    default_theta = 500000.0

    include_bias: bool = False
    include_qkv_bias: bool = False
    bias_for_layer_norm: bool | None = False
    scale_logits: bool = False
    multi_query_attention: bool | None = None

    block_type: str = "llama"
    block_group_size: int = 1
    layer_norm_type: str = "rms"
    layer_norm_with_affine: bool = True
    attention_layer_norm: bool = False
    attention_layer_norm_with_affine: bool = True
    input_emb_norm: bool = False
    rope: bool = True
    alibi: bool = False
    residual_dropout: float | int | None = 0.0
    embedding_dropout: float | int | None = 0.0

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in transformers; the fields of LLaDA-MoE, whose `model_type` is the same, make its configuration."""
        if has_experts(config_dict) and "llada_moe" in CONFIG_MAPPING:
            return CONFIG_MAPPING["llada_moe"].from_dict(config_dict, **kwargs)
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; `ValueError` for a checkpoint of LLaDA-MoE, which `AutoConfig` reads."""
        config = super().from_pretrained(*args, **kwargs)
        found = config[0] if isinstance(config, tuple) else config
        if not isinstance(found, LladaConfig):
            raise ValueError(_experts_refusal(found.to_diff_dict()))
        return config

    def __post_init__(self, **kwargs: Any) -> None:
        if has_experts(kwargs):
            raise ValueError(_experts_refusal(kwargs))
        for hub_name, name in self.attribute_map.items():
            value = kwargs.pop(hub_name, None)
            if hub_name == "embedding_size" and value is not None and value < self.vocab_size:
                raise ValueError(f"`embedding_size` must be at least `vocab_size` ({self.vocab_size}), got {value}.")
            if value is not None:
                setattr(self, name, value)
        if self.intermediate_size is None:
            self.intermediate_size = int(self.mlp_ratio * self.hidden_size)
        self._resolve_key_value_heads()
        self._check_sizes()
        for name in ("attention_bias", "mlp_bias"):  # Llama's; one switch for all in LLaDA
            if getattr(self, name) and not self.include_bias:
                raise ValueError(
                    f"`{name}`=True is not supported without `include_bias`, which is all biases at once."
                )
        self.attention_bias = self.mlp_bias = self.include_bias
        super().__post_init__(**kwargs)
        # Also run by `@strict`, which hides the ValueError in an error type of its own.
        self.validate_architecture()

    def _resolve_key_value_heads(self) -> None:
        implied = {True: 1, False: self.num_attention_heads, None: None}[self.multi_query_attention]
        if self.num_key_value_heads is None:
            self.num_key_value_heads = implied or self.num_attention_heads
        elif implied is not None and self.num_key_value_heads != implied:
            raise ValueError(
                f"`multi_query_attention`={self.multi_query_attention} means {implied} key/value heads, "
                f"but `n_kv_heads` is {self.num_key_value_heads}."
            )

    def _check_sizes(self) -> None:
        """Before the base class divides by them and speaks of them under other names."""
        for name in SIZES:
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        for whole, part in {"d_model": "n_heads", "n_heads": "n_kv_heads"}.items():
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"`{whole}` ({getattr(self, whole)}) must be a multiple of `{part}` ({getattr(self, part)})."
                )

    @property
    def norm_bias(self) -> bool:
        """Whether norms carry a bias: `bias_for_layer_norm`, or `include_bias` where that is None."""
        return self.include_bias if self.bias_for_layer_norm is None else self.bias_for_layer_norm

    def validate_architecture(self) -> None:
        """Refuse by name what the original configuration can say and this implementation does not do."""
        self._check_sizes()
        super().validate_architecture()
        refuse_partial_rotation(self)
        refuse_values(self, SUPPORTED_VALUES, "LLaDA checkpoints")
        if self.hidden_act not in ACT2FN:
            raise ValueError(
                f"`activation_type`={self.hidden_act!r} is not supported for LLaDA checkpoints; allowed: the names "
                f"of transformers' ACT2FN, e.g. 'silu', 'gelu', 'relu'."
            )

    def to_diff_dict(self) -> dict[str, Any]:
        """What is written to `config.json`: the original field names, so that the original code reads it too."""
        config = super().to_diff_dict()
        for hub_name, name in self.attribute_map.items():
            if hub_name != "embedding_size":
                config.pop(name, None)
            config[hub_name] = getattr(self, name)
        rope_parameters = config.pop("rope_parameters", None) or {}
        config["rope_theta"] = rope_parameters.get("rope_theta", self.default_theta)
        if rope_parameters.get("rope_type", "default") != "default":
            config["rope_parameters"] = rope_parameters
        # Derived, or Llama's own spelling of what is written above.
        for name in ("attention_bias", "mlp_bias", "pretraining_tp", "is_causal"):
            config.pop(name, None)
        if self.head_dim == self.hidden_size // self.num_attention_heads:
            config.pop("head_dim", None)
        return config


def _experts_refusal(fields: Mapping[str, Any]) -> str:
    given = ", ".join(f"`{name}`={fields[name]}" for name in EXPERT_FIELDS if fields.get(name))
    return (
        f"{given} is not supported by LladaConfig, which is dense: a checkpoint with experts is LLaDA-MoE. Load it "
        "with AutoConfig and AutoModelForCausalLM, or LladaMoeConfig and LladaMoeForMaskedDiffusion."
    )


__all__ = ["LladaConfig"]
