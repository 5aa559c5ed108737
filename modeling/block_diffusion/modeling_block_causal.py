"""
Block-causal attention for the head of any masked diffusion model (arXiv 2503.09573): bidirectional within a block of
positions, causal to the blocks before it.
"""

from typing import Any, Unpack

import torch
from transformers.modeling_outputs import BaseModelOutputWithPast, MaskedLMOutput
from transformers.utils.generic import TransformersKwargs

from hf_latent.generation.arguments.inputs import find_cache
from hf_latent.generation.model_calls.block_causal_masks import block_causal_visibility, noisy_and_clean_visibility
from hf_latent.generation.model_calls.semi_causal_masks import SemiCausalMasks, find_windows
from hf_latent.modeling.masked_diffusion import MaskedDiffusionHead, is_prepared_mask, position_ids_from_mask


class BlockCausalHead(MaskedDiffusionHead):
    """
    Forward of a masked diffusion model with block-causal attention; takes the place of [`MaskedDiffusionHead`].

    The configuration has `is_causal=False`, so that layers without a mask see everything, and `block_size`.
    """

    # Whether the attention is; a class that can be either makes a property of it.
    is_block_causal: bool = True
    # From the family's `PreTrainedModel`:
    dtype: torch.dtype

    def prepare_head(self) -> None:
        """As for all heads; and find the windows of the layers, once: a compiler cannot look for them."""
        super().prepare_head()
        self.attention_windows = find_windows(self.model.config, type(self.model)) if self.is_block_causal else None

    def block_causal_masks(self) -> SemiCausalMasks:
        """What makes masks for the decoder; read anew, as the attention implementation may be set at any time."""
        return SemiCausalMasks(self.model.config, windows=self.attention_windows)

    def default_position_ids(self, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Positions `[B, L]` that padding on the left does not move: blocks are counted from a row's first token."""
        return position_ids_from_mask(attention_mask)

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
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        r"""
        See [`MaskedDiffusionHead.forward`], but for:

        Args:
            attention_mask (`torch.Tensor` of shape `(B, L)`, *optional*):
                1 for tokens, 0 for padding (either side). What says who sees whom, `(B, 1, L, L)`, a dict of such
                or a `BlockMask`, is used as it is. With a cache it has to say so, or be left out: then all that is
                cached is seen.
            position_ids (`torch.LongTensor` of shape `(B, L)`, *optional*):
                Positions within the document, which blocks are counted by; a position 0 starts a document, which
                sees no other. 0, 1, ... of the tokens of a row if not given.
            clean_ids (`torch.LongTensor` of shape `(B, L)`, *optional*):
                The tokens without noise. A noisy token then sees its own block of `input_ids` and the blocks before
                it of `clean_ids`, so that one call predicts all blocks as decoding would, one after another. Logits,
                labels and positions to keep are those of `input_ids`.
            block_size (`int` or `torch.LongTensor` of shape `(B, 1)` or `(B, L)`, *optional*):
                Positions of a block, of each row or of each document of it; the configuration's if not given.

        Raises:
            ValueError: for a block size below 1, or none at all; for `clean_ids` of another shape; for any of the two
                where they have no meaning.
        """
        if clean_ids is not None or block_size is not None:
            self._check_block_arguments(input_ids, inputs_embeds, attention_mask, clean_ids, block_size, kwargs)
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

    def run_decoder(
        self,
        input_ids: torch.Tensor | None,
        attention_mask: Any,
        position_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        clean_ids: torch.Tensor | None = None,
        block_size: int | torch.Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Outputs of the base model for the `L` positions of the input, under block-causal masks."""
        if not self.is_block_causal:
            return super().run_decoder(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        if find_cache(kwargs) is not None:
            if attention_mask is not None and not is_prepared_mask(attention_mask):
                raise ValueError(
                    "a cache needs an `attention_mask` that says who sees whom, or none, with block-causal attention: "
                    "a prefix in a cache (peft's prefix tuning) is not supported."
                )
            return super().run_decoder(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        given = input_ids if inputs_embeds is None else inputs_embeds
        shape, device = given.shape[:2], given.device
        if position_ids is None:
            position_ids = torch.arange(shape[1], device=device)
        position_ids = position_ids.expand(shape)
        if not is_prepared_mask(attention_mask):
            exists = torch.ones(shape, dtype=torch.bool, device=device)
            if attention_mask is not None:
                exists = attention_mask.bool()
            attention_mask = self._prepare_masks(position_ids, exists, clean_ids is not None, block_size)
        if clean_ids is None:
            return super().run_decoder(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        if inputs_embeds is None:
            input_ids = torch.cat([input_ids, clean_ids], 1)
        else:
            clean = self.get_input_embeddings()(clean_ids)  # type: ignore[attr-defined]
            inputs_embeds = torch.cat([inputs_embeds, clean.to(inputs_embeds.dtype)], 1)
        position_ids = torch.cat([position_ids, position_ids], 1)
        outputs = super().run_decoder(input_ids, attention_mask, position_ids, inputs_embeds, **kwargs)
        return _first_positions(outputs, shape[1])

    def _prepare_masks(
        self,
        position_ids: torch.Tensor,
        exists: torch.Tensor,
        has_clean_copy: bool,
        block_size: int | torch.Tensor | None,
    ) -> Any:
        """Masks of a forward of all of the rows `(B, L)`, in the form the decoder takes."""
        block_size = self.config.block_size if block_size is None else block_size
        make = noisy_and_clean_visibility if has_clean_copy else block_causal_visibility
        seen = make(position_ids, exists, block_size)
        columns = torch.arange(seen.order.shape[1], device=exists.device)
        return self.block_causal_masks()(seen, seen, columns[None], self.dtype)

    def _check_block_arguments(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        attention_mask: Any,
        clean_ids: torch.Tensor | None,
        block_size: int | torch.Tensor | None,
        kwargs: Any,
    ) -> None:
        if not self.is_block_causal:
            raise ValueError(
                "`clean_ids` and `block_size` are for block-causal attention, got either with `attention`="
                f"{getattr(self.config, 'attention', 'bidirectional')!r}."
            )
        given = input_ids if inputs_embeds is None else inputs_embeds
        if isinstance(block_size, torch.Tensor) and given is not None:
            rows, length = given.shape[:2]
            if tuple(block_size.shape) not in ((rows, 1), (rows, length)):
                raise ValueError(
                    f"`block_size` must be an integer or have the shape ({rows}, 1) or ({rows}, {length}), got "
                    f"{tuple(block_size.shape)}."
                )
        elif block_size is not None and (isinstance(block_size, bool) or block_size < 1):
            raise ValueError(f"`block_size` must be at least 1, got {block_size}.")
        if block_size is not None and is_prepared_mask(attention_mask):
            raise ValueError(
                "`block_size` needs an `attention_mask` of (B, L) or none, got one that says who sees whom already."
            )
        if find_cache(kwargs) is not None:
            raise ValueError("`clean_ids` and `block_size` are for a forward of all positions, got a cache.")
        if clean_ids is not None and given is not None and clean_ids.shape != given.shape[:2]:
            raise ValueError(
                f"`clean_ids` must have the shape of the noisy rows, {tuple(given.shape[:2])}, got "
                f"{tuple(clean_ids.shape)}."
            )


def _first_positions(outputs: BaseModelOutputWithPast, length: int) -> BaseModelOutputWithPast:
    """The outputs of the first `length` positions; attention weights are those of their queries."""
    return BaseModelOutputWithPast(
        last_hidden_state=outputs.last_hidden_state[:, :length],
        hidden_states=outputs.hidden_states and tuple(states[:, :length] for states in outputs.hidden_states),
        attentions=outputs.attentions and tuple(weights[:, :, :length] for weights in outputs.attentions),
    )


__all__ = ["BlockCausalHead"]
