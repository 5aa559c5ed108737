"""SDAR (arXiv 2510.06303) as the difference to transformers' Qwen3: block-causal masks, and no shift of logits."""

from torch import nn
from transformers import Qwen3Model, Qwen3PreTrainedModel

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.block_diffusion.configuration_sdar import SdarConfig
from hf_latent.modeling.block_diffusion.modeling_block_causal import BlockCausalHead


class SdarModel(Qwen3Model):
    """Identical to `Qwen3Model` except that without a mask it sees everything; the head makes block-causal ones."""

    config: SdarConfig

    def __init__(self, config: SdarConfig) -> None:
        super().__init__(config)
        # Without `padding_idx`: where padding is end-of-text, too, its row would start at zero and stay there.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()


class SdarForMaskedDiffusion(BlockCausalHead, DiffusionGenerationMixin, Qwen3PreTrainedModel):
    """SDAR with its head. Position `i` of the logits predicts token `i`: nothing is shifted."""

    config: SdarConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: SdarConfig) -> None:
        super().__init__(config)
        self.model = SdarModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.prepare_head()
        self.post_init()


__all__ = ["SdarForMaskedDiffusion", "SdarModel"]
