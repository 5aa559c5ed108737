"""Plots of a report: accuracy over forwards and over seconds, one line a commit rule, each with its AUP."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_latent.evaluation.comparison.compare import line_of
from hf_latent.evaluation.comparison.parallelism import accuracy_under_parallelism
from hf_latent.evaluation.solving.puzzles import DecodingResult


@dataclass(frozen=True)
class OverWordings:
    """A decoder's means over several wordings; `standard_error` is the standard deviation over them."""

    settings: dict[str, Any]
    accuracy: float
    standard_error: float
    accuracies: list[float]
    forwards_per_example: float
    tokens_per_forward: float
    seconds_per_example: float


def plot_decoders(folder: Path, stem: str, task: str, results: Sequence[DecodingResult]) -> list[Path]:
    """Draw decoders on questions as they stand; the files."""
    title = f"{task}, {results[0].num_examples} examples"
    return _draw(folder, stem, title, results)


def plot_over_wordings(folder: Path, stem: str, comparison: Mapping[str, Any]) -> list[Path]:
    """Draw the means of a comparison over several wordings, with every wording as a dot; the files."""
    results = [
        OverWordings(
            settings=decoder["settings"],
            accuracy=decoder["value"],
            standard_error=decoder["spread"] or 0.0,
            accuracies=decoder["values"],
            **{name: decoder[name] for name in ("forwards_per_example", "tokens_per_forward", "seconds_per_example")},
        )
        for decoder in comparison["decoders"]
    ]
    title = f"{comparison['task']}, {comparison['num_examples']} examples, mean and standard deviation over "
    title += f"{len(comparison['wordings'])} wordings"
    return _draw(folder, stem, title, results, scatter=lambda result: result.accuracies)


def _draw(folder: Path, stem: str, title: str, results: Sequence[Any], **options: Any) -> list[Path]:
    from hf_latent.viz import plot_accuracy_over_forwards, plot_accuracy_over_seconds

    group = name_lines(results)
    return [
        draw(results, folder / f"{stem}_accuracy_over_{name}.png", title, group=group, unit="example", **options)
        for name, draw in (("forwards", plot_accuracy_over_forwards), ("seconds", plot_accuracy_over_seconds))
    ]


def name_lines(
    results: Sequence[Any], line: Callable[[Any], str] = lambda result: line_of(result.settings)
) -> Callable[[Any], str]:
    """The name of a result's line, by default its commit rule, with the AUP of all results on that line."""
    best = max(result.accuracy for result in results)
    lines: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        lines.setdefault(line(result), []).append((result.tokens_per_forward, result.accuracy))
    names = dict(zip(lines, lines, strict=True))
    for name, points in lines.items():
        if all(rate > 0 for rate, _ in points):
            names[name] = f"{name} (AUP {accuracy_under_parallelism(points, best):.1f})"
    return lambda result: names[line(result)]


__all__ = ["OverWordings", "name_lines", "plot_decoders", "plot_over_wordings"]
