"""Puzzles solved by `generate`: accuracy and what it cost, for one setting of the decoder."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.data.numbers import takes_numbers
from hf_latent.data.template import ReasoningTemplate
from hf_latent.evaluation.solving.solving import Layout, Solved, solve
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
        seconds: wall time of all batches, added up over processes.
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

    @classmethod
    def from_solved(cls, settings: dict[str, Any], solved: Sequence[Solved]) -> "DecodingResult":
        """The result of examples that were solved, wherever and whenever."""
        if not solved:
            raise ValueError("`solved` must hold at least one example, got none.")
        num = len(solved)
        forwards, refined = (sum(getattr(s, name) for s in solved) for name in ("forwards", "refinement_forwards"))
        return cls(
            settings=dict(settings),
            num_correct=sum(s.correct for s in solved),
            num_examples=num,
            forwards_per_example=forwards / num,
            tokens_per_forward=sum(s.tokens for s in solved) / max(forwards, 1),
            seconds=math.fsum(s.seconds for s in solved),
            correct=tuple(s.correct for s in solved),
            leftmost_share=_mean_of_known([s.leftmost_share for s in solved]),
            leftmost_distance=_mean_of_known([s.leftmost_distance for s in solved]),
            exit_share=sum(s.exited for s in solved) / num,
            refinement_share=refined / max(forwards, 1),
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DecodingResult":
        """From what `to_dict` gave; other names are left out, as are the single puzzles."""
        names = {field.name for field in fields(cls)} - {"correct"}
        known: dict[str, Any] = {
            name: float("nan") if values[name] is None else values[name] for name in names & values.keys()
        }
        return cls(**known, correct=())

    @property
    def seconds_per_example(self) -> float:
        """Wall time of an example, in batches."""
        return self.seconds / self.num_examples

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the list of single puzzles."""
        values = asdict(self)
        values.pop("correct")
        values = {name: None if value != value else value for name, value in values.items()}  # JSON has no nan
        return values | {"accuracy": self.accuracy, "standard_error": self.standard_error}


def _mean_of_known(values: Sequence[float]) -> float:
    known = [value for value in values if value == value]
    return math.fsum(known) / len(known) if known else float("nan")


@takes_numbers
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

    Noise is a function of `seed` and a puzzle's place, whatever the batch size.

    Args:
        puzzles: instances of the task, with the `prompt` that `task.format` gives.
        template: what to fill in behind each prompt; without it `task.completion_length` tokens are appended.
        on_batch: called with the number of puzzles done since the last call, for a progress bar.
        generation_kwargs: arguments of `generate`, e.g. `decoding="med"`.
    """
    if not puzzles:
        raise ValueError("`puzzles` must hold at least one puzzle, got none.")
    layout = Layout(template, max_new_tokens=task.completion_length, completion_length=task.completion_length)
    solved: list[Solved] = []
    for batch in solve(
        model,
        tokenizer,
        [puzzle["prompt"] for puzzle in puzzles],
        lambda number, text: task.is_solved(puzzles[number], text),
        layout=layout,
        batch_size=batch_size,
        **generation_kwargs,
    ):
        solved += batch
        if on_batch is not None:
            on_batch(len(batch))
    return DecodingResult.from_solved(generation_kwargs, solved)


__all__ = ["DecodingResult", "solve_puzzles"]
