"""Latent-token models that write from left to right: autoregressive, with positions that look ahead."""

import os
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Unpack

import torch
from torch import nn
from transformers import (
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)
from transformers.cache_utils import Cache, DynamicLayer, DynamicSlidingWindowLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.utils import can_return_tuple
from transformers.utils.generic import TransformersKwargs

from hf_latent.generation.arguments.adapters import adapter_aware, refuse_for_latent_tokens
from hf_latent.generation.arguments.cache_argument import CACHE_NAME, cache_of
from hf_latent.generation.arguments.continuous_batching import ContinuousBatchingRefusal
from hf_latent.generation.arguments.generation_file import refuse_damaged_file
from hf_latent.generation.arguments.inputs import find_cache, rename_cache
from hf_latent.generation.arguments.stock_arguments import plain
from hf_latent.generation.arguments.stock_generate import add_score_check, check_stock_ids, find_knob
from hf_latent.generation.autoregressive.speculative import SpeculativeOutput
from hf_latent.modeling.adapter_names import AdapterLoadingMixin
from hf_latent.modeling.latent_token.configuration_latent_token import LatentTokenConfig
from hf_latent.modeling.latent_token.generation_arguments import look_ahead_arguments, speculation_arguments
from hf_latent.modeling.latent_token.lookahead import (
    causal_stream,
    columns_to_keep,
    lookahead_groups,
    lookahead_inputs,
)
from hf_latent.modeling.latent_token.modeling_latent_token_base import LatentTokenPreTrainedModel
from hf_latent.modeling.masked_diffusion import (
    ScoredOutput,
    is_prepared_mask,
    position_ids_from_mask,
    score_tokens,
    select_positions,
    use_own_config_class,
)


@dataclass
class LatentTokenOutput(CausalLMOutputWithPast):
    """
    Output of [`LatentTokenForCausalLM`].

    Args:
        latent_logits (`torch.FloatTensor` of shape `(B, S, num_latent_tokens, V)`, *optional*):
            Of the tokens after the next one, behind each of the `S` positions of `logits`.
    """

    latent_logits: torch.FloatTensor | None = None


class LookAhead(NamedTuple):
    """States of a forward with `K` latent tokens behind each of `S` of its `T` positions."""

    text: torch.Tensor  # [B, T, D]: predict the next token as the decoder alone does
    next: torch.Tensor  # [B, S, D]: predict it with the masks in sight
    latent: torch.Tensor  # [B, S, K, D]: the masks, predict the tokens after it
    outputs: BaseModelOutputWithPast


class LatentTokenForCausalLM(
    ContinuousBatchingRefusal, AdapterLoadingMixin, LatentTokenPreTrainedModel, GenerationMixin
):
    """
    Any decoder-only model of transformers as an autoregressive model with latent tokens: `model` is the decoder itself
    and `lm_head` its head.

    With `num_latent_tokens=0` it is the decoder as it was. With more, the next token is predicted by a position that
    sees as many masks at the positions behind it, which predict what comes there: they let the model look ahead. Keys
    and values of the text are those of the plain decoder, whatever the number; those of the masks are dropped.
    """

    def __init__(self, config: LatentTokenConfig) -> None:
        super().__init__(config)
        self.build(config)
        use_own_config_class(self)
        self.post_init()

    @classmethod
    def from_backbone(
        cls,
        backbone: str | os.PathLike | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        num_latent_tokens: int = 0,
        mask_token: str = "<|mask|>",
        mask_token_id: int | None = None,
        pad_to_multiple_of: int | None = None,
        **kwargs: Any,
    ) -> "LatentTokenForCausalLM":
        r"""
        Give an autoregressive model a mask token, with which it can learn to look ahead.

        Nothing of the weights changes but for the mask token, and with `num_latent_tokens=0` nothing of what the model
        says.

        Args:
            backbone, tokenizer, mask_token, mask_token_id, pad_to_multiple_of, kwargs:
                See [`LatentTokenForMaskedDiffusion.from_backbone`].
            num_latent_tokens (`int`, *optional*, defaults to 0):
                Default of `generate`.

        Raises:
            ValueError: for a model that is no decoder-only model, whose head does what ours cannot, or that does not
                take masks and positions; for an id outside the vocabulary.
        """
        fields = {
            "attention": "semi_causal",
            "order": "left_to_right",
            "num_latent_tokens": num_latent_tokens,
            "shift_logits": True,
        }
        return cls._from_backbone(backbone, tokenizer, mask_token, mask_token_id, pad_to_multiple_of, fields, kwargs)

    @property
    def position_limit(self) -> int | None:
        """Positions of a decoder that looks them up in a table, behind which masks cannot stand."""
        return self.config.max_position_embeddings if has_position_table(self.model) else None

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.FloatTensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor | tuple[torch.Tensor, torch.Tensor] = 0,
        num_latent_tokens: int | None = None,
        output_latent_logits: bool = False,
        targets: torch.LongTensor | None = None,
        cache: Cache | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> CausalLMOutputWithPast:
        r"""
        Predict the next token of every position. `B` rows, `T` positions, `P` in the cache, `V` vocabulary.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`):
                Tokens behind those in the cache.
            attention_mask (`torch.Tensor` of shape `(B, P + T)`, *optional*):
                1 for tokens, 0 for padding on either side. Without latent tokens whatever the decoder takes.
            position_ids (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Positions; counted by a mask of `(B, P + T)` if not given.
            past_key_values (`Cache`, *optional*):
                Keys and values of the text; with latent tokens a `DynamicCache` of layers without windows.
            inputs_embeds (`torch.FloatTensor` of shape `(B, T, D)`, *optional*):
                Instead of `input_ids`.
            labels (`torch.LongTensor` of shape `(B, T)`, *optional*):
                Tokens, shifted here; -100 is ignored. Gives `loss`, mean nats per next token.
            logits_to_keep (`int`, `torch.Tensor` or a pair of them, *optional*, defaults to 0):
                Positions whose next token is predicted: 0 all, `n` the last n, a 1-D index of columns; without latent
                tokens all that [`MaskedDiffusionHead.forward`] knows.
            num_latent_tokens (`int`, *optional*, defaults to 0):
                Masks behind each of those positions.
            output_latent_logits (`bool`, *optional*, defaults to `False`):
                Whether to return what the masks predict.
            targets (`torch.LongTensor` of shape `(N,)`, *optional*):
                Tokens at the `N` selected positions, to be scored without keeping their logits. Without latent tokens.
            cache (`Cache`, *optional*):
                `past_key_values` by its name since transformers 5.24.

        Returns:
            `LatentTokenOutput` with `logits` `(B, S, V)`; with `targets` a `ScoredOutput`.
        """
        kwargs["use_cache"] = use_cache
        past_key_values = find_cache({"past_key_values": past_key_values, "cache": cache})
        if num_latent_tokens:
            if targets is not None or is_prepared_mask(attention_mask):
                raise ValueError(
                    f"`num_latent_tokens`={num_latent_tokens} takes an `attention_mask` of (B, L), so no cache of a "
                    "fixed size, and no `targets`."
                )
            _, next_states, latent_states, outputs = self.look_ahead(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                inputs_embeds=inputs_embeds,
                logits_to_keep=logits_to_keep,
                num_latent_tokens=num_latent_tokens,
                **kwargs,
            )
        else:
            if position_ids is None and not is_prepared_mask(attention_mask):
                # As with latent tokens, whose keys the cache may hold.
                position_ids = position_ids_from_mask(attention_mask)
                given = input_ids if input_ids is not None else inputs_embeds
                if position_ids is not None and given is not None:
                    position_ids = position_ids[:, -given.shape[1] :]
            outputs = self.model(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                inputs_embeds=inputs_embeds,
                **{self.cache_name: past_key_values},
                **kwargs,
            )
            next_states, latent_states = select_positions(outputs.last_hidden_state, logits_to_keep), None
        if targets is not None:
            nll, correct = score_tokens(self.project, next_states, targets, self.config.vocab_size)
            return ScoredOutput(nll=nll, correct=correct)
        logits = self.project(next_states)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        latent_logits = None
        if output_latent_logits and latent_states is not None:
            latent_logits = self.project(latent_states)
        return LatentTokenOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            latent_logits=latent_logits,
            **{CACHE_NAME: cache_of(outputs)},
        )

    def look_ahead(
        self,
        *,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_latent_tokens: int,
        **kwargs: Any,
    ) -> LookAhead:
        """
        States rather than logits of a forward with latent tokens; arguments as in `forward`. Everything is read once:
        what the text alone predicts is there, too.
        """
        inputs = inputs_embeds if inputs_embeds is not None else input_ids
        assert inputs is not None
        batch_size, length = inputs.shape[:2]
        use_cache = kwargs.pop("use_cache", None)
        if past_key_values is None and (self.config.use_cache if use_cache is None else use_cache):
            past_key_values = DynamicCache()
        past = 0 if past_key_values is None else check_croppable(past_key_values).get_seq_length()
        exists = torch.ones(batch_size, past + length, dtype=torch.bool, device=inputs.device)
        if attention_mask is not None:
            if attention_mask.shape != exists.shape:
                raise ValueError(
                    f"`attention_mask` must have shape {tuple(exists.shape)}, a column for each token in the cache "
                    f"and in the input, got {tuple(attention_mask.shape)}."
                )
            exists = attention_mask.bool()
        position = (exists.long().cumsum(-1) - 1).clamp(min=0)
        if position_ids is not None:
            position = torch.cat([position[:, :past], position_ids.expand(batch_size, length)], -1)
        keys = causal_stream(exists, position)
        clean = keys.select((slice(None), slice(past, None)))  # type: ignore[arg-type]
        states = columns_to_keep(logits_to_keep, batch_size, length, inputs.device)
        behind = lookahead_groups(clean, states, num_latent_tokens, self.position_limit)
        mask = torch.tensor(self.config.mask_token_id, device=inputs.device)
        if inputs_embeds is not None:
            mask = self.get_input_embeddings()(mask)
        contents = torch.cat([inputs, lookahead_inputs(inputs, states, mask, num_latent_tokens)], dim=1)
        queries, keys = clean.join(behind), keys.join(behind)
        positions = queries.position
        if self.position_limit is not None:  # drafts may go beyond the last position, where nothing is written
            positions = positions.clamp(max=self.position_limit - 1)
        self_index = past + torch.arange(contents.shape[1], device=inputs.device)
        outputs: BaseModelOutputWithPast = self.model(
            **{"input_ids" if inputs_embeds is None else "inputs_embeds": contents},
            attention_mask=self.semi_causal_masks()(queries, keys, self_index[None], self.dtype),
            position_ids=positions,
            use_cache=past_key_values is not None,
            **{self.cache_name: past_key_values},
            **kwargs,
        )
        if past_key_values is not None:
            past_key_values.crop(length - contents.shape[1])
        grouped = outputs.last_hidden_state[:, length:].unflatten(1, (-1, num_latent_tokens + 1))
        return LookAhead(outputs.last_hidden_state[:, :length], grouped[:, :, 0], grouped[:, :, 1:], outputs)

    @adapter_aware(refuse_for_latent_tokens)
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        stopping_criteria: StoppingCriteriaList | None = None,
        *args: Any,
        num_latent_tokens: int | None = None,
        self_speculative: bool | Literal["plain"] = False,
        **kwargs: Any,
    ) -> torch.LongTensor | SpeculativeOutput | Any:
        r"""
        As in transformers, with all of its arguments, and:

        Args:
            num_latent_tokens (`int`, *optional*, defaults to `config.num_latent_tokens`):
                Masks that look ahead behind every token that is written.
            self_speculative (`bool` or `"plain"`, *optional*, defaults to `False`):
                Write the same, greedily the same tokens and sampled the same distribution, in fewer forwards: the
                predictions of the masks are drafts, of which the longest prefix is kept that would have been written
                one by one. With `"plain"` it is what `num_latent_tokens=0` writes: the text alone judges.
                See [`~generation.speculative.speculate`].

        Raises:
            ValueError: for a negative number, and for none with `self_speculative`; for token ids beyond the
                vocabulary; for scores of which no token can be chosen, which transformers would choose from.
        """
        num_latent_tokens = self.config.num_latent_tokens if num_latent_tokens is None else plain(num_latent_tokens)
        if self_speculative not in (None, False, True, "plain"):
            raise ValueError(f"`self_speculative` must be True, False or 'plain', got {self_speculative!r}.")
        least, is_integer = int(bool(self_speculative)), type(num_latent_tokens) is int
        if not is_integer or num_latent_tokens < least:
            raise ValueError(
                f"`num_latent_tokens` must be an integer of at least {least} here, got {num_latent_tokens!r}."
            )
        if kwargs.pop("token_type_ids", None) is not None:
            raise ValueError(
                "`token_type_ids` is not supported by latent-token models, which have no token types: "
                "`tokenizer(..., return_token_type_ids=False)`."
            )
        kwargs = {name: plain(value) if name in NUMBERS else value for name, value in rename_cache(kwargs).items()}
        configs = generation_config, self.generation_config
        check_stock_ids(self.config.vocab_size, {"inputs": inputs, **kwargs}, kwargs, *configs)
        check = None
        if kwargs.get("custom_generate") is None and not self_speculative:
            check, logits_processor, stopping_criteria = add_score_check(
                logits_processor,
                stopping_criteria,
                streams=kwargs.get("streamer") is not None,
                num_beams=find_knob("num_beams", kwargs, *configs),
                eos_token_id=find_knob("eos_token_id", kwargs, *configs),
            )
        if num_latent_tokens > 0:
            if self.config.mask_token_id is None:
                raise ValueError("`mask_token_id` of the configuration is not set: latent tokens are masks.")
            arguments = look_ahead_arguments(num_latent_tokens, kwargs, configs)
            if self_speculative:
                further, stopping_criteria = speculation_arguments(
                    kwargs, stopping_criteria, configs, verified_by_text=self_speculative == "plain"
                )
                arguments |= further
            kwargs |= arguments
        if "past_key_values" in kwargs:
            kwargs[CACHE_NAME] = kwargs.pop("past_key_values")
        output = super().generate(inputs, generation_config, logits_processor, stopping_criteria, *args, **kwargs)
        if check is not None:
            check.raise_if_invalid()
        return output

    def refuse_continuous_batching(self, name: str) -> None:
        """Raise `ValueError` where there are latent tokens, which it leaves out; without it is the decoder's own."""
        if self.config.num_latent_tokens > 0:
            super().refuse_continuous_batching(name)

    def adjust_generation_fn(self, generation_config: GenerationConfig | None, *args: Any, **kwargs: Any) -> None:
        """As in transformers, but that a `generation_config.json` that is there and cannot be read raises."""
        refuse_damaged_file(generation_config, args, kwargs)
        super().adjust_generation_fn(generation_config, *args, **kwargs)


# Stock knobs in which a number of numpy or a tensor of one number is that number.
NUMBERS = frozenset(GenerationConfig().to_dict())


def check_croppable(cache: Cache) -> Cache:
    """The cache, or `ValueError` if it cannot forget the masks again."""
    layers = getattr(cache, "layers", [None])
    if any(not isinstance(layer, DynamicLayer) or isinstance(layer, DynamicSlidingWindowLayer) for layer in layers):
        raise ValueError(
            "`past_key_values` must be a DynamicCache of layers without windows with latent tokens, got "
            f"{type(cache).__name__}: pass `DynamicCache()`."
        )
    return cache


def has_position_table(model: nn.Module) -> bool:
    """Whether the decoder looks positions up in a table (GPT-2) rather than turning them into angles."""
    limit = getattr(model.config, "max_position_embeddings", None)
    embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    return limit is not None and any(
        module is not model.get_input_embeddings() and limit <= module.num_embeddings <= limit + 2
        for module in embeddings
    )


__all__ = ["LatentTokenForCausalLM", "LatentTokenOutput"]
