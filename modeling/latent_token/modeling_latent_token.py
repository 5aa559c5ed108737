"""Latent-token models: a stock decoder of transformers, by composition, with its attention opened."""

import os
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.latent_token.backbone import adopt, find_mask_token, load_backbone, load_tokenizer
from hf_latent.modeling.latent_token.configuration_latent_token import LatentTokenConfig
from hf_latent.modeling.masked_diffusion import MaskedDiffusionHead, shift_states


class LatentTokenPreTrainedModel(PreTrainedModel):
    """What transformers asks of every model; the decoder answers the rest for its own part."""

    config_class = LatentTokenConfig
    config: LatentTokenConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True


class LatentTokenForMaskedDiffusion(MaskedDiffusionHead, DiffusionGenerationMixin, LatentTokenPreTrainedModel):
    """
    Any decoder-only model of transformers as a masked diffusion model: `model` is the decoder itself, every position
    of which sees all others, and `lm_head` its head.
    """

    _tp_plan = {"lm_head": "colwise_gather_output"}
    # Set by `from_backbone`: adapters then have to train the mask token's embedding.
    mask_token_is_new: bool = False

    def __init__(self, config: LatentTokenConfig) -> None:
        super().__init__(config)
        self.model = AutoModel.from_config(config.text_config)
        embeddings = self.model.get_input_embeddings()
        # Padding and end-of-text often share an id, whose row would start at zero and stay there.
        embeddings.padding_idx = None
        name = next(name for name, module in self.model.named_modules() if module is embeddings)
        self._tied_weights_keys = {"lm_head.weight": f"model.{name}.weight"}
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=config.head_bias)
        self.reads_previous_state = config.shift_logits
        self.prepare_head()
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        mask_token: str = "<|mask|>",
        mask_token_id: int | None = None,
        shift_logits: bool = True,
        pad_to_multiple_of: int | None = None,
        **kwargs: Any,
    ) -> "LatentTokenForMaskedDiffusion":
        r"""
        Turn an autoregressive model into a masked diffusion model that is still to be trained.

        Nothing of the weights changes but for the mask token: where the vocabulary has none it gets a row of its own,
        in embeddings and head, which starts as the mean of all others.

        Args:
            backbone (`str`, `os.PathLike` or `PreTrainedModel`):
                Decoder-only model of transformers, by repository or folder, or as an object, which is taken over.
            tokenizer (`PreTrainedTokenizerBase`, *optional*):
                Its tokenizer. Gets the mask token, in place, if it has none; save it with the model. Without it and
                without `mask_token_id` the tokenizer beside `backbone` is read, and you have to add the token.
            mask_token (`str`, *optional*, defaults to `"<|mask|>"`):
                What is added to a tokenizer that has no mask token.
            mask_token_id (`int`, *optional*):
                Instead of a tokenizer: an id of the vocabulary to use, or the next one to add.
            shift_logits (`bool`, *optional*, defaults to `True`):
                Keep the head's alignment, the state before a token predicting it; see [`LatentTokenConfig`].
            pad_to_multiple_of (`int`, *optional*):
                Of the number of embeddings, if they have to grow.
            kwargs:
                Of `AutoModelForCausalLM.from_pretrained`: `dtype`, `revision`, `attn_implementation`, `gguf_file`, ...

        Raises:
            ValueError: for a model that is no decoder-only model, whose head does what ours cannot, or whose
                attention stays causal; for an id outside the vocabulary.
        """
        if not isinstance(backbone, PreTrainedModel):
            source = os.fspath(backbone)
            if tokenizer is None and mask_token_id is None:
                tokenizer = load_tokenizer(source, kwargs)
            backbone = load_backbone(source, kwargs)
        mask = find_mask_token(tokenizer, mask_token, mask_token_id, backbone.config.get_text_config().vocab_size)
        attention = backbone.base_model.config._attn_implementation  # a new outer configuration resets it
        config = LatentTokenConfig(
            text_config=backbone.base_model.config, mask_token_id=mask.token_id, shift_logits=shift_logits
        )
        config._attn_implementation = attention
        with torch.device("meta"):
            model = cls(config)
        adopt(model, backbone, mask, pad_to_multiple_of)
        return model

    def get_input_embeddings(self) -> nn.Module:
        """The decoder's, whatever it calls them."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`."""
        self.model.set_input_embeddings(value)

    def align(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """The states one to the right with `shift_logits`, else as they are."""
        if not self.config.shift_logits:
            return hidden_states
        return shift_states(hidden_states, attention_mask, position_ids)

    def place(self, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Positions `[B, L]` that padding on the left does not move: absolute embeddings would notice."""
        if attention_mask is None or attention_mask.dim() != 2:
            return None
        return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)

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


__all__ = ["LatentTokenForMaskedDiffusion", "LatentTokenPreTrainedModel"]
