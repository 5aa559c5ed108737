"""
The study of latent diffusion: every training that it compares, and what they give together.

Arms, each a command of `stages.py` or `backbone.py` of `recipes/latent_diffusion` with the values of the YAML
    pretrain, autoencoder              what all others start from
    autoencoder_more_problems          with all the single digit additions there are
    autoencoder_two_legs               goes on from it, with fewer of those
    in_context                         the denoiser, of every task by itself, with every seed
    three_seeds, longer                three tasks once more, with every seed, from the later autoencoders
    smaller_learning_rate              half of it, one task, with every seed
    fewer_updates                      the updates of single digit additions for two tasks that have more
    reference                          in_context once more, for the arms below: one seed, one task
    cross_attention, adaln_zero        other ways to read the condition, one task
    T500, T4000                        the noise schedule cut more coarsely and more finely, one task
    cosine, min_snr                    the paper's schedule and weights, one task
    baseline_answer_first, _last       the pre-trained encoder-decoder, fine-tuned from input to target, each task
    text_...                           the same stages on pairs of sentences; `latent_diffusion_sentences.py` first

In the YAML an arm's `values` hold for all its trainings, its `task_values` for those on one task.

What happens
    1. Arms that have no `results.json` yet are trained, one after the other; one that was interrupted goes on. With
       `--arms`, several processes share the work.
    2. Results of those that are there become tables, plots, `study.json` and `results.json` in `--folder`; what
       `latent_diffusion_samplers.py` has found of the training named `shown` is copied there. With `--keep`, what
       `--folder` says of arms that were trained elsewhere stays.

    OMP_NUM_THREADS=1 python recipes/studies/latent_diffusion_study.py \
        --config recipes/studies/latent_diffusion_study.yaml
"""

import argparse
import functools
import itertools
import json
import shlex
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from matplotlib.figure import Figure
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from hf_latent import LatentAutoencoder
from hf_latent.data import identify, record_or_check
from hf_latent.data.json_files import read_json, read_json_object
from hf_latent.training.runs.report import describe_environment, write_json
from hf_latent.training.runs.studies import (
    check_made_of,
    digest_file,
    identity_file,
    mean_and_error,
    put_between,
    read_lines,
    save_figure,
    script_parser,
    this_command,
    write_lines,
)

ROOT = Path(__file__).resolve().parents[2]
BEGIN, END = "<!-- study -->\n", "<!-- /study -->"
METRICS = ("accuracy", "exact")
TEXT_METRICS = ("chrf", "exact")
# Arms whose accuracy is drawn over their updates, and what the picture calls them.
COMPARED = {
    "in_context": "latent diffusion",
    "baseline_answer_first": "encoder-decoder, answer first",
    "baseline_answer_last": "encoder-decoder, answer last",
}
SHOWN_FILES = ("samplers.json", "samplers.png", "denoising.json", "denoising.png")


class Run(NamedTuple):
    """One training of an arm."""

    arm: str
    seed: int
    tasks: list[str]
    folder: Path


def runs_of(name: str, study: dict[str, Any]) -> Iterator[Run]:
    """Every training of an arm; the first seed's folder has no number."""
    arm, output_dir = study["arms"][name], Path(study["output_dir"])
    tasks = arm["values"].get("tasks", study["values"]["tasks"])
    for number, seed in enumerate(study["seeds"] if arm.get("every_seed") else study["seeds"][:1]):
        behind = f"-{seed}" if number else ""
        if arm.get("per_task"):
            yield from (Run(name, seed, [task], output_dir / f"{name}-{task}{behind}") for task in tasks)
        else:
            yield Run(name, seed, tasks, output_dir / f"{name}{behind}")


def values_of(run: Run, study: dict[str, Any]) -> dict[str, Any]:
    """The options of a training, beside those in its recipe's YAML."""
    arm = study["arms"][run.arm]
    values = {**study["values"], **arm["values"], "tasks": run.tasks, "seed": run.seed, "output_dir": str(run.folder)}
    if not run.tasks:
        del values["tasks"]
    for task in run.tasks:
        values |= arm.get("task_values", {}).get(task, {})
    return values


def command_of(run: Run, study: dict[str, Any]) -> list[str]:
    """What a user would type to train it alone."""
    arm = study["arms"][run.arm]
    command = [f"recipes/{arm['recipe']}.py", "--config", f"recipes/{arm['config']}.yaml"]
    for field, value in values_of(run, study).items():
        shown = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        command += [f"--{field}", *(str(item) for item in shown)]
    return command


def made_of(run: Run, study: dict[str, Any]) -> dict[str, Any]:
    """What a training is a function of: its options, what it starts from, and its files."""
    config = ROOT / "recipes" / f"{study['arms'][run.arm]['config']}.yaml"
    values = {**yaml.safe_load(config.read_text(encoding="utf-8")), **values_of(run, study)}
    values.pop("output_dir")
    files = {name: ROOT / str(values[name]) for name in ("train_file", "eval_file") if values.get(name)}
    facts = {"values": values, "files": {name: digest_file(path) for name, path in files.items() if path.is_file()}}
    start = ROOT / str(values.get("model_name_or_path"))
    return facts | ({"model": identify_start(start)} if start.is_dir() else {})


@functools.cache
def identify_start(folder: Path) -> dict[str, Any]:
    """The autoencoder or encoder-decoder that trainings start from."""
    is_ours = AutoConfig.from_pretrained(folder).model_type == "latent_diffusion"
    return identify((LatentAutoencoder if is_ours else AutoModelForSeq2SeqLM).from_pretrained(folder))


def train(run: Run, study: dict[str, Any]) -> None:
    """Train, unless that is done; output goes to a log beside the folder."""
    folder, facts = run.folder, made_of(run, study)
    if (folder / "results.json").is_file():
        check_made_of(folder, facts)
        return
    if not folder.is_dir():
        identity_file(folder).unlink(missing_ok=True)  # of a training that was removed
    record_or_check(identity_file(folder), facts, argument="output_dir", what="checkpoint or other settings")
    command = command_of(run, study)
    print(shlex.join(["python", *command]), flush=True)
    with folder.with_name(f"{folder.name}.log").open("a", encoding="utf-8") as log:
        subprocess.run([sys.executable, *command], cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=True)


def summarize(study: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per arm that has results: answers and whole targets right, by task, mean and standard error over seeds."""
    rows = []
    for name in study["arms"]:
        found = [(run.tasks, read_json_object(run.folder / "results.json")) for run in runs_of(name, study)]
        found = [(tasks, results) for tasks, results in found if results and results["generation"]]
        if not found:
            continue
        shares: dict[str, list[float]] = {}
        for tasks, results in found:
            for field in () if tasks else TEXT_METRICS:
                shares.setdefault(field, []).append(results["generation"][field])
            for metric, task in itertools.product(METRICS, tasks):
                field = f"{metric}_{task}"
                value = results["generation"][field if len(tasks) > 1 else metric]
                shares.setdefault(field, []).append(value)
        row = {
            "arm": name,
            "steps": sorted({results["steps"] for _, results in found}),
            "num_parameters": found[0][1]["run"]["num_parameters"],
            "train_seconds": statistics.median(results["train_seconds"] for _, results in found),
        }
        rows.append(row | {field: describe(values) for field, values in shares.items()})
    return rows


def describe(shares: list[float]) -> dict[str, Any]:
    """Mean and standard error over seeds."""
    mean, error = mean_and_error(shares)
    return {"mean": mean, "each": shares, "standard_error": error}


def percent(value: dict[str, Any] | None) -> str:
    """`96.1 ± 0.4`, without the error where there is one seed; empty if it was not measured."""
    if value is None:
        return ""
    error = "" if value["standard_error"] is None else f" ± {100 * value['standard_error']:.1f}"
    return f"{100 * value['mean']:.1f}{error}"


def table(
    rows: list[dict[str, Any]], tasks: list[str], metric: str, reported: dict[str, dict[str, float]] | None = None
) -> str:
    """Markdown; `reported`, in percent, is what others say."""
    titles = ["arm", *(task.replace("_", " ") for task in tasks), "updates", "training, s"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        shares = [percent(row.get(f"{metric}_{task}")) for task in tasks]
        fewest, most = row["steps"][0], row["steps"][-1]
        steps = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
        lines.append(f"| {' | '.join([row['arm'], *shares])} | {steps} | {row['train_seconds']:.0f} |")
    for name, known in (reported or {}).items():
        lines.append(f"| {' | '.join([name, *(f'{known[task]:.1f}' for task in tasks)])} | | |")
    return "\n".join(lines)


def text_table(rows: list[dict[str, Any]], levels: dict[str, float]) -> str:
    """Markdown of the arms on pairs of sentences; `levels`, chrF of what has learned nothing."""
    lines = ["| arm | chrF | exact, % | updates | training, s |", "|---" * 5 + "|"]
    for row in rows:
        cells = [row["arm"], f"{row['chrf']['mean']:.1f}", percent(row["exact"]), f"{row['steps'][-1]:,}"]
        lines.append(f"| {' | '.join(cells)} | {row['train_seconds']:.0f} |")
    return "\n".join([*lines, *(f"| {name} | {level:.1f} | | | |" for name, level in levels.items())])


def plot(rows: list[dict[str, Any]], tasks: list[str], path: Path) -> None:
    """Answers right, a group of bars for each task."""
    figure = Figure(figsize=(10.5, 4), layout="constrained")
    axis, width = figure.subplots(), 0.85 / len(rows)
    for number, row in enumerate(rows):
        values = {at: row[f"accuracy_{task}"] for at, task in enumerate(tasks) if f"accuracy_{task}" in row}
        axis.bar(
            [at + (number - (len(rows) - 1) / 2) * width for at in values],
            [100 * value["mean"] for value in values.values()],
            0.92 * width,
            yerr=[100 * (value["standard_error"] or 0.0) for value in values.values()],
            label=row["arm"].replace("_", " "),
        )
    axis.set_xticks(range(len(tasks)), [task.replace("_", " ") for task in tasks])
    axis.set(ylabel="answers right, %", ylim=(0, 102))
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=4)
    save_figure(figure, path)


def learning_curves(study: dict[str, Any]) -> dict[str, dict[str, list[list[float]]]]:
    """Of each task and compared arm: updates and accuracy, wherever the first seed's training has answered."""
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for name in COMPARED:
        for run in runs_of(name, study) if name in study["arms"] else ():
            path = run.folder / "training_log.jsonl"
            if run.seed != study["seeds"][0] or len(run.tasks) > 1 or not path.is_file():
                continue
            entries = read_lines(path)
            points = [[entry["step"], entry["eval_accuracy"]] for entry in entries if "eval_accuracy" in entry]
            curves.setdefault(run.tasks[0], {})[name] = points
    return {task: curves[task] for task in study["values"]["tasks"] if task in curves}


def plot_curves(curves: dict[str, dict[str, list[list[float]]]], path: Path) -> None:
    """A panel for each task."""
    figure = Figure(figsize=(3.2 * len(curves), 3.2), layout="constrained")
    panels = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    handles = {}
    for panel, (task, arms) in zip(panels, curves.items(), strict=True):
        for number, (name, title) in enumerate(COMPARED.items()):
            if points := arms.get(name):
                steps, shares = zip(*points, strict=True)
                (handles[title],) = panel.plot(steps, [100 * x for x in shares], marker="o", ms=4, color=f"C{number}")
        panel.set(xlabel="updates", ylim=(0, 103))
        panel.set_title(task.replace("_", " "), fontsize=9)
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("answers right, %")
    figure.legend(handles.values(), handles, frameon=False, fontsize=8, loc="outside upper center", ncols=3)
    save_figure(figure, path)


def headline(rows: list[dict[str, Any]], tasks: list[str]) -> str:
    """Latent diffusion and the encoder-decoder that answers first, for each task that both have done."""
    arms = {row["arm"]: row for row in rows}
    said = []
    for task in tasks:
        found = [arms.get(name, {}).get(f"accuracy_{task}") for name in ("in_context", "baseline_answer_first")]
        if None not in found:
            shares = " and ".join(f"{100 * value['mean']:.1f}" for value in found)
            said.append(f"{task.replace('_', ' ')} {shares} %")
    return f"answers right, by latent diffusion and the encoder-decoder: {', '.join(said)}" if said else ""


def training_log(study: dict[str, Any]) -> list[dict[str, Any]]:
    """Every logged value of every training that is there."""
    return [
        {"run": run.folder.name, **entry}
        for name in study["arms"]
        for run in runs_of(name, study)
        if (run.folder / "training_log.jsonl").is_file()
        for entry in read_lines(run.folder / "training_log.jsonl")
    ]


def keep_others(found: dict[str, Any], log: list[dict[str, Any]], study: dict[str, Any], folder: Path) -> None:
    """Add to both what `folder` says of arms of which nothing is here."""
    before = read_json_object(folder / "study.json")
    if not before:
        raise ValueError(f"`folder` must have the study.json of an earlier publication to `keep` from, got {folder}")
    here = {name for name in study["arms"] if any(run.folder.is_dir() for run in runs_of(name, study))}
    order = list(study["arms"])
    others = [row for row in before["rows"] if row["arm"] not in here]
    found["rows"] = sorted([*found["rows"], *others], key=lambda row: order.index(row["arm"]))
    found["levels"] = found["levels"] or before["levels"]
    for task in study["values"]["tasks"]:
        curves = {**before["learning_curves"].get(task, {}), **found["learning_curves"].get(task, {})}
        if curves:
            found["learning_curves"][task] = curves
    runs = {run.folder.name for name in study["arms"] if name not in here for run in runs_of(name, study)}
    log += [entry for entry in read_lines(folder / "training_log.jsonl") if entry["run"] in runs]


def publish(rows: list[dict[str, Any]], study: dict[str, Any], folder: Path, keep: bool = False) -> None:
    """`study.json`, `study.png`, and the tables between the marks in the card; see `keep_others`."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = study["values"]["tasks"]
    levels = Path(study.get("levels", ""))
    found = {"rows": rows, "levels": read_json(levels) if levels.is_file() else None}
    found |= {"learning_curves": learning_curves(study), "environment": describe_environment()}
    command, log = this_command(), training_log(study)
    if keep:
        keep_others(found, log, study, folder)
    rows, levels, curves = found["rows"], found["levels"], found["learning_curves"]
    rows, of_text = [row for row in rows if "chrf" not in row], [row for row in rows if "chrf" in row]
    write_json(folder / "study.json", {"command": command, "study": study, **found})
    summary = {"headline": headline(rows, tasks), "num_examples": study["values"]["num_eval_examples"]}
    write_json(folder / "results.json", {"command": command, **summary})
    if curves:
        plot_curves(curves, folder / "updates.png")
    for name in SHOWN_FILES:
        path = Path(study["output_dir"], study.get("shown", ""), name)
        if path.is_file():
            shutil.copy(path, folder)
    plot([row for row in rows if not row["arm"].startswith("autoencoder")], tasks, folder / "study.png")
    write_lines(folder / "training_log.jsonl", log)
    made = f"Answers right, %:\n\n{table(rows, tasks, 'accuracy', study.get('reported'))}\n\n"
    made += f"Whole targets right, every token, %:\n\n{table(rows, tasks, 'exact')}\n\n"
    if of_text and levels is not None:
        made += (
            f"Sentences of {levels['num_test_pairs']:,} held-out pairs:\n\n{text_table(of_text, levels['chrf'])}\n\n"
        )
    made += f"```\n{command}\n```\n"
    put_between(folder / "README.md", BEGIN, END, made)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML of the study")
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--tasks", nargs="+", help="only trainings on any of these")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these")
    parser.add_argument("--summarize", action="store_true", help="train nothing; what is there is enough")
    parser.add_argument("--folder", type=Path, help="where tables and plot go; none are written without")
    parser.add_argument("--keep", action="store_true", help="keep what the folder says of arms trained elsewhere")
    return parser.parse_args(arguments)


def main(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the study, or this process's part of it."""
    study = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    if unknown := set(args.arms or ()) - set(study["arms"]):
        raise ValueError(f"`arms` must be of {', '.join(study['arms'])}, got {', '.join(sorted(unknown))}")
    if not args.summarize:
        for name in args.arms or study["arms"]:
            for run in runs_of(name, study):
                if run.seed not in (args.seeds or study["seeds"]):
                    continue
                if args.tasks is None or set(run.tasks) & set(args.tasks):
                    train(run, study)
    rows = summarize(study)
    print(table([row for row in rows if "chrf" not in row], study["values"]["tasks"], "accuracy"))
    if args.folder is not None:
        publish(rows, study, args.folder, args.keep)
    return rows


if __name__ == "__main__":
    main(parse())
