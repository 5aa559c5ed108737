"""Prompts answered by `generate` and judged one by one; what each cost."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.checkpoints.default_length import default_length
from hf_latent.data.embeddings import check_pair
from hf_latent.data.numbers import takes_numbers
from hf_latent.data.template import ReasoningTemplate
from hf_latent.evaluation.scoring.encoding import encode_context
from hf_latent.generation.arguments.devices import find_device
from hf_latent.generation.output import DiffusionGenerateOutput
from hf_latent.modeling.mode import evaluation_mode

Inputs = dict[str, torch.Tensor]
SEED_STRIDE = 1_000_003  # between the seeds of two evaluations: more than there are prompts


@dataclass(frozen=True)
class Layout:
    """
    How a prompt becomes the model's input, and which text of the output is looked at.

    Args:
        template: what to fill in behind each prompt. The text is then the answer.
        max_new_tokens: how much to append without a template; the checkpoint's own, or 128, if None.
        chat: whether prompts given as text go through the chat template; messages always do.
        completion_length: if given, the text is that of this many last tokens, special tokens included.
        stop: texts at the first of which what was written ends.
    """

    template: ReasoningTemplate | None = None
    max_new_tokens: int | None = None
    chat: bool = False
    completion_length: int | None = None
    stop: tuple[str, ...] = ()

    def encode(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any]) -> Inputs:
        """Inputs of `generate` `(B, L)`, padded on the left."""
        if self.template is not None:
            mask = None if tokenizer.mask_token_id is not None else getattr(model.config, "mask_token_id", None)
            return dict(self.template.apply(tokenizer, list(prompts), chat=self.chat, mask_token_id=mask))
        rows = [torch.tensor(encode_context(tokenizer, p, chat=self.chat), dtype=torch.int64) for p in prompts]

        def stack(values: list[torch.Tensor], filling: int) -> torch.Tensor:
            return pad_sequence(values, batch_first=True, padding_value=filling, padding_side="left")

        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        return {
            "input_ids": stack(rows, pad or 0),
            "attention_mask": stack([torch.ones_like(row) for row in rows], 0),
        }

    def read(self, tokenizer: PreTrainedTokenizerBase, sequences: torch.Tensor, inputs: Inputs) -> list[str]:
        """What was written, of sequences `(B, L)`."""
        if self.completion_length is not None:
            # Padded on the left, a template's masks end where the rows end.
            width = inputs["input_ids"].shape[1]
            begin = width - (0 if self.template is None else self.completion_length)
            texts = tokenizer.batch_decode(sequences[:, begin:])
        elif self.template is not None:
            texts = [text.answer for text in self.template.split(tokenizer, sequences, inputs["answer_mask"])]
        else:
            texts = tokenizer.batch_decode(sequences[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [cut(text, self.stop) for text in texts]


def cut(text: str, stop: Sequence[str]) -> str:
    """`text` up to the first of the `stop` texts in it."""
    ends = [text.find(word) for word in stop if word and word in text]
    return text[: min(ends)] if ends else text


@dataclass(frozen=True)
class Solved:
    """
    What became of one prompt.

    Args:
        correct: as its judge says.
        text: what was judged.
        forwards: of its row.
        tokens: committed.
        seconds: its share of the wall time of its batch.
        leftmost_share, leftmost_distance: see `DiffusionGenerateOutput`; nan where no rule has chosen.
        exited: whether it stopped reasoning early.
        refinement_forwards: those of `forwards` that only refined.
    """

    correct: bool
    text: str
    forwards: int
    tokens: int
    seconds: float
    leftmost_share: float
    leftmost_distance: float
    exited: bool
    refinement_forwards: int


@takes_numbers
def solve(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Any],
    judge: Callable[[int, str], bool],
    *,
    layout: Layout,
    batch_size: int = 64,
    row_indices: Sequence[int] | None = None,
    **generation_kwargs: Any,
) -> Iterator[list[Solved]]:
    """
    Let `model` answer the prompts and have the answers judged, batch by batch.

    Args:
        prompts: texts, or lists of messages.
        judge: whether the text written behind the prompt of this number (in `prompts`) is right.
        row_indices: the prompts' numbers in the noise; by default 0, 1, ... With them and a `seed`, what is written
            for a prompt depends on neither the batch nor on what else is asked. (Of a model that writes from left to
            right only without sampling: its noise is that of the batch.)
        generation_kwargs: arguments of `generate`, e.g. `decoding="med"`.
    """
    if layout.template is not None and not hasattr(model, "infill"):
        raise ValueError(
            f"`template` is filled in by models that write in any order, got {type(model).__name__}: leave it out "
            "(`--no-template` on the command line)."
        )
    check_pair(model, tokenizer)
    length = {}
    if layout.template is None and layout.max_new_tokens is not None:
        length = {"max_new_tokens": layout.max_new_tokens}
    elif not generation_kwargs.keys() & {"max_new_tokens", "max_length"}:
        length = default_length(model)
    numbers = list(range(len(prompts)) if row_indices is None else row_indices)
    is_diffusion = hasattr(model, "infill")
    # One that writes from left to right draws as transformers does, from the global generator.
    seed = None if is_diffusion else generation_kwargs.pop("seed", None)
    device = find_device(model)
    for first in range(0, len(prompts), batch_size):
        start = time.perf_counter()
        inputs = layout.encode(model, tokenizer, prompts[first : first + batch_size])
        some = numbers[first : first + batch_size]
        if seed is not None:
            torch.manual_seed(seed * SEED_STRIDE + some[0])
        with evaluation_mode(model):
            output = model.generate(
                **{name: values.to(device) for name, values in inputs.items()},
                return_dict_in_generate=True,
                **length,
                **({"row_indices": some} if is_diffusion else {}),
                **generation_kwargs,
            )
        texts = layout.read(tokenizer, output.sequences.cpu(), inputs)  # waits for the device
        seconds = (time.perf_counter() - start) / len(texts)
        correct = [judge(first + i, text) for i, text in enumerate(texts)]
        if isinstance(output, DiffusionGenerateOutput):
            yield list(_collect(output, correct, texts, seconds))
        else:
            written = output.sequences[:, inputs["input_ids"].shape[1] :]
            yield list(_collect_causal(output, count_written(model, written), correct, texts, seconds))


def count_written(model: PreTrainedModel, written: torch.Tensor) -> list[int]:
    """Tokens up to a row's end-of-sequence token, of what an autoregressive model has written `(B, L)`."""
    ends = model.generation_config.eos_token_id
    is_end = torch.isin(written, torch.tensor(ends if ends is not None else [], device=written.device).reshape(-1))
    return (1 + (is_end.cumsum(-1) == 0)[:, : written.shape[1] - 1].sum(-1)).tolist()


def _collect_causal(
    output: Any, written: Sequence[int], correct: Sequence[bool], texts: Sequence[str], seconds: float
) -> Iterator[Solved]:
    forwards = getattr(output, "num_forward_passes", None)
    forwards = list(written) if forwards is None else forwards.tolist()
    for right, text, num_forwards, tokens in zip(correct, texts, forwards, written, strict=True):
        yield Solved(right, text, num_forwards, tokens, seconds, 1.0, 0.0, False, 0)


def _collect(
    output: DiffusionGenerateOutput, correct: Sequence[bool], texts: Sequence[str], seconds: float
) -> Iterator[Solved]:
    def column(values: Any, missing: Any) -> list[Any]:
        return [missing] * len(texts) if values is None else values.tolist()

    committed = (cast(torch.Tensor, output.commit_step) >= 0).sum(-1)
    columns = (
        column(output.num_forward_passes, 0),
        column(committed, 0),
        column(output.leftmost_share, float("nan")),
        column(output.leftmost_distance, float("nan")),
        column(None if output.exit_step is None else output.exit_step >= 0, False),
        column(output.num_refinement_passes, 0),
    )
    for right, text, forwards, tokens, share, distance, exited, refined in zip(correct, texts, *columns, strict=True):
        yield Solved(right, text, forwards, tokens, seconds, share, distance, exited, refined)


__all__ = ["Layout", "Solved", "cut", "solve"]
