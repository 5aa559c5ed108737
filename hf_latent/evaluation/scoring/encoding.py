"""Texts as a model's tokens, and which of them are scored."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from hf_latent.data.data_files import pair_text, text_of
from hf_latent.data.vocabulary import naming

IGNORE_INDEX = -100


class ScoredText(NamedTuple):
    """
    A text of `L` tokens.

    Args:
        ids (`list[int]`): its tokens.
        scored (`list[bool]`): which of them are scored; the others are given.
        key (`int`): identity in the noise: texts of one key meet the same.
    """

    ids: list[int]
    scored: list[bool]
    key: int


def encode_context(
    tokenizer: PreTrainedTokenizerBase, context: str | Sequence[Mapping[str, str]], *, chat: bool = False
) -> list[int]:
    """Tokens of a prompt: a text, which `chat` puts through the chat template, or a list of messages."""
    with naming(f"The prompt {context!r}"):
        if isinstance(context, str):
            if not chat:
                return list(tokenizer(context)["input_ids"]) if context else []
            context = [{"role": "user", "content": context}]
        text = tokenizer.apply_chat_template(list(context), add_generation_prompt=True, tokenize=False)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def encode_pair(
    tokenizer: PreTrainedTokenizerBase,
    context: str | Sequence[Mapping[str, str]],
    continuation: str,
    *,
    chat: bool = False,
    add_eos: bool = False,
) -> tuple[list[int], list[int]]:
    """
    Tokens of a context, and of what continues it.

    Texts are tokenized together; the context is what both tokenizations begin with, so that a token across the border
    is scored. Behind a chat template, whose text ends at a border, the continuation is tokenized alone.

    Args:
        chat (`bool`): whether a context given as text goes through the chat template; messages always do.
        add_eos (`bool`): whether the continuation ends with the end-of-sequence token, as in training.

    Raises:
        ValueError: for a continuation without tokens.
    """
    given = encode_context(tokenizer, context, chat=chat)
    is_alone = chat or not isinstance(context, str)
    with naming(f"The text {continuation!r}"):
        if is_alone:
            behind = list(tokenizer(continuation, add_special_tokens=False)["input_ids"])
        else:
            together = list(tokenizer(f"{context}{continuation}")["input_ids"])
    if not is_alone:
        # A tokenizer that closes its texts with a special token closes the context alone, too.
        same = 0
        while same < min(len(given), len(together)) and given[same] == together[same]:
            same += 1
        given, behind = together[:same], together[same:]
    if add_eos and tokenizer.eos_token_id is not None:
        behind = [*behind, tokenizer.eos_token_id]
    if not behind:
        raise ValueError(f"`continuation` must have at least one token, got {continuation!r} behind {context!r}.")
    return given, behind


def encode_conversation(
    tokenizer: PreTrainedTokenizerBase, prompt: Sequence[Mapping[str, str]], completion: Sequence[Mapping[str, str]]
) -> tuple[list[int], list[int]]:
    """
    Tokens of a conversation's prompt, with what invites the answer, and of the answer, with what the chat template
    closes it with.

    Raises:
        ValueError: for a prompt that is no list of messages, or a template that writes it otherwise with an answer.
    """
    if isinstance(prompt, str):
        raise ValueError(f"`prompt` must be messages where `completion` is, got the text {prompt!r}.")
    invited = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template([*prompt, *completion], tokenize=False)
    if not whole.startswith(invited):
        raise ValueError(f"The chat template writes the prompt otherwise once it is answered: {invited!r}, {whole!r}.")
    given, behind = (
        list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in (invited, whole[len(invited) :])
    )
    return given, behind


def context_key(ids: Sequence[int]) -> int:
    """A number in [0, 2**62) that only these tokens have: continuations of one context meet the same noise."""
    digest = hashlib.sha256(",".join(map(str, ids)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def scored_pair(given: list[int], behind: list[int], key: int) -> ScoredText:
    """A context that is given and a continuation that is scored."""
    return ScoredText([*given, *behind], [False] * len(given) + [True] * len(behind), key)


def encode_example(
    example: Mapping[str, Any],
    key: int,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    chat: bool = False,
    add_eos: bool = True,
) -> ScoredText:
    """
    An example as data sets for training have them: `input_ids` with `labels` (-100: given) or without (all scored);
    `prompt` (text or messages) and `completion` (text or messages), of which the completion is scored; or a `text`.

    Raises:
        ValueError: naming the example's columns, if they are none of these, or if nothing is scored.
    """
    if "input_ids" in example:
        ids = [int(token) for token in example["input_ids"]]
        labels = [int(label) for label in example.get("labels", ids)]
        if len(labels) != len(ids):
            raise ValueError(f"`labels` must be as long as `input_ids` ({len(ids)}), got {len(labels)}.")
        scored = [label != IGNORE_INDEX for label in labels]
        if any(flag and label != token for token, label, flag in zip(ids, labels, scored, strict=True)):
            raise ValueError("`labels` must be -100 or the token at their place: targets are not shifted.")
        if not any(scored):
            raise ValueError(f"`labels` must leave at least one token to score, got {len(labels)} times -100.")
        return ScoredText(ids, scored, key)
    if tokenizer is None:
        raise ValueError(f"`tokenizer` is needed for examples with the columns {sorted(example)}.")
    if "prompt" in example and "completion" in example:
        prompt, completion = (pair_text(example[n], f"`{n}`", may_be_empty=True) for n in ("prompt", "completion"))
        if isinstance(completion, str):
            given, behind = encode_pair(tokenizer, prompt, completion, chat=chat, add_eos=add_eos)
        else:
            given, behind = encode_conversation(tokenizer, prompt, completion)
    elif "text" in example:
        given, behind = encode_pair(tokenizer, "", text_of(example["text"], "`text`"), add_eos=add_eos)
    else:
        raise ValueError(
            "An example needs `input_ids` (and `labels`), `prompt` and `completion`, or `text`; got the columns "
            f"{sorted(example)}."
        )
    return scored_pair(given, behind, key)


__all__ = [
    "ScoredText",
    "context_key",
    "encode_context",
    "encode_conversation",
    "encode_example",
    "encode_pair",
    "scored_pair",
]
