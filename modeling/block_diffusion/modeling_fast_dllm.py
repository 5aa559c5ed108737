"""Fast-dLLM v2 (arXiv 2509.26328) as the difference to transformers' Qwen2: block-causal masks, shifted logits."""

import torch
from torch import nn
from transformers import Qwen2Model, Qwen2PreTrainedModel

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.block_diffusion.configuration_fast_dllm import FastDllmConfig
from hf_latent.modeling.block_diffusion.modeling_block_causal import BlockCausalHead
from hf_latent.modeling.masked_diffusion import shift_states


class FastDllmModel(Qwen2Model):
    """Identical to `Qwen2Model` except that without a mask it sees everything; the head makes block-causal ones."""

    config: FastDllmConfig

    def __init__(self, config: FastDllmConfig) -> None:
        super().__init__(config)
        # Without `padding_idx`: where padding is end-of-text, too, its row would start at zero and stay there.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()


class FastDllmForMaskedDiffusion(BlockCausalHead, DiffusionGenerationMixin, Qwen2PreTrainedModel):
    """
    Fast-dLLM v2 with its head. It keeps the alignment of the autoregressive model it came from (the state at `i - 1`
    predicts token `i`); the shift is done here, so that position `i` of the logits predicts token `i`.
    """

    config: FastDllmConfig
    reads_previous_state = True
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: FastDllmConfig) -> None:
        super().__init__(config)
        self.model = FastDllmModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.prepare_head()
        self.post_init()

    def shift_hidden_states(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """The states one to the right."""
        return shift_states(hidden_states, attention_mask, position_ids)


__all__ = ["FastDllmForMaskedDiffusion", "FastDllmModel"]
