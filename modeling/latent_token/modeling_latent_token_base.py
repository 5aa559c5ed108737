"""What both latent-token models are: a stock decoder of transformers, by composition, and its head."""

import os
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.generation.arguments.cache_argument import cache_name
from hf_latent.generation.model_calls.semi_causal_masks import SemiCausalMasks
from hf_latent.modeling.latent_token.backbone import (
    find_mask_token,
    forget_gguf_quantization,
    load_backbone,
    load_tokenizer,
    refuse_taken_backbone,
    take_over_backbone,
)
from hf_latent.modeling.latent_token.configuration_latent_token import LatentTokenConfig


class LatentTokenPreTrainedModel(PreTrainedModel):
    """
    What transformers asks of every model; the decoder answers the rest for its own part.

    A head class calls `build` in its `__init__`, before `post_init`.
    """

    config_class = LatentTokenConfig
    config: LatentTokenConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values", "cache"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _tp_plan = {"lm_head": "colwise_gather_output"}
    # Set by `from_backbone`: adapters then have to train the mask token's embedding.
    mask_token_is_new: bool = False
    # The same: what was converted lies nowhere, so that an adapter of it would not find its base.
    is_converted: bool = False

    def build(self, config: LatentTokenConfig) -> None:
        """Make the decoder, `model`, and `lm_head`."""
        expected = config.auto_classes["AutoModel"]
        if expected not in {base.__name__ for base in type(self).__mro__}:
            raise ValueError(
                f"`attention`={config.attention!r} and `order`={config.order!r} make a {expected}, got "
                f"{type(self).__name__}."
            )
        self.model = AutoModel.from_config(config.text_config)
        self.cache_name = cache_name(type(self.model))
        embeddings = self.model.get_input_embeddings()
        # Padding and end-of-text often share an id, whose row would start at zero and stay there.
        embeddings.padding_idx = None
        name = next(name for name, module in self.model.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)

    @classmethod
    def _from_backbone(
        cls,
        backbone: str | os.PathLike | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None,
        mask_token: str,
        mask_token_id: int | None,
        pad_to_multiple_of: int | None,
        fields: dict[str, Any],
        kwargs: dict[str, Any],
    ) -> Any:
        """`from_backbone` with the `fields` of the configuration."""
        if not isinstance(backbone, PreTrainedModel):
            source = os.fspath(backbone)
            if tokenizer is None and mask_token_id is None:
                tokenizer = load_tokenizer(source, kwargs)
            backbone = load_backbone(source, kwargs)
        refuse_taken_backbone(backbone, cls)
        backbone = forget_gguf_quantization(backbone)
        mask = find_mask_token(tokenizer, mask_token, mask_token_id, backbone.config.get_text_config().vocab_size)
        attention = backbone.base_model.config._attn_implementation  # a new outer configuration resets it
        config = LatentTokenConfig(text_config=backbone.base_model.config, mask_token_id=mask.token_id, **fields)
        config._attn_implementation = attention
        with torch.device("meta"):
            model = cls(config)
        take_over_backbone(model, backbone, mask, pad_to_multiple_of)
        model.is_converted = True
        return model

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's, whatever it calls them."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`."""
        self.model.set_input_embeddings(value)

    def semi_causal_masks(self) -> SemiCausalMasks:
        """What makes masks for the decoder; read anew, as the attention implementation may be set at any time."""
        return SemiCausalMasks(self.model.config, type(self.model))

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Logits of hidden states `[..., D]`, scaled and capped as the decoder's family does."""
        logits = self.lm_head(hidden_states)
        text = self.config.text_config
        if (scale := getattr(text, "logit_scale", None)) is not None:  # Cohere
            logits = logits * scale
        if (scaling := getattr(text, "logits_scaling", None)) is not None:  # Granite
            logits = logits / scaling
        if (cap := getattr(text, "final_logit_softcapping", None)) is not None:  # Gemma
            logits = torch.tanh(logits / cap) * cap
        return logits


__all__ = ["LatentTokenPreTrainedModel"]
