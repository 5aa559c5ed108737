"""Reasoning as infilling (arXiv 2510.19990): question, masks for the reasoning, delimiter, masks for the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import BatchEncoding, PreTrainedTokenizerBase

from hf_latent.data.numbers import as_number
from hf_latent.data.vocabulary import naming


class ReasonedAnswer(NamedTuple):
    """The two texts of a filled template, without special tokens."""

    reasoning: str
    answer: str


@dataclass(frozen=True)
class ReasoningTemplate:
    """
    Layout `[question] [reasoning masks] delimiter [answer masks] suffix`.

    The answer can be read while the reasoning is still being written, which is what `early_exit_threshold` does:

    ```python
    template = ReasoningTemplate(reasoning_length=64, answer_length=10, delimiter="\\nThe answer is ")
    inputs = template.apply(tokenizer, questions)
    output = model.generate(**inputs, early_exit_threshold=0.1, return_dict_in_generate=True)
    for reasoning, answer in template.split(tokenizer, output.sequences, inputs["answer_mask"]):
        ...
    ```

    Args:
        reasoning_length (`int`): tokens of the reasoning, at least 1.
        answer_length (`int`): tokens of the answer, at least 1.
        delimiter (`str`): given text between them, tokenized by itself.
        suffix (`str`): given text behind the answer, e.g. what closes a bracket of the delimiter.
    """

    reasoning_length: int
    answer_length: int
    delimiter: str = "\nThe answer is "
    suffix: str = ""

    def __post_init__(self) -> None:
        for name in ("reasoning_length", "answer_length"):
            value = as_number(getattr(self, name))
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")
            object.__setattr__(self, name, value)
        for name in ("delimiter", "suffix"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"`{name}` must be a string, got {getattr(self, name)!r}.")

    def apply(
        self,
        tokenizer: PreTrainedTokenizerBase,
        questions: str | Sequence[Any],
        *,
        chat: bool | None = None,
        mask_token_id: int | None = None,
        padding_side: str = "left",
        **chat_template_kwargs: Any,
    ) -> BatchEncoding:
        """
        Inputs of `generate` for questions of any length. `B` questions, `L` tokens of the longest.

        Args:
            tokenizer: of the model.
            questions: texts, or conversations (lists of messages with `role` and `content`).
            chat: whether texts go through the chat template as a user's message; conversations always do. By default
                texts are taken as they are.
            mask_token_id: if the tokenizer has no mask token of its own (`model.config.mask_token_id`).
            padding_side: `"left"` or `"right"`, for shorter questions; results do not depend on it.
            chat_template_kwargs: passed to `apply_chat_template`.

        Returns:
            `BatchEncoding` of `input_ids`, `attention_mask` (both int64) and `answer_mask` (bool), `(B, L)` each.

        Raises:
            ValueError: without questions, mask token or padding token, or for a text that holds the mask token.
        """
        if isinstance(questions, str):
            questions = [questions]
        if not questions:
            raise ValueError("`questions` must hold at least one question, got none.")
        if padding_side not in ("left", "right"):
            raise ValueError(f'`padding_side` must be "left" or "right", got {padding_side!r}.')
        mask = mask_token_id if mask_token_id is not None else tokenizer.mask_token_id
        if mask is None:
            raise ValueError(
                "`mask_token_id` is needed, as the tokenizer has none: pass `model.config.mask_token_id`."
            )
        behind, in_answer = self._behind(tokenizer, mask)
        rows = [self._encode(tokenizer, question, chat, chat_template_kwargs) for question in questions]
        for number, row in enumerate(rows):
            if mask in row:
                raise ValueError(f"`questions` {number} holds the mask token ({mask}).")
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if pad is None and len({len(row) for row in rows}) > 1:
            raise ValueError("`questions` of unequal length need a padding token, which the tokenizer lacks.")

        def stack(values: list[list[Any]], filling: Any) -> torch.Tensor:
            tensors = [torch.tensor(row) for row in values]
            return pad_sequence(tensors, batch_first=True, padding_value=filling, padding_side=padding_side)

        return BatchEncoding(
            {
                "input_ids": stack([row + behind for row in rows], pad or 0),
                "attention_mask": stack([[1] * len(row + behind) for row in rows], 0),
                "answer_mask": stack([[False] * len(row) + in_answer for row in rows], False),
            }
        )

    def split(
        self, tokenizer: PreTrainedTokenizerBase, sequences: torch.Tensor, answer_mask: torch.Tensor
    ) -> list[ReasonedAnswer]:
        """
        Reasoning and answer of filled templates, as texts without special tokens.

        Args:
            sequences: `(B, L)` ids from `generate`; with `num_return_sequences`, a multiple of the questions.
            answer_mask: `(B, L)` from `apply`.
        """
        if len(sequences) % len(answer_mask):
            raise ValueError(
                f"`answer_mask` has {len(answer_mask)} rows, which do not divide the {len(sequences)} of `sequences`."
            )
        answer_mask = answer_mask.repeat_interleave(len(sequences) // len(answer_mask), dim=0)
        num_delimiter = len(tokenizer(self.delimiter, add_special_tokens=False)["input_ids"])
        found = []
        for row, flags in zip(sequences.cpu(), answer_mask.cpu(), strict=True):
            end = int(flags.nonzero()[0]) - num_delimiter
            texts = row[end - self.reasoning_length : end], row[flags]
            found.append(ReasonedAnswer(*(tokenizer.decode(text, skip_special_tokens=True) for text in texts)))
        return found

    def _behind(self, tokenizer: PreTrainedTokenizerBase, mask: int) -> tuple[list[int], list[bool]]:
        """Tokens behind a question, and which of them are the answer's."""
        parts = {}
        for name, text in (("delimiter", self.delimiter), ("suffix", self.suffix)):
            with naming(f"`{name}` {text!r}"):
                parts[name] = tokenizer(text, add_special_tokens=False)["input_ids"] if text else []
            if mask in parts[name]:
                raise ValueError(f"`{name}` holds the mask token ({mask}).")
        delimiter, suffix = parts["delimiter"], parts["suffix"]
        ids = [mask] * self.reasoning_length + delimiter + [mask] * self.answer_length + suffix
        before = self.reasoning_length + len(delimiter)
        return ids, [False] * before + [True] * self.answer_length + [False] * len(suffix)

    @staticmethod
    def _encode(
        tokenizer: PreTrainedTokenizerBase, question: Any, chat: bool | None, chat_template_kwargs: dict[str, Any]
    ) -> list[int]:
        with naming(f"The question {question!r}"):
            if isinstance(question, str):
                if not chat:
                    return tokenizer(question)["input_ids"]
                question = [{"role": "user", "content": question}]
            options = {"add_generation_prompt": True} | chat_template_kwargs
            text = tokenizer.apply_chat_template(question, tokenize=False, **options)
            return tokenizer(text, add_special_tokens=False)["input_ids"]


__all__ = ["ReasonedAnswer", "ReasoningTemplate"]
