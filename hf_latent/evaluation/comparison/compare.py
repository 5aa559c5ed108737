"""What the results of several decoders, in several wordings, say together: means, spreads, ranks, AUP, differences."""

import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_latent.evaluation.comparison.paired import paired_difference
from hf_latent.evaluation.comparison.parallelism import accuracy_under_parallelism

Entry = Mapping[str, Any]
LOWER_IS_BETTER = ("nats_per_token",)
COSTS = ("forwards_per_example", "tokens_per_forward")


def compare(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """
    Compare what is comparable: decoders of one model on the same examples, measured in the same wordings.

    Args:
        entries: of a results file.

    Returns:
        JSON objects, one for each set of at least two decoders or wordings:
        - `task`, `measure`, `metric`, `model`, `num_examples`, and `wordings`, their names (`[None]` for questions as
          they stand).
        - `decoders`: of each its `settings`, its `values` in each wording, their mean `value`, their `spread`
          (standard deviation over the wordings, n - 1; None for one), its `ranks` in each wording (1 is best, equals
          share the better rank), and means of its costs.
        - `order_changes`: pairs of decoders of which each is better than the other in some wording; `of` all pairs.
        - `aup`, of exact matches: for each commit rule the `value` of [`accuracy_under_parallelism`] of its decoders'
          means, its `values` in each wording and their `spread`.
        - `differences`, of right and wrong answers: for each pair of decoders (their places) `value`, `standard_error`
          and more of [`paired_difference`]; over several wordings, of an example's means over them.
    """
    groups: dict[str, dict[str, dict[str, Entry]]] = {}
    for entry in entries:
        if entry["measure"] != "harness":
            of_group = groups.setdefault(_group(entry), {})
            of_group.setdefault(json.dumps(entry["settings"]), {})[_template(entry)] = entry
    found = []
    for decoders in groups.values():
        alike: dict[frozenset[str], list[dict[str, Entry]]] = {}
        for worded in decoders.values():
            alike.setdefault(frozenset(worded), []).append(worded)
        found += [_compare(alike[each]) for each in alike if len(alike[each]) > 1 or len(each) > 1]
    return found


def line_of(settings: Mapping[str, Any]) -> str:
    """The curve that a decoder is a point of: its commit rule."""
    return str(settings.get("decoding", "default"))


def _template(entry: Entry) -> str:
    return str(entry.get("identity", {}).get("template", ""))


def _group(entry: Entry) -> str:
    """Model, examples, noise, and how it was asked, but for the template; questions as they stand are no wording."""
    identity = {name: value for name, value in entry.get("identity", {}).items() if name != "template"}
    model = {name: (entry.get("model") or {}).get(name) for name in ("name", "adapter", "revision")}
    examples = entry.get("examples") or entry.get("source")
    names = [entry[name] for name in ("task", "measure", "metric", "num_examples")]
    return json.dumps([model, names, examples, identity, entry["settings"].get("seed"), "wording" in entry])


def _compare(decoders: Sequence[Mapping[str, Entry]]) -> dict[str, Any]:
    """Decoders (template to entry, the same templates each)."""
    templates = list(decoders[0])
    some = decoders[0][templates[0]]
    sign = -1 if some["metric"] in LOWER_IS_BETTER else 1
    values = [[worded[template]["value"] for template in templates] for worded in decoders]
    ranks = [
        [1 + sum(sign * other[w] > sign * value for other in values) for w, value in enumerate(of)] for of in values
    ]
    pairs = list(itertools.combinations(range(len(decoders)), 2))
    changed = sum(
        any(values[a][w] > values[b][w] for w in range(len(templates)))
        and any(values[a][w] < values[b][w] for w in range(len(templates)))
        for a, b in pairs
    )
    result = {
        **{name: some[name] for name in ("task", "measure", "metric", "num_examples")},
        "model": some.get("model"),
        "wordings": [decoders[0][template].get("wording") for template in templates],
        "decoders": [
            {
                "settings": worded[templates[0]]["settings"],
                "value": statistics.fmean(of),
                "spread": spread(of),
                "values": of,
                "ranks": rank,
                **_mean_costs([worded[template] for template in templates]),
            }
            for worded, of, rank in zip(decoders, values, ranks, strict=True)
        ],
        "order_changes": {"pairs": changed, "of": len(pairs)},
    }
    if some["measure"] == "exact_match" and all(decoder["tokens_per_forward"] > 0 for decoder in result["decoders"]):
        result["aup"] = _aup(result["decoders"], decoders, templates)
    right = [_right(worded, templates) for worded in decoders]
    if all(right):
        result["differences"] = [_difference(right, a, b) for a, b in pairs]
    return result


def spread(values: Sequence[float]) -> float | None:
    """Standard deviation of a sample (n - 1); None of one value."""
    return statistics.stdev(values) if len(values) > 1 else None


def _mean_costs(entries: Sequence[Entry]) -> dict[str, float]:
    costs = {name: statistics.fmean(e[name] for e in entries) for name in COSTS if all(name in e for e in entries)}
    return costs | {"seconds_per_example": statistics.fmean(e["seconds"] / e["num_examples"] for e in entries)}


def _aup(
    means: Sequence[Mapping[str, Any]], decoders: Sequence[Mapping[str, Entry]], templates: Sequence[str]
) -> list[dict[str, Any]]:
    """Of every commit rule; the best accuracy is that of all, in the same wording."""
    lines = [line_of(decoder["settings"]) for decoder in means]

    def areas(points: Sequence[tuple[float, float]]) -> dict[str, float]:
        best = max(accuracy for _, accuracy in points)
        return {
            name: accuracy_under_parallelism([p for p, line in zip(points, lines, strict=True) if line == name], best)
            for name in dict.fromkeys(lines)
        }

    def point(entry: Mapping[str, Any]) -> tuple[float, float]:
        return entry["tokens_per_forward"], entry["value"]

    of_means = areas([point(decoder) for decoder in means])
    each = [areas([point(worded[template]) for worded in decoders]) for template in templates]
    return [
        {
            "decoding": name,
            "num_points": lines.count(name),
            "value": value,
            "values": [of_wording[name] for of_wording in each],
            "spread": spread([of_wording[name] for of_wording in each]),
        }
        for name, value in of_means.items()
    ]


def _right(worded: Mapping[str, Entry], templates: Sequence[str]) -> list[float]:
    """Of each example the share of wordings in which it is right; empty where single answers are not known."""
    marks = [worded[template].get("correct") for template in templates]
    if not all(isinstance(each, str) for each in marks):
        return []
    return [statistics.fmean(map(int, of_example)) for of_example in zip(*marks, strict=True)]


def _difference(right: Sequence[Sequence[float]], a: int, b: int) -> dict[str, Any]:
    found = paired_difference(right[a], right[b])
    return {
        "decoders": [a, b],
        "value": found.value,
        "standard_error": None if math.isnan(found.standard_error) else found.standard_error,
        "num_examples": found.num_examples,
        "num_better": found.num_better,
        "num_worse": found.num_worse,
    }


__all__ = ["compare", "line_of", "spread"]
