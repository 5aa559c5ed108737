"""SDAR's mixtures of experts (arXiv 2510.06303) as the difference to transformers' Qwen3-MoE: block-causal masks."""

from torch import nn
from transformers import Qwen3MoeModel, Qwen3MoePreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.block_diffusion.configuration_sdar_moe import SdarMoeConfig
from hf_latent.modeling.block_diffusion.modeling_block_causal import BlockCausalHead
from hf_latent.modeling.stock_experts import StockExpertsMixin

# Experts are stored one by one. `overwrite` because a checkpoint folder that carries this file registers it again.
register_checkpoint_conversion_mapping("sdar_moe", get_checkpoint_conversion_mapping("qwen3_moe"), overwrite=True)


class SdarMoeModel(StockExpertsMixin, Qwen3MoeModel):
    """Identical to `Qwen3MoeModel` except that without a mask it sees everything; the head makes block-causal ones."""

    config: SdarMoeConfig

    def __init__(self, config: SdarMoeConfig) -> None:
        super().__init__(config)
        # Without `padding_idx`: where padding is end-of-text, too, its row would start at zero and stay there.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()


class SdarMoeForMaskedDiffusion(BlockCausalHead, DiffusionGenerationMixin, StockExpertsMixin, Qwen3MoePreTrainedModel):
    """SDAR-MoE with its head. Position `i` of the logits predicts token `i`: nothing is shifted."""

    config: SdarMoeConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: SdarMoeConfig) -> None:
        super().__init__(config)
        self.model = SdarMoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.prepare_head()
        self.post_init()


__all__ = ["SdarMoeForMaskedDiffusion", "SdarMoeModel"]
