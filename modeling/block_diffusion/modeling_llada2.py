"""
LLaDA2 (arXiv 2512.15745, 2602.08676) as the difference to transformers' GLM-4-MoE: block-causal masks, other names of
weights, and one matrix for queries, keys and values.
"""

from transformers import Glm4MoeModel, Glm4MoePreTrainedModel
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)
from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.modeling.block_diffusion.configuration_llada2 import Llada2Config
from hf_latent.modeling.block_diffusion.modeling_block_causal import BlockCausalHead
from hf_latent.modeling.published_model import PublishedDecoderMixin, PublishedHeadMixin
from hf_latent.modeling.stock_experts import StockExpertsMixin

# Reversible: saving writes the original names back. `overwrite` because a checkpoint folder that carries this file
# registers the same mapping again; versions share it, so entries are only ever added.
register_checkpoint_conversion_mapping(
    "llada2_moe",
    [
        WeightRenaming(r"word_embeddings", "embed_tokens"),
        WeightRenaming(r"attention\.dense", "self_attn.o_proj"),
        WeightRenaming(r"attention\.query_layernorm", "self_attn.q_norm"),
        WeightRenaming(r"attention\.key_layernorm", "self_attn.k_norm"),
        WeightRenaming(r"mlp\.gate\.expert_bias", "mlp.gate.e_score_correction_bias"),
        WeightConverter(
            "attention.query_key_value",
            ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            operations=[Split(dim=0)],
        ),
        *get_checkpoint_conversion_mapping("glm4_moe"),  # experts are stored one by one
    ],
    overwrite=True,
)


class Llada2Model(PublishedDecoderMixin, StockExpertsMixin, Glm4MoeModel):
    """Identical to `Glm4MoeModel` except that without a mask it sees everything; the head makes block-causal ones."""

    config: Llada2Config
    _keys_to_ignore_on_load_unexpected: list[str] = []  # not layers 46 and 92, which GLM's checkpoints have on top


class Llada2ForMaskedDiffusion(
    PublishedHeadMixin, BlockCausalHead, DiffusionGenerationMixin, StockExpertsMixin, Glm4MoePreTrainedModel
):
    """LLaDA2 with its head. Position `i` of the logits predicts token `i`: nothing is shifted."""

    config: Llada2Config
    decoder_class = Llada2Model
    _keys_to_ignore_on_load_unexpected: list[str] = []


__all__ = ["Llada2ForMaskedDiffusion", "Llada2Model"]
