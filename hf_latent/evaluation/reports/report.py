"""Results of `hf-latent eval`: one JSON file that only grows, a Markdown table, and plots."""

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_latent.data.json_files import read_json_object
from hf_latent.evaluation.comparison.compare import compare
from hf_latent.evaluation.comparison.tables import comparison_tables
from hf_latent.evaluation.reports.plots import plot_decoders, plot_over_wordings
from hf_latent.evaluation.solving.puzzles import DecodingResult
from hf_latent.modeling.atomic import alone_in, write_atomically

Entry = dict[str, Any]
SHARES = ("accuracy", "acc", "acc_norm", "exact_match")  # of 1, shown in percent


def read_entries(path: str | Path) -> list[Entry]:
    """The entries of a `results.json`; none if there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    entries = read_json_object(path).get("results")
    if not isinstance(entries, list):
        raise ValueError(f"{path} holds no list of `results`: give another folder, or move it away.")
    return entries


def put_entry(path: str | Path, entry: Entry) -> list[Entry]:
    """
    Write `entry` into `results.json`: in the place of the one with its `run` and number of examples, or at the end.

    The file is replaced as a whole; an interruption leaves the previous one. Comparisons in it go: they were of the
    entries before. Returns all entries.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(path.parent):  # of two evaluations into one folder, neither writes over what the other has added
        entries = read_entries(path)
        places = [n for n, known in enumerate(entries) if identity_of(known) == identity_of(entry)]
        if places:
            entries[places[0]] = entry
        else:
            entries.append(entry)
        write_atomically(path, json.dumps({"results": entries}, indent=1, allow_nan=False) + "\n")
    return entries


def identity_of(entry: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes an entry another one: task, run, and the examples it is about."""
    return tuple(json.dumps(entry.get(name)) for name in ("task", "run", "num_examples", "source"))


def describe_settings(settings: Mapping[str, Any]) -> str:
    """Settings in one line: the rule or estimator, then its knobs; not the seed."""
    first = [str(settings[name]) for name in ("decoding", "estimator") if name in settings]
    hidden = ["decoding", "estimator", "seed"]
    if settings.get("estimator") == "chain":
        hidden = [*hidden, "num_samples"]
    return ", ".join([*first, *(f"{name}={value}" for name, value in settings.items() if name not in hidden)])


def model_label(about: Mapping[str, Any] | None) -> str:
    """Short name of a model, and of its adapter if it has one: of what an entry has as `model`."""
    about = about or {}
    names = [Path(str(about[name])).resolve().name for name in ("name", "adapter") if about.get(name)]
    return "+".join(names) or "model"


def table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Every entry a row, as Markdown; with a column for the model where there are several."""
    labels = [model_label(e.get("model")) for e in entries]
    heads = ["task", "measure", "settings", "metric", "value", "n", "forwards", "tokens per forward", "seconds"]
    several, worded = len(set(labels)) > 1, any("wording" in e for e in entries)
    if worded:
        heads.insert(2, "wording")
    heads = ["model", *heads] if several else heads
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for label, e in zip(labels, entries, strict=True):
        scale, digits, unit = (100, 1, " %") if e["metric"] in SHARES else (1, 4, "")
        value = f"{scale * e['value']:.{digits}f}"
        if e.get("standard_error") is not None:
            value += f" ± {scale * e['standard_error']:.{digits}f}"
        costs = [f"{e[name]:.2f}" if name in e else "" for name in ("forwards_per_example", "tokens_per_forward")]
        per_example = e["seconds"] / e["num_examples"] if "seconds" in e else e.get("seconds_per_request")
        seconds = "" if per_example is None else f"{per_example:.3f}"
        cells = [e["task"], e["measure"], describe_settings(e["settings"]), e["metric"], value + unit]
        if worded:
            cells.insert(2, e.get("wording", ""))
        cells = [label, *cells] if several else cells
        lines.append("| " + " | ".join([*cells, str(e["num_examples"]), *costs, seconds]) + " |")
    return "\n".join(lines)


def put_comparisons(path: Path, comparisons: Sequence[Mapping[str, Any]]) -> None:
    """Write what was compared behind the entries of a `results.json`."""
    with alone_in(path.parent):
        content = {"results": read_entries(path), "comparisons": list(comparisons)}
        write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def results_of(entries: Sequence[Mapping[str, Any]], task: str) -> list[DecodingResult]:
    """The exact matches of a task by decoder, its questions as they stand, for plots."""
    return [
        DecodingResult.from_dict(e)
        for e in entries
        if e["task"] == task and e["measure"] == "exact_match" and "wording" not in e
    ]


def show_comparisons(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """[`comparison_tables`], settings and units as in the table of entries."""
    return comparison_tables(comparisons, describe_settings, SHARES)


def plot_stem(task: str, label: str | None) -> str:
    """What the names of a task's plots begin with; with a model's label in a folder of several."""
    return Path(task).stem if label is None else f"{Path(task).stem}_{label}"


def write_report(folder: Path, entries: Sequence[Mapping[str, Any]]) -> list[Path]:
    """
    Write `results.md` and, for tasks with more than one decoder, accuracy over forwards and over seconds, over several
    wordings, too.
    """
    comparisons = compare(entries)
    commands = list(dict.fromkeys(e["command"] for e in entries))
    compared = show_comparisons(comparisons)
    text = "\n\n".join([table(entries), *([compared] if compared else [])])
    path = folder / "results.md"
    note = "Seconds are wall time of an example, in batches. Made by"
    write_atomically(path, f"{text}\n\n{note}\n\n" + "".join(f"    {command}\n" for command in commands))
    written = [path]
    labels = dict.fromkeys(model_label(e.get("model")) for e in entries)
    for task, label in itertools.product(dict.fromkeys(e["task"] for e in entries), labels):
        stem = plot_stem(task, label if len(labels) > 1 else None)
        results = results_of([e for e in entries if model_label(e.get("model")) == label], task)
        if len(results) > 1:
            written += plot_decoders(folder, stem, task, results)
        worded = [
            c
            for c in comparisons
            if (c["task"], c["measure"], model_label(c["model"])) == (task, "exact_match", label)
            and min(len(c["wordings"]), len(c["decoders"])) > 1
        ]
        if worded:  # of several, what was measured most
            most = max(worded, key=lambda c: len(c["wordings"]) * len(c["decoders"]))
            written += plot_over_wordings(folder, f"{stem}_wordings", most)
    return written


__all__ = [
    "describe_settings",
    "model_label",
    "plot_stem",
    "put_comparisons",
    "put_entry",
    "read_entries",
    "results_of",
    "show_comparisons",
    "table",
    "write_report",
]
