"""The measured rows of a card, read from the results files of its folder."""

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_latent.data.json_files import read_json
from hf_latent.evaluation.reports.report import SHARES, describe_settings, put_entry
from hf_latent.evaluation.reports.results import describe
from hf_latent.evaluation.solving.puzzles import DecodingResult
from hf_latent.modeling.travel import write_atomically

EVAL_RESULTS = "eval_results.json"  # written by `hf-latent eval --card`
RUN_FILES = ("run.json", "results.json", "training_log.jsonl", "training_curve.png")


@dataclass(frozen=True)
class Evaluation:
    """
    One measured number of a card.

    Args:
        task: what was solved, e.g. `"sudoku-4x4"`.
        decoding: the knobs, e.g. `"med, entropy_threshold=0.1"`.
        metric: e.g. `"accuracy"`.
        value: in [0, 1] for accuracies.
        standard_error: of `value`; None where it is not known.
        num_examples: instances it was measured on.
        forwards: mean forwards per instance; None where nothing was generated.
        tokens_per_forward: written tokens divided by forwards; None where nothing was generated.
        seconds: wall time of an instance, in batches; None where it was not kept.
        command: what made it.
        settings: arguments of `generate`, or of the estimator.
        file: the results file that holds it.
    """

    task: str
    decoding: str
    metric: str
    value: float
    standard_error: float | None
    num_examples: int
    forwards: float | None
    tokens_per_forward: float | None
    seconds: float | None = None
    command: str = ""
    settings: Mapping[str, Any] | None = None
    file: str = ""


def evaluation_of(task: str, result: DecodingResult, command: str = "", file: str = "") -> Evaluation:
    """A row of a card from what `solve_puzzles` has measured."""
    return Evaluation(
        task=task,
        decoding=describe(result.settings),
        metric="accuracy",
        value=result.accuracy,
        standard_error=result.standard_error,
        num_examples=result.num_examples,
        forwards=result.forwards_per_example,
        tokens_per_forward=result.tokens_per_forward,
        seconds=result.seconds_per_example,
        command=command,
        settings=result.settings,
        file=file,
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file, or if it holds something else."""
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def read_evaluations(folder: Path) -> list[Evaluation]:
    """
    Every row of `decoding_results.json` and of the results files of `hf-latent eval` in a folder.

    A row whose file does not name the command that made it is left out: a card may not show it.
    """
    rows = []
    for path in sorted(folder.glob("*.json")):
        content = read_json_object(path)
        if content.get("command") and isinstance(content.get("after"), dict):
            rows += _from_comparison(content, folder.name, path.name)
        entries = content.get("results")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            continue
        if isinstance(content.get("command"), str):
            rows += [
                evaluation_of(folder.name, DecodingResult.from_dict(entry), content["command"], path.name)
                for entry in entries
                if "num_correct" in entry
            ]
        else:
            rows += [_from_entry(entry, path.name) for entry in entries if entry.get("command") and "metric" in entry]
    return rows


def _from_entry(entry: Mapping[str, Any], file: str) -> Evaluation:
    seconds = entry["seconds"] / entry["num_examples"] if "seconds" in entry else entry.get("seconds_per_request")
    settings = entry["settings"] | ({"wording": entry["wording"]} if "wording" in entry else {})
    return Evaluation(
        task=entry["task"],
        decoding=describe_settings(settings) or "as the model's own settings say",
        metric=entry["metric"],
        value=entry["value"],
        standard_error=entry.get("standard_error"),
        num_examples=entry["num_examples"],
        forwards=entry.get("forwards_per_example"),
        tokens_per_forward=entry.get("tokens_per_forward"),
        seconds=seconds,
        command=entry["command"],
        settings=settings,
        file=file,
    )


def _from_comparison(content: Mapping[str, Any], task: str, file: str) -> list[Evaluation]:
    """Rows of a likelihood before and after a training, as `recipes/studies/publish_smollm2.py` writes it."""
    rows = []
    for name in ("before", "after"):
        found = content.get(name) or {}
        if "nats_per_token" not in found:
            continue
        settings = {key: found[key] for key in ("estimator", "num_samples", "seed") if key in found}
        rows.append(
            Evaluation(
                task=task,
                decoding=f"{name} training, {describe_settings(settings)}",
                metric="nats_per_token",
                value=found["nats_per_token"],
                standard_error=found.get("sampling_error"),
                num_examples=found["num_examples"],
                forwards=None,
                tokens_per_forward=None,
                seconds=found["seconds"] / found["num_examples"] if "seconds" in found else None,
                command=content["command"],
                settings=settings,
                file=file,
            )
        )
    return rows


def without_folders(value: Any) -> Any:
    """Absolute paths, anywhere in what others shall see, cut to their last part."""
    if isinstance(value, str):
        return re.sub(r"(?<![\w.:/])/(?:[\w.@+-]+/)+([\w.@+-]+)", r"\1", value)
    if isinstance(value, dict):
        return {name: without_folders(item) for name, item in value.items()}
    return [without_folders(item) for item in value] if isinstance(value, list) else value


def put_results(folder: Path, entries: Sequence[Mapping[str, Any]], plots: Sequence[Path]) -> Path:
    """Put entries of `hf-latent eval`, and its plots, into the folder of a model; those of other commands stay."""
    path = folder / EVAL_RESULTS
    for entry in entries:
        shown = {name: value for name, value in entry.items() if name != "correct"}  # which examples: of no use there
        put_entry(path, without_folders(shown))
    for plot in plots:
        shutil.copy2(plot, folder / plot.name)
    return path


def keep_run_files(source: Path, folder: Path) -> list[Path]:
    """Copy to `folder` what a training has left in `source` about itself, without paths; none if it left nothing."""
    kept = []
    for name in RUN_FILES if (source / "run.json").is_file() and source.resolve() != folder.resolve() else ():
        if not (source / name).is_file():
            continue
        if name.endswith(".json"):
            content = without_folders(read_json(source / name))
            write_atomically(folder / name, json.dumps(content, indent=2) + "\n")
        else:
            shutil.copy2(source / name, folder / name)
        kept.append(folder / name)
    return kept


def one_token_per_forward(rows: Sequence[Evaluation]) -> Evaluation | None:
    """The most accurate of the decoders that write one token a forward; the first of equals."""
    single = [row for row in rows if row.tokens_per_forward == 1.0 and row.metric in SHARES]
    return max(single, key=lambda row: row.value, default=None)


def own_decoder(rows: Sequence[Evaluation], defaults: Mapping[str, Any]) -> Evaluation | None:
    """
    The row that was measured with the checkpoint's own settings; None if there is none.

    Args:
        defaults: its `generation_config.json`. A knob that a row does not name was at its default.
    """
    for row in rows:
        settings = {name: value for name, value in (row.settings or {}).items() if name != "seed"}
        rule = settings.get("decoding")
        names_rule = rule == defaults.get("decoding") and (rule is not None or "num_latent_tokens" in settings)
        if names_rule and all(name in defaults and defaults[name] == value for name, value in settings.items()):
            return row
    return None


def results_table(rows: Sequence[Evaluation]) -> str:
    """Every row, as Markdown, and the commands that made them."""
    if not rows:
        return "Not measured."
    lines = [
        "| task | decoding | metric | value | n | forwards per instance | tokens per forward | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        value = f"{row.value:.3f}" + ("" if row.standard_error is None else f" ± {row.standard_error:.3f}")
        costs = ["" if cost is None else f"{cost:.2f}" for cost in (row.forwards, row.tokens_per_forward)]
        seconds = "" if row.seconds is None else f"{row.seconds:.3f}"
        cells = [row.task, row.decoding, row.metric, value, str(row.num_examples), *costs, seconds]
        lines.append("| " + " | ".join(cells) + " |")
    commands = list(dict.fromkeys(row.command for row in rows if row.command))
    files = sorted({f"`{row.file}`" for row in rows if row.file})
    note = "± is one standard error; seconds are wall time of an instance, in batches."
    note += f" From {' and '.join(files)}, with versions and seeds. Made by" if files else " Made by"
    return "\n".join(lines) + f"\n\n{note}\n\n```\n" + "\n".join(commands) + "\n```"


__all__ = [
    "EVAL_RESULTS",
    "RUN_FILES",
    "Evaluation",
    "evaluation_of",
    "keep_run_files",
    "one_token_per_forward",
    "own_decoder",
    "put_results",
    "read_evaluations",
    "read_json_object",
    "results_table",
    "without_folders",
]
