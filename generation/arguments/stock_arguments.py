"""
What transformers' `generate` and `GenerationConfig` know and a denoising loop cannot honour: accepted where it is
unset, refused by name where it is set, with what to use instead; never ignored.
"""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import GenerationConfig, GenerationMixin

# Neutral values of stock knobs, beside None. Knobs of the installed transformers that are not named here are neutral
# at its default.
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "num_beams": (None, 1),
    "num_beam_groups": (None, 1),
    "early_stopping": (None, False),
    "min_length": (None, 0),
    "stop_strings": (None,),
    "max_time": (None,),
    "cache_implementation": (None,),
    "guidance_scale": (None, 1, 1.0),
    "no_repeat_ngram_size": (None, 0),
    "encoder_repetition_penalty": (None, 1.0),
    "encoder_no_repeat_ngram_size": (None, 0),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "begin_suppress_tokens": (None,),
    "exponential_decay_length_penalty": (None,),
    "penalty_alpha": (None,),
    "prompt_lookup_num_tokens": (None,),
    "assistant_early_exit": (None,),
    "watermarking_config": (None,),
    "use_mtp": (None, False),
    "length_penalty": (None, 1.0),
    "diversity_penalty": (None, 0.0),
    "dola_layers": (None,),
    "constraints": (None,),
    "force_words_ids": (None,),
    "remove_invalid_values": (None, False),
    "output_logits": (None, False),
    "output_attentions": (None, False),
    "output_hidden_states": (None, False),
    "token_healing": (None, False),
    "typical_p": (None, 1.0),
    "top_h": (None,),
    "epsilon_cutoff": (None, 0.0),
    "eta_cutoff": (None, 0.0),
    "renormalize_logits": (None, False),
    "low_memory": (None, False),
    "is_assistant": (None, False),
}
# Stock knobs that a denoising loop reads, and those that can be as they like: no cache of theirs is used, nothing is
# compiled, and which token begins a text is the tokenizer's business.
HONOURED = (
    "max_length",
    "max_new_tokens",
    "min_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "suppress_tokens",
    "bad_words_ids",
    "sequence_bias",
    "num_return_sequences",
    "return_dict_in_generate",
    "output_scores",
    "pad_token_id",
    "eos_token_id",
)
INDIFFERENT = ("use_cache", "disable_compile", "bos_token_id", "transformers_version")
# Arguments of transformers' `generate` that `run_generate` answers for.
ANSWERED = ("self", "inputs", "generation_config", "logits_processor", "streamer", "kwargs")
# Further inputs that tokenizers, pipelines and other models' `generate` know.
FURTHER_INPUTS = (
    "token_type_ids",
    "position_ids",
    "inputs_embeds",
    "decoder_input_ids",
    "decoder_attention_mask",
    "encoder_outputs",
    "labels",
    "assistant_tokenizer",
    "use_model_defaults",
)
# What does here what was asked for, or why nothing does.
INSTEAD = {
    "assistant_model": "no draft model is needed: `decoding` and `block_cache` say how many tokens a forward writes",
    "assistant_tokenizer": "no draft model is needed",
    "begin_suppress_tokens": "`min_new_tokens` forbids an early end, `deferred_tokens` writes tokens last",
    "cache_implementation": "use `block_cache`",
    "decoder_input_ids": "use `input_ids`",
    "early_stopping": "there are no beams",
    "forced_bos_token_id": "use `infill`, with the token given",
    "forced_eos_token_id": "use `infill`, with the token given",
    "guidance_scale": "use `cfg_scale`, which is `guidance_scale` less 1",
    "inputs_embeds": "use `input_ids`",
    "labels": "call the model itself for a loss",
    "length_penalty": "there are no beams",
    "max_time": "`max_denoising_steps` limits the forwards",
    "min_length": "use `min_new_tokens`",
    "negative_prompt_attention_mask": "use `cfg_scale`: the masked prompt is what is guided away from",
    "negative_prompt_ids": "use `cfg_scale`: the masked prompt is what is guided away from",
    "no_repeat_ngram_size": "an n-gram may be completed from either side, or by positions that are written in one "
    "forward, so none can be forbidden for sure; use `repetition_penalty` or a `logits_processor`",
    "num_beam_groups": "use `num_return_sequences` with `temperature`",
    "num_beams": "use `num_return_sequences` with `temperature`",
    "output_logits": "use `output_scores` or `output_history`",
    "position_ids": "positions follow from `attention_mask`",
    "prefix_allowed_tokens_fn": "use a `logits_processor`, which is called with the whole canvas",
    "prompt_lookup_num_tokens": "`decoding` says how many tokens a forward writes",
    "remove_invalid_values": "scores that are nan are refused by name",
    "stop_strings": "use `eos_token_id`, or cut the text",
    "stopping_criteria": "use `eos_token_id` and `max_new_tokens`; a row is not written from left to right",
    "synced_gpus": "rows end after different numbers of forwards; gather the parameters of a sharded model first",
    "token_type_ids": "these models have no token types; `tokenizer(..., return_token_type_ids=False)`",
    "typical_p": "use `top_p`, `top_k` or `min_p`",
}


def neutral_values() -> dict[str, tuple[Any, ...]]:
    """Of every knob of the installed `GenerationConfig` that a denoising loop cannot honour, what asks for nothing."""
    stock = GenerationConfig()
    defaults = stock._get_default_generation_params() if hasattr(stock, "_get_default_generation_params") else {}
    others = {
        name: (None, value, defaults.get(name))
        for name, value in stock.to_dict().items()
        if name not in (*HONOURED, *INDIFFERENT) and not name.startswith("_")
    }
    return others | UNSUPPORTED


def refuse_knobs(config: GenerationConfig) -> None:
    """Raise `ValueError` for the first stock knob of a configuration that is set and cannot be honoured."""
    for name, neutral in neutral_values().items():
        value = getattr(config, name, None)
        # By type, too: 1 is True, and 0 is False.
        if not any(value is each or (type(value) is not bool and value == each) for each in neutral):
            raise ValueError(f"`{name}`={value!r} is not supported by diffusion decoding{_instead(name)}.")


def refuse_arguments(
    kwargs: dict[str, Any],
    by: str = "diffusion decoding",
    answered: Sequence[str] = ANSWERED,
    instead: Mapping[str, str] = INSTEAD,
) -> dict[str, Any]:
    """
    The keyword arguments of a call without those of transformers' `generate` that cannot be honoured; raise
    `ValueError` for the first of these that is set.

    Args:
        by: what cannot honour them.
        answered: those that it can.
        instead: what does what was asked for.
    """
    named = {*inspect.signature(GenerationMixin.generate).parameters, *FURTHER_INPUTS} - {*answered}
    for name in sorted(named & {*kwargs}):
        value = kwargs[name]
        if value is None or value is False:
            continue
        raise ValueError(f"`{name}` is not supported by {by}, got {type(value).__name__}{_instead(name, instead)}.")
    return {name: value for name, value in kwargs.items() if name not in named}


def _instead(name: str, instead: Mapping[str, str] = INSTEAD) -> str:
    return f": {instead[name]}" if name in instead else "; leave it unset"


def plain(value: Any) -> Any:
    """Numbers of numpy and tensors of one number as Python's, arrays and tensors of several as lists."""
    if hasattr(value, "tolist") and hasattr(value, "shape") and hasattr(value, "dtype"):
        return value.tolist()
    if type(value) in (list, tuple):
        return type(value)(plain(each) for each in value)
    return value


__all__ = ["UNSUPPORTED", "neutral_values", "plain", "refuse_arguments", "refuse_knobs"]
