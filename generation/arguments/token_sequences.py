"""
Transformers' knobs over sequences of tokens, as far as they mean something where positions are written in any order.

Those of one token do: `bad_words_ids`, `sequence_bias`. Of longer ones, tokens are forbidden or made likelier by what
stands in front of them; here neighbours may be open, or be written in the same forward.
"""

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

REASON = (
    "positions are written in any order and several in one forward, so whether neighbours make a longer sequence is "
    "known only once they are written"
)


def forbidden_tokens(config: GenerationConfig) -> list[int]:
    """
    The ids in `bad_words_ids`.

    Raises:
        ValueError: for words of several tokens, and for what is no list of words.
    """
    words = getattr(config, "bad_words_ids", None)
    if words is None:
        return []
    if not isinstance(words, list | tuple) or not words:
        raise ValueError(f"`bad_words_ids` must be a list of words, lists of ids, with at least one, got {words!r}.")
    return [_one_token("bad_words_ids", word) for word in words]


def token_biases(config: GenerationConfig) -> dict[tuple[int], float]:
    """
    What `sequence_bias` adds to the logits: `(id,)` to nats. It is given as that, or as a list of `[[id], bias]`.

    Raises:
        ValueError: for sequences of several tokens, and for what is no number or no mapping.
    """
    biases = getattr(config, "sequence_bias", None)
    if biases is None:
        return {}
    pairs = list(biases.items()) if isinstance(biases, Mapping) else biases
    message = f"`sequence_bias` must be {{(id,): bias}} or a list of [[id], bias], with at least one, got {biases!r}."
    if not isinstance(pairs, list | tuple) or not pairs:
        raise ValueError(message)
    found: dict[tuple[int], float] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError(message)
        sequence, bias = pair
        is_number = isinstance(bias, int | float) and not isinstance(bias, bool)
        if not is_number or not bias < float("inf"):  # minus infinity forbids
            raise ValueError(f"`sequence_bias` must be numbers below infinity, got {bias!r} for {sequence!r}.")
        found[(_one_token("sequence_bias", sequence),)] = float(bias)
    return found


def _one_token(name: str, sequence: Any) -> int:
    is_list = isinstance(sequence, list | tuple) and bool(sequence)
    if not is_list or not all(isinstance(i, int) and not isinstance(i, bool) and i >= 0 for i in sequence):
        raise ValueError(f"`{name}` takes sequences of ids from 0 on, got {sequence!r}.")
    if len(sequence) > 1:
        raise ValueError(f"`{name}` takes sequences of one token here, got {list(sequence)}: {REASON}.")
    return int(sequence[0])


__all__ = ["forbidden_tokens", "token_biases"]
