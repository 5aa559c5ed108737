"""Accuracy over forwards, or over seconds, for a set of decoders, one line a commit rule."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from matplotlib.figure import Figure

from hf_latent.modeling.atomic import replacing


class Measured(Protocol):
    """What is drawn of a decoder: [`~evaluation.DecodingResult`], or anything that says as much."""

    @property
    def settings(self) -> dict[str, Any]: ...
    @property
    def accuracy(self) -> float: ...
    @property
    def standard_error(self) -> float: ...
    @property
    def forwards_per_example(self) -> float: ...
    @property
    def seconds_per_example(self) -> float: ...


Scatter = Callable[[Any], Sequence[float]]


def rule_of(result: Measured) -> str:
    """The line a result is on if nothing else is said: its commit rule."""
    return str(result.settings.get("decoding", "default"))


def plot_accuracy_over_forwards(
    results: Sequence[Measured],
    path: str | Path,
    title: str = "",
    group: Callable[[Measured], str] = rule_of,
    unit: str = "puzzle",
    scatter: Scatter | None = None,
) -> Path:
    """
    Draw the results, one line a `group`, with one standard error, forwards on a logarithmic axis.

    Args:
        scatter: accuracies that a result is the mean of, drawn as dots.
    """
    return _plot(results, path, title, group, unit, lambda result: result.forwards_per_example, "forwards", scatter)


def plot_accuracy_over_seconds(
    results: Sequence[Measured],
    path: str | Path,
    title: str = "",
    group: Callable[[Measured], str] = rule_of,
    unit: str = "puzzle",
    scatter: Scatter | None = None,
) -> Path:
    """
    Draw the results, one line a `group`, with one standard error, wall time in batches on a logarithmic axis.

    Args:
        scatter: accuracies that a result is the mean of, drawn as dots.
    """
    return _plot(results, path, title, group, unit, lambda result: result.seconds_per_example, "seconds", scatter)


def _plot(
    results: Sequence[Measured],
    path: str | Path,
    title: str,
    group: Callable[[Measured], str],
    unit: str,
    cost: Callable[[Measured], float],
    name_of_cost: str,
    scatter: Scatter | None,
) -> Path:
    figure = Figure(figsize=(8.5, 4.4), layout="constrained")
    axis = figure.subplots()
    names = list(dict.fromkeys(map(group, results)))
    markers = "osD^v<>P*Xhd8p"
    for number, name in enumerate(names):
        points = sorted((result for result in results if group(result) == name), key=cost)
        drawn = axis.errorbar(
            [cost(p) for p in points],
            [100 * p.accuracy for p in points],
            yerr=[100 * p.standard_error for p in points],
            marker=markers[number % len(markers)],
            markersize=5,
            linewidth=1.2,
            capsize=2,
            label=name,
        )
        dots = [(cost(p), 100 * value) for p in points for value in (scatter(p) if scatter is not None else ())]
        if dots:
            axis.plot(*zip(*dots, strict=True), ".", color=drawn.lines[0].get_color(), alpha=0.4, markersize=4)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.4g}")
    axis.set(xlabel=f"{name_of_cost} per {unit}", ylabel=f"{unit}s solved, %", title=title)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
    return Path(path)


__all__ = ["plot_accuracy_over_forwards", "plot_accuracy_over_seconds"]
