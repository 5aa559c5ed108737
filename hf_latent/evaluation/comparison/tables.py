"""Comparisons as Markdown tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Comparison = Mapping[str, Any]
Describe = Callable[[Mapping[str, Any]], str]


def comparison_tables(comparisons: Sequence[Comparison], describe: Describe, shares: Sequence[str]) -> str:
    """
    Over several wordings means, spreads and ranks; AUP; differences to the most accurate decoder. Empty if there is
    nothing to compare.

    Args:
        comparisons: see [`compare`].
        describe: settings in one line.
        shares: metrics that are shown in percent.
    """
    blocks = []
    for comparison in comparisons:
        if len(comparison["wordings"]) > 1:
            blocks.append(_wordings(comparison, describe, 100 if comparison["metric"] in shares else 1))
        if len(comparison["decoders"]) > 1:
            blocks += [_areas(comparison)] if "aup" in comparison else []
            blocks += [_differences(comparison, describe)] if "differences" in comparison else []
    return "\n\n".join(blocks)


def _wordings(comparison: Comparison, describe: Describe, scale: int) -> str:
    names = [str(name) for name in comparison["wordings"]]
    digits = 1 if scale == 100 else 4
    heads = ["settings", "mean", "spread", *names, "ranks", "forwards", "tokens per forward", "seconds"]
    rows = []
    for decoder in comparison["decoders"]:
        numbers = [
            f"{scale * value:.{digits}f}" for value in (decoder["value"], decoder["spread"], *decoder["values"])
        ]
        best, worst = min(decoder["ranks"]), max(decoder["ranks"])
        costs = [
            f"{decoder[name]:.{places}f}" if name in decoder else ""
            for name, places in (("forwards_per_example", 2), ("tokens_per_forward", 2), ("seconds_per_example", 3))
        ]
        ranks = str(best) if best == worst else f"{best} to {worst}"
        rows.append([describe(decoder["settings"]), *numbers, ranks, *costs])
    unit = ", %" if scale == 100 else ""
    text = (
        f"{_title(comparison)}, {comparison['metric']}{unit}, over {len(names)} wordings (spread: standard deviation)"
    )
    changes = comparison["order_changes"]
    if changes["of"]:
        text += f"; the order of {changes['pairs']} of {changes['of']} pairs of decoders changes with the wording"
    return f"{text}:\n\n{_table(heads, rows)}"


def _areas(comparison: Comparison) -> str:
    rows = []
    for area in comparison["aup"]:
        scatter = "" if area["spread"] is None else f" (spread {area['spread']:.1f})"
        rows.append([area["decoding"], str(area["num_points"]), f"{area['value']:.1f}{scatter}"])
    return (
        f"{_title(comparison)}, AUP: area under accuracy (%) over tokens per forward:\n\n"
        f"{_table(['decoding', 'points', 'AUP'], rows)}"
    )


def _differences(comparison: Comparison, describe: Describe) -> str:
    """To the most accurate decoder; of equals to the one with the most tokens per forward."""
    decoders = comparison["decoders"]
    best = max(range(len(decoders)), key=lambda n: (decoders[n]["value"], decoders[n].get("tokens_per_forward", 0.0)))
    rows = []
    for pair in comparison["differences"]:
        if best in pair["decoders"]:
            sign = 1 if pair["decoders"][1] == best else -1
            other = pair["decoders"][0 if sign == 1 else 1]
            value = f"{100 * sign * pair['value']:.1f}"
            if pair["standard_error"] is not None:
                value += f" ± {100 * pair['standard_error']:.1f}"
            counts = [str(pair[name]) for name in ("num_better", "num_worse")][::sign]
            rows.append([describe(decoders[other]["settings"]), value, *counts])
    return (
        f"{_title(comparison)}, accuracy less that of {describe(decoders[best]['settings'])}, on the same "
        f"{comparison['num_examples']} examples (± standard error of the paired difference), points:\n\n"
        f"{_table(['settings', 'difference', 'examples better', 'examples worse'], rows)}"
    )


def _title(comparison: Comparison) -> str:
    return f"{comparison['task']}, {comparison['measure']}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


__all__ = ["comparison_tables"]
