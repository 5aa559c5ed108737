"""What our models see to around transformers' own `generate`: token ids that exist, and scores that are finite."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

from hf_latent.generation.arguments.inputs import check_range, check_token_ids
from hf_latent.generation.beliefs.score_check import FiniteScoresLogitsProcessor, StopAtInvalidScores

# Stock knobs that are token ids, or lists of them, of sequences of them, or a mapping from sequences of them.
ID_KNOBS = (
    "eos_token_id",
    "pad_token_id",
    "bos_token_id",
    "decoder_start_token_id",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "force_words_ids",
    "sequence_bias",
)
ID_INPUTS = ("inputs", "input_ids", "decoder_input_ids", "negative_prompt_ids")


def find_knob(name: str, kwargs: Mapping[str, Any], *configs: GenerationConfig | None) -> Any:
    """The value of a knob in a call: the keyword, else the first configuration that sets it."""
    if name in kwargs:
        return kwargs[name]
    values = (getattr(config, name, None) for config in configs)
    return next((value for value in values if value is not None), None)


def check_stock_ids(
    vocab_size: int, arguments: Mapping[str, Any], asked: Mapping[str, Any], *configs: GenerationConfig | None
) -> None:
    """
    Raise `ValueError` for token ids beyond the vocabulary.

    Args:
        arguments: tensors of ids by their names; anything else in it is not looked at.
        asked: keywords of the call.
        configs: the configuration of the call and the model's, whose negative ids, as old files have them, are none.
    """
    for name in ID_INPUTS:
        value = arguments.get(name)
        if isinstance(value, torch.Tensor) and not value.is_floating_point() and value.numel() > 0:
            check_range(name, value, vocab_size)
    for name in ID_KNOBS:
        check_token_ids(name, list(flatten_ids(find_knob(name, asked, *configs))), vocab_size)


def flatten_ids(value: Any) -> Iterable[int]:
    """The ids in a knob, however deep."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        value = list(value)
    if isinstance(value, list | tuple):
        # `sequence_bias` also comes as pairs of a sequence and its bias.
        is_pair = len(value) == 2 and isinstance(value[0], list | tuple) and isinstance(value[1], float)
        for part in value[:1] if is_pair else value:
            yield from flatten_ids(part)
    elif value is not None and not isinstance(value, float | str):
        yield int(value)


def add_score_check(
    logits_processor: Sequence[Any] | None,
    stopping_criteria: Sequence[Any] | None,
    *,
    streams: bool,
    num_beams: int | None,
    eos_token_id: Any,
) -> tuple[FiniteScoresLogitsProcessor, LogitsProcessorList, StoppingCriteriaList]:
    """A check of scores, and the processors and criteria of a call with it at their ends."""
    check = FiniteScoresLogitsProcessor(streams, (num_beams or 1) > 1, tuple(flatten_ids(eos_token_id)))
    processors = LogitsProcessorList([*(logits_processor or ()), check])
    return check, processors, StoppingCriteriaList([*(stopping_criteria or ()), StopAtInvalidScores(check)])


__all__ = ["add_score_check", "check_stock_ids", "find_knob", "flatten_ids"]
