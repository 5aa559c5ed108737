"""LLaDA (arXiv 2502.09992) as the difference to transformers' Llama: a bidirectional mask and other key names."""

import torch
from torch import nn
from transformers import LlamaModel, LlamaPreTrainedModel
from transformers import initialization as init
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.llada.configuration_llada import LladaConfig
from hf_latent.modeling.masked_diffusion import MaskedDiffusionHead
from hf_latent.modeling.published_model import PublishedDecoderMixin, PublishedHeadMixin

BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}

# Reversible: saving writes the original names back. `overwrite` because a checkpoint folder that carries this file
# registers the same mapping again; versions share it, so entries are only ever added.
register_checkpoint_conversion_mapping(
    "llada",
    [
        WeightRenaming(r"^model\.transformer\.ff_out", "lm_head"),
        WeightRenaming(r"transformer\.wte", "embed_tokens"),
        # The lookbehind counts when saving: without it `attn_norm` would become `attn_transformer.ln_f`.
        WeightRenaming(r"transformer\.ln_f", r"(?<!\w)norm"),
        *(
            WeightRenaming(rf"transformer\.blocks\.(\d+)\.{theirs}", rf"layers.\1.{ours}")
            for theirs, ours in BLOCK_NAMES.items()
        ),
    ],
    overwrite=True,
)


class LladaRMSNorm(LlamaRMSNorm):
    """Identical to Llama's, with a bias after the scale (`bias_for_layer_norm`)."""

    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__(hidden_size, eps)
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states) + self.bias


class LladaModel(PublishedDecoderMixin, LlamaModel):
    """Identical to `LlamaModel` except that the configuration makes attention bidirectional and may add biases."""

    config: LladaConfig

    def __init__(self, config: LladaConfig) -> None:
        super().__init__(config)
        if config.include_qkv_bias and not config.include_bias:
            for layer in self.layers:
                for projection in (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj):
                    projection.bias = nn.Parameter(torch.zeros(projection.out_features))
        if config.norm_bias:
            for layer in self.layers:
                layer.input_layernorm = LladaRMSNorm(config.hidden_size, config.rms_norm_eps)
                layer.post_attention_layernorm = LladaRMSNorm(config.hidden_size, config.rms_norm_eps)
            self.norm = LladaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LladaRMSNorm):
            init.zeros_(module.bias)


class LladaForMaskedDiffusion(PublishedHeadMixin, MaskedDiffusionHead, DiffusionGenerationMixin, LlamaPreTrainedModel):
    """LLaDA with its head. Position `i` of the logits predicts token `i`: nothing is shifted."""

    config: LladaConfig
    decoder_class = LladaModel

    @staticmethod
    def has_head_bias(config: LladaConfig) -> bool:
        """With `include_bias`, unless the head is tied."""
        return config.include_bias and not config.tie_word_embeddings

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Logits of hidden states `[..., hidden_size]`, scaled where `scale_logits` says so."""
        logits = self.lm_head(hidden_states)
        return logits * self.config.hidden_size**-0.5 if self.config.scale_logits else logits


__all__ = ["LladaForMaskedDiffusion", "LladaModel"]
