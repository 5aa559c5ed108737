"""Held-out puzzles for the checkpoints that were trained on puzzles: a prompt to start with, and a judge."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Words:
    """
    What the page calls the text that a visitor gives, and what is done with it.

    Args:
        prompt: label of the text.
        run: on the button that runs.
        another: on the button for another example.
        hint: what the text looks like.
    """

    prompt: str
    run: str
    another: str
    hint: str = ""


ANY_WORDS = Words("prompt", "Generate", "New example")
WORDS = {
    "sudoku": Words("puzzle", "Solve", "New puzzle", "A dot is an open cell; the solved board comes behind the =."),
    "arithmetic": Words(
        "question", "Answer", "New question", "A word problem; reasoning and answer are filled in together."
    ),
}


def words_of(about: Mapping[str, Any]) -> Words:
    """The words for a checkpoint with this `task.json`."""
    return WORDS.get(str(about.get("task")), ANY_WORDS)


@dataclass(frozen=True)
class Example:
    """
    A puzzle.

    Args:
        prompt: what the model is given.
        mode: how the page is to run it; see `hf_latent.app.form.MODES`.
        fields: values of the form's fields of the same names.
        judge: whether a decoded completion, special tokens included, solves it.
    """

    prompt: str
    mode: str
    fields: dict[str, str]
    judge: Callable[[str], bool]


TEMPLATE_FIELDS = ("reasoning_length", "answer_length", "delimiter", "early_exit_threshold")


def has_examples(about: Mapping[str, Any]) -> bool:
    """Whether there are puzzles for a checkpoint with this `task.json`."""
    return about.get("task") in ("sudoku", "arithmetic")


def example_of(about: Mapping[str, Any], number: int) -> Example:
    """
    A held-out puzzle for a checkpoint with this `task.json`; the same `number` gives the same puzzle.

    Raises:
        ValueError: for a checkpoint without puzzles.
    """
    from hf_latent.evaluation.metric_specs import MetricOptions, build_metric
    from hf_latent.evaluation.metrics import ExactMatch

    if not has_examples(about):
        raise ValueError(f"there are puzzles for sudoku and arithmetic checkpoints only, got {about.get('task')!r}.")
    metric = build_metric(about["task"], MetricOptions(limit=1, task_seed=number), about)
    assert isinstance(metric, ExactMatch)
    fields = {name: str(about[name]) for name in TEMPLATE_FIELDS if about.get(name) is not None}
    if "reasoning_length" in fields:
        mode = "reason"
    else:
        mode = "append"
        fields["max_new_tokens"] = str(metric.layout.max_new_tokens)
    return Example(metric.prompts[0], mode, fields, lambda completion: bool(metric.judge(0, completion)))


__all__ = ["ANY_WORDS", "Example", "Words", "example_of", "has_examples", "words_of"]
