"""Puzzles solved by `generate`: accuracy and what it cost, for one setting of the decoder."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.data.template import ReasoningTemplate
from hf_latent.generation.output import DiffusionGenerateOutput
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
        leftmost_share, leftmost_distance: means of the puzzles' own; see `DiffusionGenerateOutput`.
        exit_share: share of puzzles that stopped reasoning early; 0 without a template.
        refinement_share: share of the forwards that only refined.
    """

    settings: dict[str, Any]
    num_correct: int
    num_examples: int
    forwards_per_example: float
    tokens_per_forward: float
    seconds: float
    correct: tuple[bool, ...]
    leftmost_share: float = float("nan")
    leftmost_distance: float = float("nan")
    exit_share: float = 0.0
    refinement_share: float = 0.0

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
        values = {name: None if value != value else value for name, value in values.items()}  # JSON has no nan
        return values | {"accuracy": self.accuracy, "standard_error": self.standard_error}


def solve_puzzles(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    puzzles: Sequence[dict[str, Any]],
    *,
    template: ReasoningTemplate | None = None,
    batch_size: int = 64,
    on_batch: Callable[[int], None] | None = None,
    **generation_kwargs: Any,
) -> DecodingResult:
    """
    Let `model` complete the `prompt` of every puzzle and verify the answers with `task`.

    Args:
        puzzles: instances of the task, with the `prompt` that `task.format` gives.
        template: what to fill in behind each prompt; without it `task.completion_length` tokens are appended.
        on_batch: called with the number of puzzles done since the last call, for a progress bar.
        generation_kwargs: arguments of `generate`, e.g. `decoding="med"`.
    """
    if not puzzles:
        raise ValueError("`puzzles` must hold at least one puzzle, got none.")
    correct: list[bool] = []
    reports: list[DiffusionGenerateOutput] = []
    committed = 0
    start = time.perf_counter()
    for first in range(0, len(puzzles), batch_size):
        batch = [puzzles[i] for i in range(first, min(first + batch_size, len(puzzles)))]
        prompts = [p["prompt"] for p in batch]
        if template is None:
            inputs = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt")
            inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
            length = {"max_new_tokens": task.completion_length}
        else:
            inputs, length = template.apply(tokenizer, prompts), {}
        output = model.generate(
            **{name: values.to(model.device) for name, values in inputs.items()},
            return_dict_in_generate=True,
            **length,
            **generation_kwargs,
        )
        # Padded on the left, a template's masks end where the rows end.
        begin = inputs["input_ids"].shape[1] - (0 if template is None else task.completion_length)
        texts = tokenizer.batch_decode(output.sequences[:, begin:])
        correct += [task.is_solved(p, text) for p, text in zip(batch, texts, strict=True)]
        reports.append(output)
        committed += int((output.commit_step >= 0).sum())
        if on_batch is not None:
            on_batch(len(batch))
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    forwards = int(sum(cast(torch.Tensor, report.num_forward_passes).sum() for report in reports))
    refined = [report.num_refinement_passes for report in reports if report.num_refinement_passes is not None]
    exits = [report.exit_step >= 0 for report in reports if report.exit_step is not None]
    return DecodingResult(
        settings=dict(generation_kwargs),
        num_correct=sum(correct),
        num_examples=len(correct),
        forwards_per_example=forwards / len(correct),
        tokens_per_forward=committed / max(forwards, 1),
        seconds=seconds,
        correct=tuple(correct),
        leftmost_share=float(torch.cat([report.leftmost_share for report in reports]).nanmean()),
        leftmost_distance=float(torch.cat([report.leftmost_distance for report in reports]).nanmean()),
        exit_share=sum(int(exit.sum()) for exit in exits) / len(correct),
        refinement_share=sum(int(r.sum()) for r in refined) / max(forwards, 1),
    )


__all__ = ["DecodingResult", "solve_puzzles"]
