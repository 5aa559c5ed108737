"""iLLaDA (arXiv 2606.25331) as the difference to transformers' Llama: a bidirectional mask."""

from torch import nn
from transformers import LlamaModel, LlamaPreTrainedModel

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.llada.configuration_illada import IlladaConfig
from hf_latent.modeling.masked_diffusion import MaskedDiffusionHead


class IlladaModel(LlamaModel):
    """Identical to `LlamaModel` except that the configuration makes attention bidirectional."""

    config: IlladaConfig

    def __init__(self, config: IlladaConfig) -> None:
        super().__init__(config)
        # Without `padding_idx`: padding and end-of-text share an id, whose row would start at zero and stay there.
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.post_init()


class IlladaForMaskedDiffusion(MaskedDiffusionHead, DiffusionGenerationMixin, LlamaPreTrainedModel):
    """iLLaDA with its head. Position `i` of the logits predicts token `i`: nothing is shifted."""

    config: IlladaConfig
    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": "colwise_gather_output"}

    def __init__(self, config: IlladaConfig) -> None:
        super().__init__(config)
        self.model = IlladaModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.prepare_head()
        self.post_init()


__all__ = ["IlladaForMaskedDiffusion", "IlladaModel"]
