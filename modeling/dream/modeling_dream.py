"""Dream (arXiv 2508.15487) as the difference to transformers' Qwen2: a bidirectional mask and shifted logits."""

import torch
from torch import nn
from transformers import Qwen2Model, Qwen2PreTrainedModel

from hf_latent.generation.configuration_generation import DreamGenerationConfig
from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.dream.configuration_dream import DreamConfig
from hf_latent.modeling.masked_diffusion import MaskedDiffusionHead, shift_states


class DreamModel(Qwen2Model):
    """Identical to `Qwen2Model` except that the configuration makes attention bidirectional."""

    config: DreamConfig

    def __init__(self, config: DreamConfig) -> None:
        super().__init__(config)
        # Without `padding_idx`: padding and end-of-text share an id, whose row would start at zero and stay there.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()


class DreamForMaskedDiffusion(MaskedDiffusionHead, DiffusionGenerationMixin, Qwen2PreTrainedModel):
    """
    Dream with its head. Dream keeps the alignment of the autoregressive model it came from (the state at `i - 1`
    predicts token `i`); the shift is done here, so that position `i` of the logits predicts token `i`.
    """

    config: DreamConfig
    generation_config_class = DreamGenerationConfig
    reads_previous_state = True
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: DreamConfig) -> None:
        super().__init__(config)
        self.model = DreamModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.prepare_head()
        self.post_init()

    def shift_hidden_states(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, position_ids: torch.Tensor | None
    ) -> torch.Tensor:
        """The states one to the right."""
        return shift_states(hidden_states, attention_mask, position_ids)


__all__ = ["DreamForMaskedDiffusion", "DreamModel"]
