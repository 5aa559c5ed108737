"""
The study of latent diffusion: every training of `latent_diffusion.py` that it compares, and what they give together.

Arms, each a command of `latent_diffusion.py` or `latent_diffusion_backbone.py` with the values of the YAML
    pretrain, autoencoder              what all others start from
    in_context                         the denoiser, with every seed
    cross_attention, adaln_zero        other ways to read the condition
    T500, T4000                        noise schedules that are cut more coarsely and more finely
    baseline_answer_first, _last       the pre-trained encoder-decoder, fine-tuned from input to target

What happens
    1. Arms that have no `results.json` yet are trained, one after the other; one that was interrupted goes on. With
       `--arms`, several processes share the work.
    2. Results of those that are there become a table, a plot and `study.json` in `--folder`.

    OMP_NUM_THREADS=1 python recipes/latent_diffusion_study.py --config recipes/latent_diffusion_study.yaml
"""

import argparse
import json
import math
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from hf_latent.training.report import describe_environment, write_json, write_text

RECIPES = Path(__file__).parent
BEGIN, END = "<!-- study -->\n", "<!-- /study -->"
METRICS = ("accuracy", "exact")


def runs_of(name: str, study: dict[str, Any]) -> Iterator[tuple[int, Path]]:
    """Seed and folder of every training of an arm; the first seed's folder has the arm's name alone."""
    seeds = study["seeds"] if study["arms"][name].get("every_seed") else study["seeds"][:1]
    for number, seed in enumerate(seeds):
        yield seed, Path(study["output_dir"]) / (f"{name}-{seed}" if number else name)


def command_of(name: str, seed: int, folder: Path, study: dict[str, Any]) -> list[str]:
    """What a user would type to train it alone."""
    arm = study["arms"][name]
    values = {**study["values"], **arm["values"], "seed": seed, "output_dir": str(folder)}
    command = [f"recipes/{arm['recipe']}.py", "--config", f"recipes/{arm['config']}.yaml"]
    for field, value in values.items():
        shown = value if isinstance(value, list) else [json.dumps(value) if isinstance(value, dict) else value]
        command += [f"--{field}", *(str(item) for item in shown)]
    return command


def train(name: str, seed: int, folder: Path, study: dict[str, Any]) -> None:
    """Train, unless that is done; output goes to a log beside the folder."""
    if (folder / "results.json").is_file():
        return
    command = command_of(name, seed, folder, study)
    print(shlex.join(["python", *command]), flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.log").open("a", encoding="utf-8") as log:
        subprocess.run(
            [sys.executable, *command], cwd=RECIPES.parent, stdout=log, stderr=subprocess.STDOUT, check=True
        )


def summarize(study: dict[str, Any]) -> list[dict[str, Any]]:
    """A row per arm that has results: answers and whole targets right, by task, mean and standard error over seeds."""
    tasks, rows = study["values"]["tasks"], []
    for name in study["arms"]:
        paths = [folder / "results.json" for _, folder in runs_of(name, study)]
        found = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
        if not found or not found[0]["generation"]:
            continue
        generated = [run["generation"] for run in found]
        row: dict[str, Any] = {
            "arm": name,
            "num_seeds": len(found),
            "steps": found[0]["steps"],
            "num_parameters": found[0]["run"]["num_parameters"],
            "train_seconds": statistics.median(run["train_seconds"] for run in found),
            "num_examples": generated[0]["num_examples"],
        }
        for field in (f"{metric}_{task}" for metric in METRICS for task in tasks):
            shares = [result[field] for result in generated]
            error = statistics.stdev(shares) / math.sqrt(len(shares)) if len(shares) > 1 else None
            row[field] = {"mean": statistics.fmean(shares), "each": shares, "standard_error": error}
        rows.append(row)
    return rows


def percent(value: dict[str, Any]) -> str:
    """`96.1 ± 0.4`, without the error where there is one seed."""
    error = "" if value["standard_error"] is None else f" ± {100 * value['standard_error']:.1f}"
    return f"{100 * value['mean']:.1f}{error}"


def table(rows: list[dict[str, Any]], tasks: list[str], metric: str) -> str:
    """Markdown."""
    titles = ["arm", *(task.replace("_", " ") for task in tasks), "updates", "training, s"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for row in rows:
        shares = [percent(row[f"{metric}_{task}"]) for task in tasks]
        lines.append(f"| {' | '.join([row['arm'], *shares])} | {row['steps']} | {row['train_seconds']:.0f} |")
    return "\n".join(lines)


def plot(rows: list[dict[str, Any]], tasks: list[str], path: Path) -> None:
    """Answers right, a group of bars for each task."""
    figure = Figure(figsize=(10.5, 4), layout="constrained")
    axis, width = figure.subplots(), 0.85 / len(rows)
    for number, row in enumerate(rows):
        values = [row[f"accuracy_{task}"] for task in tasks]
        axis.bar(
            [position + (number - (len(rows) - 1) / 2) * width for position in range(len(tasks))],
            [100 * value["mean"] for value in values],
            0.92 * width,
            yerr=[100 * (value["standard_error"] or 0.0) for value in values],
            label=row["arm"].replace("_", " "),
        )
    axis.set_xticks(range(len(tasks)), [task.replace("_", " ") for task in tasks])
    axis.set(ylabel="answers right, %", ylim=(0, 102))
    axis.grid(axis="y", alpha=0.3)
    axis.set_axisbelow(True)
    figure.legend(frameon=False, fontsize=8, loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=120)


def publish(rows: list[dict[str, Any]], study: dict[str, Any], folder: Path) -> None:
    """`study.json`, `study.png`, and the tables between the marks in the card."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = study["values"]["tasks"]
    command = shlex.join(["python", *sys.argv])
    write_json(
        folder / "study.json",
        {"command": command, "study": study, "rows": rows, "environment": describe_environment()},
    )
    plot([row for row in rows if row["arm"] != "autoencoder"], tasks, folder / "study.png")
    logs = [
        json.dumps({"arm": name, "seed": seed, **json.loads(line)})
        for name in study["arms"]
        for seed, run in runs_of(name, study)
        if (run / "training_log.jsonl").is_file()
        for line in (run / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    write_text(folder / "training_log.jsonl", "".join(f"{line}\n" for line in logs))
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"{BEGIN}{END}\n"
    if BEGIN not in text or END not in text:
        raise ValueError(f"`folder` has a README.md without the marks {BEGIN.strip()} and {END}, got {folder}")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    made = f"Answers right, %:\n\n{table(rows, tasks, 'accuracy')}\n\nWhole targets right, every token, %:\n\n"
    made += f"{table(rows, tasks, 'exact')}\n\n```\n{command}\n```\n"
    write_text(card, f"{before}{BEGIN}{made}{END}{after}")


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="YAML of the study")
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these")
    parser.add_argument("--summarize", action="store_true", help="train nothing; what is there is enough")
    parser.add_argument("--folder", type=Path, help="where tables and plot go; none are written without")
    return parser.parse_args(arguments)


def main(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the study, or this process's part of it."""
    study = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    if unknown := set(args.arms or ()) - set(study["arms"]):
        raise ValueError(f"`arms` must be of {', '.join(study['arms'])}, got {', '.join(sorted(unknown))}")
    if not args.summarize:
        for name in args.arms or study["arms"]:
            for seed, folder in runs_of(name, study):
                if args.seeds is None or seed in args.seeds:
                    train(name, seed, folder, study)
    rows = summarize(study)
    print(table(rows, study["values"]["tasks"], "accuracy"))
    if args.folder is not None:
        publish(rows, study, args.folder)
    return rows


if __name__ == "__main__":
    main(parse())
