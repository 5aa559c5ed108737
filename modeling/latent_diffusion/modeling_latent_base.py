"""What autoencoder, denoiser and the whole model share: initialisation, construction, the cross-attention block."""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bart.modeling_bart import BartAttention

from hf_latent.modeling.complete_loading import CompleteLoadingMixin
from hf_latent.modeling.latent_diffusion.configuration_latent_diffusion import LatentDiffusionConfig


class LatentDiffusionPreTrainedModel(CompleteLoadingMixin, PreTrainedModel):
    """Base of the family. A checkpoint of the autoencoder alone loads into the whole model, and the other way."""

    config: LatentDiffusionConfig
    config_class = LatentDiffusionConfig
    base_model_prefix = "autoencoder"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = ["CrossAttentionBlock", "DenoiserLayer", "BartEncoderLayer", "BartDecoderLayer", "T5Block"]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        for name in getattr(module, "normal_parameters", ()):
            init.normal_(getattr(module, name), mean=0.0, std=self.config.initializer_range)
        if isinstance(module, ZeroLinear):
            init.zeros_(module.weight)
        if "latent_mean" in getattr(module, "_buffers", {}):
            init.zeros_(module.latent_mean)
            init.ones_(module.latent_std)

    @classmethod
    def from_encoder_decoder(
        cls, encoder_decoder: str | PreTrainedModel, *, model_kwargs: dict[str, Any] | None = None, **kwargs: Any
    ) -> "LatentDiffusionPreTrainedModel":
        """
        Build around a pretrained BART or T5; everything else is random.

        Args:
            encoder_decoder: name on the Hub, folder, or a loaded model with its language modeling head.
            model_kwargs: of `AutoModelForSeq2SeqLM.from_pretrained`, for a name or folder.
            kwargs: fields of [`LatentDiffusionConfig`].

        Raises:
            ValueError: for a name that is no field of the configuration, and from the configuration itself.
        """
        check_fields(kwargs)
        if isinstance(encoder_decoder, str):
            encoder_decoder = AutoModelForSeq2SeqLM.from_pretrained(encoder_decoder, **(model_kwargs or {}))
        config = LatentDiffusionConfig(text_config=encoder_decoder.config.to_dict(), **kwargs)
        model = cls(config).to(encoder_decoder.dtype)
        autoencoder = getattr(model, cls.base_model_prefix, model)
        autoencoder.language_model.load_state_dict(encoder_decoder.state_dict())
        autoencoder.language_model.generation_config = encoder_decoder.generation_config
        model.adopt_generation_config(encoder_decoder.generation_config)
        return model.eval()

    def adopt_generation_config(self, generation_config: Any) -> None:
        """Take over what a pretrained encoder-decoder says about decoding; without `generate`, nothing to do."""


def check_fields(names: Any) -> None:
    """Raise `ValueError` for the first of `names` that is no field of the configuration: it would be kept silently."""
    for name in names:
        if name not in LatentDiffusionConfig.__dataclass_fields__:
            raise ValueError(f"`{name}` is no field of LatentDiffusionConfig.")


class ZeroLinear(nn.Linear):
    """
    A linear layer that starts at zero. A class of its own: outside of its own models, transformers never hands a
    module without parameters of its own to `_init_weights`, so that the block around this layer could not zero it.
    """


class CrossAttentionBlock(GradientCheckpointingLayer):
    """Cross-attention, then an MLP, each on normalised inputs and added to the queries."""

    def __init__(self, config: LatentDiffusionConfig) -> None:
        super().__init__()
        width, dropout = config.text_config.hidden_size, config.autoencoder_dropout
        self.query_norm = nn.LayerNorm(width)
        self.attention = BartAttention(width, config.autoencoder_num_heads, dropout=dropout, config=config)
        self.mlp_norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.activation = ACT2FN["gelu"]
        self.fc2 = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: torch.Tensor, states: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Queries `[B, Q, D]` after reading `states` `[B, K, D]`, under a mask prepared by `masking_utils`."""
        read, _ = self.attention(self.query_norm(queries), key_value_states=states, attention_mask=attention_mask)
        queries = queries + self.dropout(read)
        return queries + self.dropout(self.fc2(self.activation(self.fc1(self.mlp_norm(queries)))))


__all__ = ["CrossAttentionBlock", "LatentDiffusionPreTrainedModel", "ZeroLinear", "check_fields"]
