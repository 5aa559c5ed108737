"""Configuration of a latent-token model: the configuration of any decoder, and how its attention is opened."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_latent.modeling.travel import TravellingConfigMixin

ATTENTIONS = ("bidirectional", "block_causal", "semi_causal")
ORDERS = ("any", "left_to_right")
# Families that are masked diffusion models already: they load as they are.
DIFFUSION_FAMILIES = (
    *("llada", "llada_moe", "illada", "dream", "latent_token"),
    *("sdar", "sdar_moe", "fast_dllm_qwen", "llada2_moe"),
)


@strict
class LatentTokenConfig(TravellingConfigMixin, PreTrainedConfig):
    r"""
    Configuration of [`LatentTokenForMaskedDiffusion`] and, with `order="left_to_right"`, [`LatentTokenForCausalLM`].

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            Configuration of the decoder, of any decoder-only family of transformers; a dict names it by its
            `model_type`. Defaults to a Llama.
        mask_token_id (`int`, *optional*):
            Id of the token that marks a position still to be written. Needed to generate and to train.
        attention (`str`, *optional*, defaults to `"bidirectional"`):
            `"bidirectional"`: every position sees all others. Layers with a sliding window see theirs on both sides.
            `"block_causal"`: every position sees those of its own block of `block_size` positions, and of the blocks
            before it, whose keys and values never change (arXiv 2503.09573).
            `"semi_causal"`: a token sees those that were written before it, whose keys and values never change; a
            position that is predicted sees what is written and the other positions of its group (arXiv 2602.03769).
        block_size (`int`, *optional*):
            Positions of a block, counted from the first token of a row; block-causal attention needs it.
        order (`str`, *optional*, defaults to `"any"`):
            In which tokens are written, with semi-causal attention: `"any"` or `"left_to_right"`.
        num_latent_tokens (`int`, *optional*, defaults to 0):
            Positions that are predicted beside each one that is decoded, so that the model looks ahead; a default of
            `generate`, which takes any number. Semi-causal attention only.
        shift_logits (`bool`, *optional*, defaults to `False`):
            Whether the state of the position before predicts a token, as in the autoregressive model the weights come
            from (and as in Dream), rather than the token's own. The first token is predicted by its own state. Always
            so from left to right, never with semi-causal attention in any order.
        head_bias (`bool`, *optional*, defaults to `False`):
            Whether the head has a bias.

    Raises:
        ValueError: for values that are not among these, by name.
    """

    model_type = "latent_token"
    travels_with = ("hf_latent.modeling.latent_token.modeling_latent_token",)
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")}

    text_config: Any = None  # a mapping at first, a configuration from `__post_init__` on
    mask_token_id: int | None = None
    attention: str = "bidirectional"
    block_size: int | None = None
    order: str = "any"
    num_latent_tokens: int = 0
    shift_logits: bool = False
    head_bias: bool = False
    tie_word_embeddings: bool | None = None
    use_cache: bool | None = None  # that of an autoregressive model grows, and there alone has a use
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        # Also run by `@strict`, which hides the ValueError in an error type of its own.
        self.validate_architecture()
        for name in ("tie_word_embeddings", "bos_token_id", "eos_token_id", "pad_token_id"):
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.text_config, name, None))
        if self.use_cache is None:
            self.use_cache = self.is_left_to_right
        if self.architectures is None:  # transformers tells the two classes apart by it
            self.architectures = [self.auto_classes["AutoModel"]]
        # The base model's forward hands this to the mask *and* to the attention kernel.
        self.text_config.is_causal = self.is_left_to_right

    @property
    def is_semi_causal(self) -> bool:
        """Whether there is a clean stream and groups of queries."""
        return self.attention == "semi_causal"

    @property
    def is_left_to_right(self) -> bool:
        """Whether the model is autoregressive."""
        return self.is_semi_causal and self.order == "left_to_right"

    @property
    def auto_classes(self) -> dict[str, str]:  # type: ignore[override]
        """Auto class to model class."""
        name = "LatentTokenForCausalLM" if self.is_left_to_right else "LatentTokenForMaskedDiffusion"
        return {"AutoModel": name, "AutoModelForCausalLM": name}

    def validate_architecture(self) -> None:
        """Refuse by name what a latent-token model cannot be."""
        for name, values in (("attention", ATTENTIONS), ("order", ORDERS)):
            if getattr(self, name) not in values:
                raise ValueError(f"`{name}` must be one of {values}, got {getattr(self, name)!r}.")
        if self.num_latent_tokens < 0:
            raise ValueError(f"`num_latent_tokens` must be at least 0, got {self.num_latent_tokens}.")
        self._check_block_size()
        if not self.is_semi_causal:
            for name, default in (("order", "any"), ("num_latent_tokens", 0)):
                if getattr(self, name) != default:
                    raise ValueError(
                        f"`{name}` must be {default!r} with `attention`={self.attention!r}, where masked positions "
                        f"see one another, got {getattr(self, name)!r}."
                    )
        elif self.shift_logits != self.is_left_to_right:
            raise ValueError(
                f"`shift_logits` must be {self.is_left_to_right} with `attention`='semi_causal' and `order`="
                f"{self.order!r}, got {self.shift_logits}."
            )
        family = self.text_config.model_type
        if family.lower() in DIFFUSION_FAMILIES:
            raise ValueError(
                f"`text_config` must be of an autoregressive decoder, got {family!r}, which is a masked diffusion "
                "model already: load it with AutoModelForCausalLM."
            )
        if getattr(self.text_config, "output_router_logits", False):
            raise ValueError(
                "`output_router_logits` of `text_config` must be False, got True: the loss has no part that balances "
                "experts."
            )
        if self.text_config.is_encoder_decoder:
            raise ValueError(f"`text_config` must be of a decoder-only model, got the encoder-decoder {family!r}.")

    def _check_block_size(self) -> None:
        is_size = self.block_size is not None and self.block_size >= 1
        if self.attention == "block_causal" and not is_size:
            raise ValueError(
                f"`block_size` must be at least 1 with `attention`='block_causal', got {self.block_size}."
            )
        if self.attention != "block_causal" and self.block_size is not None:
            raise ValueError(
                f"`block_size` must be left out with `attention`={self.attention!r}, got {self.block_size}."
            )

    # Sizes of the decoder, where generation, trainers and tools look for them.

    @property
    def vocab_size(self) -> int:
        """Rows of the embeddings."""
        return self.text_config.vocab_size

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return self.text_config.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the decoder."""
        return self.text_config.num_hidden_layers

    @property
    def num_attention_heads(self) -> int:
        """Query heads of a layer."""
        return self.text_config.num_attention_heads

    @property
    def max_position_embeddings(self) -> int | None:
        """Longest row the decoder was made for, in tokens; None if it has no limit."""
        return getattr(self.text_config, "max_position_embeddings", None)


__all__ = ["LatentTokenConfig"]
