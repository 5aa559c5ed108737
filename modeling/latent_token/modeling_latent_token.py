"""Latent-token models that write in any order: masked diffusion, bidirectional, block-causal or semi-causal."""

import os
from typing import Any, Unpack

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.modeling_outputs import MaskedLMOutput
from transformers.utils.generic import TransformersKwargs

from hf_latent.generation.arguments.inputs import find_cache
from hf_latent.generation.mixin import DiffusionGenerationMixin
from hf_latent.generation.model_calls.semi_causal_masks import canvas_visibility, stream_order
from hf_latent.modeling.block_diffusion.modeling_block_causal import BlockCausalHead
from hf_latent.modeling.latent_token.configuration_latent_token import LatentTokenConfig
from hf_latent.modeling.latent_token.modeling_latent_token_base import LatentTokenPreTrainedModel
from hf_latent.modeling.latent_token.modeling_latent_token_causal import LatentTokenForCausalLM
from hf_latent.modeling.masked_diffusion import is_prepared_mask, position_ids_from_mask


class LatentTokenForMaskedDiffusion(BlockCausalHead, DiffusionGenerationMixin, LatentTokenPreTrainedModel):
    """
    Any decoder-only model of transformers as a masked diffusion model: `model` is the decoder itself and `lm_head` its
    head.

    With `attention="bidirectional"` every position sees all others, with `"block_causal"` those of its own block and
    of the blocks before it. With `"semi_causal"` a token sees the tokens that were written before it, and a masked
    position those and the masked positions of its group.
    """

    project = LatentTokenPreTrainedModel.project  # not that of the head, which comes first

    def __init__(self, config: LatentTokenConfig) -> None:
        super().__init__(config)
        self.build(config)
        self.reads_previous_state = config.shift_logits
        self.prepare_head()
        self.post_init()

    @property
    def is_block_causal(self) -> bool:  # type: ignore[override]
        """Whether positions see the blocks up to their own."""
        return self.config.attention == "block_causal"

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        attention: str = "bidirectional",
        block_size: int | None = None,
        num_latent_tokens: int = 0,
        mask_token: str = "<|mask|>",
        mask_token_id: int | None = None,
        shift_logits: bool | None = None,
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
            attention (`str`, *optional*, defaults to `"bidirectional"`):
                Or `"block_causal"` or `"semi_causal"`; see [`LatentTokenConfig`].
            block_size (`int`, *optional*):
                Positions of a block, for block-causal attention, which needs it.
            num_latent_tokens (`int`, *optional*, defaults to 0):
                Default of `generate`, for semi-causal attention.
            mask_token (`str`, *optional*, defaults to `"<|mask|>"`):
                What is added to a tokenizer that has no mask token.
            mask_token_id (`int`, *optional*):
                Instead of a tokenizer: an id of the vocabulary to use, or the next one to add.
            shift_logits (`bool`, *optional*):
                Keep the head's alignment, the state before a token predicting it; see [`LatentTokenConfig`]. Defaults
                to `True` for bidirectional and block-causal attention; not possible for semi-causal attention.
            pad_to_multiple_of (`int`, *optional*):
                Of the number of embeddings, if they have to grow.
            kwargs:
                Of `AutoModelForCausalLM.from_pretrained`: `dtype`, `revision`, `attn_implementation`, `gguf_file`, ...

        Raises:
            ValueError: for a model that is no decoder-only model, whose head does what ours cannot, or whose
                attention stays causal; for an id outside the vocabulary.
        """
        if shift_logits is None:
            shift_logits = attention != "semi_causal"
        fields = {"attention": attention, "block_size": block_size, "shift_logits": shift_logits}
        fields["num_latent_tokens"] = num_latent_tokens
        return cls._from_backbone(backbone, tokenizer, mask_token, mask_token_id, pad_to_multiple_of, fields, kwargs)

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        logits_to_keep: int | torch.Tensor | tuple[torch.Tensor, torch.Tensor] = 0,
        targets: torch.LongTensor | None = None,
        clean_ids: torch.LongTensor | None = None,
        block_size: int | torch.LongTensor | None = None,
        reveal_order: torch.Tensor | None = None,
        query_group: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        r"""
        See [`BlockCausalHead.forward`], which says what `clean_ids` and `block_size` are with block-causal attention.
        For semi-causal attention, where masked positions are queries:

        Args:
            reveal_order (`torch.Tensor` of shape `(B, L)`, *optional*):
                Numbers by which the tokens are sorted into the order they were written in; equal ones by column. Left
                to right if not given. Masked positions and padding are not looked at.
            query_group (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Number of the group, 0 or more, of each position to predict; -1 elsewhere. Not given, the positions
                that hold the mask token are one group: they are predicted jointly.
        """
        if self.config.is_semi_causal and not is_prepared_mask(attention_mask):
            if find_cache(kwargs) is not None:
                raise ValueError(
                    "`past_key_values` needs an `attention_mask` that says who sees whom with `attention`="
                    "'semi_causal': a prefix in a cache (peft's prefix tuning) is not supported."
                )
            position_ids, attention_mask = self._prepare_semi_causal(
                input_ids, attention_mask, position_ids, inputs_embeds, reveal_order, query_group
            )
        elif reveal_order is not None or query_group is not None:
            raise ValueError(
                "`reveal_order` and `query_group` are for `attention`='semi_causal' and an `attention_mask` of "
                "(B, L), got either."
            )
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            logits_to_keep=logits_to_keep,
            targets=targets,
            clean_ids=clean_ids,
            block_size=block_size,
            **kwargs,
        )

    def _prepare_semi_causal(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        reveal_order: torch.Tensor | None,
        query_group: torch.Tensor | None,
    ) -> tuple[torch.Tensor, Any]:
        """Positions `[B, L]` and the prepared mask of a forward of everything."""
        given = input_ids if input_ids is not None else inputs_embeds
        assert given is not None
        shape, device = given.shape[:2], given.device
        if query_group is None:
            if input_ids is None:
                raise ValueError("`inputs_embeds` needs `query_group`, which says what is to be predicted, got None.")
            query_group = torch.where(input_ids == self.config.mask_token_id, 0, -1)
        columns = torch.arange(shape[1], device=device)
        if position_ids is None:
            position_ids = position_ids_from_mask(attention_mask)
        position_ids = columns.expand(shape) if position_ids is None else position_ids.expand(shape)
        exists = torch.ones(shape, dtype=torch.bool, device=device)
        if attention_mask is not None:
            exists = attention_mask.bool()
        queried = exists & (query_group >= 0)
        clean = exists & ~queried
        seen = canvas_visibility(clean, queried, stream_order(clean, reveal_order), query_group, position_ids)
        return position_ids, self.semi_causal_masks()(seen, seen, columns[None], self.dtype)

    def default_position_ids(self, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Positions `[B, L]` that padding on the left does not move: absolute embeddings would notice."""
        return position_ids_from_mask(attention_mask)


# Exported from here, too: a checkpoint names one file for both classes.
__all__ = ["LatentTokenForCausalLM", "LatentTokenForMaskedDiffusion", "LatentTokenPreTrainedModel"]
