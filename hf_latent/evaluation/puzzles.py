"""Puzzles solved by `generate`: accuracy and what it cost, for one setting of the decoder."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.tasks.task import Task


@dataclass(frozen=True)
class DecodingResult:
    """
    What a decoder did on a set of puzzles.

    Args:
        settings: the arguments of `generate`.
        num_correct, num_examples: solved puzzles of all.
        forwards_per_example: mean forwards of a puzzle.
        tokens_per_forward: tokens written divided by forwards, over all puzzles.
        seconds: wall time of everything, in batches.
        correct: which puzzles were solved, in order.
    """

    settings: dict[str, Any]
    num_correct: int
    num_examples: int
    forwards_per_example: float
    tokens_per_forward: float
    seconds: float
    correct: tuple[bool, ...]

    @property
    def accuracy(self) -> float:
        """Share of puzzles solved."""
        return self.num_correct / self.num_examples

    @property
    def standard_error(self) -> float:
        """Of the accuracy, from the binomial distribution."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.num_examples)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the list of single puzzles."""
        values = asdict(self)
        values.pop("correct")
        return values | {"accuracy": self.accuracy, "standard_error": self.standard_error}


def solve_puzzles(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    puzzles: Sequence[dict[str, Any]],
    *,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
    **generation_kwargs: Any,
) -> DecodingResult:
    """
    Let `model` complete the `prompt` of every puzzle and verify the answers with `task`.

    Args:
        puzzles: instances of the task, with the `prompt` that `task.format` gives.
        on_batch: called with the number of puzzles done since the last call, for a progress bar.
        generation_kwargs: arguments of `generate`, e.g. `decoding="med"`.
    """
    if not puzzles:
        raise ValueError("`puzzles` must hold at least one puzzle, got none.")
    correct: list[bool] = []
    forwards = committed = 0
    start = time.perf_counter()
    for first in range(0, len(puzzles), batch_size):
        batch = [puzzles[i] for i in range(first, min(first + batch_size, len(puzzles)))]
        inputs = tokenizer([p["prompt"] for p in batch], padding=True, padding_side="left", return_tensors="pt")
        output = model.generate(
            inputs["input_ids"].to(model.device),
            attention_mask=inputs["attention_mask"].to(model.device),
            max_new_tokens=task.completion_length,
            return_dict_in_generate=True,
            **generation_kwargs,
        )
        texts = tokenizer.batch_decode(output.sequences[:, inputs["input_ids"].shape[1] :])
        correct += [task.is_solved(p, text) for p, text in zip(batch, texts, strict=True)]
        forwards += int(output.num_forward_passes.sum())
        committed += int((output.commit_step >= 0).sum())
        if on_batch is not None:
            on_batch(len(batch))
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return DecodingResult(
        settings=dict(generation_kwargs),
        num_correct=sum(correct),
        num_examples=len(correct),
        forwards_per_example=forwards / len(correct),
        tokens_per_forward=committed / max(forwards, 1),
        seconds=time.perf_counter() - start,
        correct=tuple(correct),
    )


__all__ = ["DecodingResult", "solve_puzzles"]
