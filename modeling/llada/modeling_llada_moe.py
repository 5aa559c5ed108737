"""LLaDA-MoE (arXiv 2509.24389) as the difference to transformers' Qwen3-MoE: a bidirectional mask."""

from torch import nn
from transformers import Qwen3MoeModel, Qwen3MoePreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.llada.configuration_llada_moe import LladaMoeConfig
from hf_latent.modeling.masked_diffusion import MaskedDiffusionHead
from hf_latent.modeling.stock_experts import StockExpertsMixin

# Experts are stored one by one. `overwrite` because a checkpoint folder that carries this file registers it again.
register_checkpoint_conversion_mapping("llada_moe", get_checkpoint_conversion_mapping("qwen3_moe"), overwrite=True)


class LladaMoeModel(StockExpertsMixin, Qwen3MoeModel):
    """Identical to `Qwen3MoeModel` except that the configuration makes attention bidirectional."""

    config: LladaMoeConfig

    def __init__(self, config: LladaMoeConfig) -> None:
        super().__init__(config)
        # Without `padding_idx`: padding and end-of-text share an id, whose row would start at zero and stay there.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()


class LladaMoeForMaskedDiffusion(
    MaskedDiffusionHead, DiffusionGenerationMixin, StockExpertsMixin, Qwen3MoePreTrainedModel
):
    """LLaDA-MoE with its head. Position `i` of the logits predicts token `i`: nothing is shifted."""

    config: LladaMoeConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: LladaMoeConfig) -> None:
        super().__init__(config)
        self.model = LladaMoeModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.prepare_head()
        self.post_init()


__all__ = ["LladaMoeForMaskedDiffusion", "LladaMoeModel"]
