"""
A template with its parts filled in: what traces are sampled from, what is scored, what is trained on.

`B` rows, `L` columns of the longest row.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from hf_latent.data.template import ReasoningTemplate
from hf_latent.data.vocabulary import naming

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORE_INDEX = -100


@dataclass(frozen=True)
class FilledTemplate:
    """
    Rows `[question] [reasoning] delimiter [answer] suffix`, padded to one length.

    Args:
        input_ids (`torch.LongTensor` of shape `(B, L)`): tokens; the mask token where a part is still open.
        valid (`torch.BoolTensor` of shape `(B, L)`): positions that are not padding.
        reasoning (`torch.BoolTensor` of shape `(B, L)`): positions of the reasoning, the same number in every row.
        answer (`torch.BoolTensor` of shape `(B, L)`): those of the answer.
        num_reasoning (`torch.LongTensor` of shape `(B,)`): tokens of the reasoning before what fills it up.
        stated (`torch.BoolTensor` of shape `(B, L)`): positions of the reasoning that state the answer.
        num_answer (`torch.LongTensor` of shape `(B,)`): tokens of the answer and the one that ends it, if there is
            room: what an answer's probability is made of.
    """

    input_ids: torch.Tensor
    valid: torch.Tensor
    reasoning: torch.Tensor
    answer: torch.Tensor
    stated: torch.Tensor
    num_reasoning: torch.Tensor
    num_answer: torch.Tensor

    def to(self, device: torch.device) -> FilledTemplate:
        """The same on another device."""
        return FilledTemplate(**{name: value.to(device) for name, value in vars(self).items()})

    def with_reasoning(
        self, tokens: torch.Tensor, tokenizer: PreTrainedTokenizerBase, answers: Sequence[str]
    ) -> FilledTemplate:
        """The same with reasoning `(B, R)`: up to its first end-of-sequence token, and that token behind."""
        eos = end_of(tokenizer)
        ended = (tokens == eos).cumsum(-1) > 0
        tokens = tokens.masked_fill(ended, eos)
        ids, stated = self.input_ids.clone(), torch.zeros_like(self.reasoning)
        ids[self.reasoning] = tokens.flatten()
        stated[self.reasoning] = _find_stated(tokenizer, tokens, answers).flatten()
        return replace(self, input_ids=ids, stated=stated, num_reasoning=(~ended).sum(-1))


def fill_template(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Any],
    answers: Sequence[str],
    template: ReasoningTemplate,
    *,
    traces: Sequence[str] | None = None,
    mask_token_id: int | None = None,
    chat: bool | None = None,
    **chat_template_kwargs: Any,
) -> FilledTemplate:
    """
    Apply a template and write the answers, and the reasoning if there is some, in place of its masks.

    Each part is tokenized by itself and filled up with end-of-sequence tokens, as LLaDA's SFT (arXiv 2502.09992) does
    it.

    Args:
        questions: texts or conversations, as in `ReasoningTemplate.apply`; `chat` and the rest go there too.
        answers: one a question, at least one token and at most `template.answer_length`.
        traces: one a question, at most `template.reasoning_length` tokens; the reasoning stays masked without.
        mask_token_id: if the tokenizer has no mask token.

    Raises:
        ValueError: for lists of unequal length, a part that is too long, an empty answer, or a part that holds the
            mask token or an end-of-sequence token.
    """
    check_lengths(questions, answers=answers, traces=traces)
    inputs = template.apply(tokenizer, questions, chat=chat, mask_token_id=mask_token_id, **chat_template_kwargs)
    mask = mask_token_id if mask_token_id is not None else tokenizer.mask_token_id
    eos = end_of(tokenizer)
    ids, valid, answer = inputs["input_ids"], inputs["attention_mask"] == 1, inputs["answer_mask"]
    reasoning = (ids == mask) & valid & ~answer
    written = _tokenize(tokenizer, answers, template.answer_length, "answers", "answer_length", mask)
    if [] in written:
        empty = written.index([])
        raise ValueError(f"`answers` must not be empty, got {answers[empty]!r} at {empty}.")
    ids[answer] = _stack(written, template.answer_length, eos).flatten()
    filled = FilledTemplate(
        input_ids=ids,
        valid=valid,
        reasoning=reasoning,
        answer=answer,
        stated=torch.zeros_like(reasoning),
        num_reasoning=torch.zeros(len(ids), dtype=torch.long),
        num_answer=torch.tensor([min(len(tokens) + 1, template.answer_length) for tokens in written]),
    )
    if traces is None:
        return filled
    thought = _tokenize(tokenizer, traces, template.reasoning_length, "traces", "reasoning_length", mask)
    return filled.with_reasoning(_stack(thought, template.reasoning_length, eos), tokenizer, answers)


def format_traces(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Any],
    traces: Sequence[str],
    answers: Sequence[str],
    template: ReasoningTemplate,
    *,
    mask_token_id: int | None = None,
    chat: bool | None = None,
    **chat_template_kwargs: Any,
) -> Dataset:
    """
    Rows to fine-tune on, exactly as the template lays them out: `input_ids`, and `labels` that leave out the question.

    What the model learns to fill is what it is asked to fill later: reasoning and answer with their end-of-sequence
    tokens, and the delimiter and suffix between and behind them. Arguments and errors are those of [`fill_template`].
    [`MaskedDiffusionTrainer`] takes the result as it is.
    """
    from datasets import Dataset

    check_lengths(questions, answers=answers, traces=traces)
    rows = []
    # One at a time: no padding gets in, and a tokenizer without a padding token will do.
    for question, trace, answer in zip(questions, traces, answers, strict=True):
        filled = fill_template(
            tokenizer,
            [question],
            [answer],
            template,
            traces=[trace],
            mask_token_id=mask_token_id,
            chat=chat,
            **chat_template_kwargs,
        )
        ids, begin = filled.input_ids[0].tolist(), int(filled.reasoning[0].nonzero()[0])
        rows.append({"input_ids": ids, "labels": [IGNORE_INDEX] * begin + ids[begin:]})
    return Dataset.from_list(rows)


def end_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The end-of-sequence token, or `ValueError`."""
    if tokenizer.eos_token_id is None:
        raise ValueError("`tokenizer` must have an end-of-sequence token, which fills what is short, got None.")
    return int(tokenizer.eos_token_id)


def check_lengths(questions: Sequence[Any], **parts: Sequence[str] | None) -> None:
    """Raise `ValueError` if one of `parts` is not a list as long as the questions."""
    for name, texts in parts.items():
        if texts is not None and (isinstance(texts, str) or len(texts) != len(questions)):
            got = "a string" if isinstance(texts, str) else len(texts)
            raise ValueError(f"`{name}` must be one a question, a list of {len(questions)}, got {got}.")


def _tokenize(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], longest: int, name: str, knob: str, mask: int
) -> list[list[int]]:
    rows = []
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"`{name}` must hold texts, got {text!r} at {number}.")
        with naming(f"`{name}`, at {number}: {text!r}"):
            tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(tokens) > longest:
            raise ValueError(
                f"`{name}` must fit in `{knob}` ({longest} tokens), got {len(tokens)} tokens at {number}: {text!r}."
            )
        for token, what in ((mask, "mask"), (tokenizer.eos_token_id, "end-of-sequence")):
            if token in tokens:
                raise ValueError(f"`{name}` {number} holds the {what} token ({token}).")
        rows.append(tokens)
    return rows


def _find_stated(tokenizer: PreTrainedTokenizerBase, tokens: torch.Tensor, answers: Sequence[str]) -> torch.Tensor:
    """Which of `tokens` `(B, R)` are part of a place where the answer stands as a word of its own."""
    found = torch.zeros_like(tokens, dtype=torch.bool)
    for row, (ids, answer) in enumerate(zip(tokens.tolist(), answers, strict=True)):
        pattern = re.compile(rf"(?<!\w){re.escape(answer.strip())}(?!\w)")
        spans = [match.span() for match in pattern.finditer(_decode(tokenizer, ids))]
        if not spans:
            continue
        # Where a token's text ends is known from decoding all before it: alone it may lose its space.
        ends = [0, *(len(_decode(tokenizer, ids[: place + 1])) for place in range(len(ids)))]
        for place, (begin, end) in enumerate(pairwise(ends)):
            found[row, place] = any(begin < last and end > first for first, last in spans)
    return found


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    return tokenizer.decode(ids, clean_up_tokenization_spaces=False)


def _stack(rows: list[list[int]], length: int, filling: int) -> torch.Tensor:
    return torch.tensor([tokens + [filling] * (length - len(tokens)) for tokens in rows], dtype=torch.long)


__all__ = ["FilledTemplate", "fill_template", "format_traces"]
