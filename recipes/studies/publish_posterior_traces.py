"""
Do posterior traces help? The four fine-tunings of arXiv 2510.19990 on a small base, with filters, seeds and a judge.

What happens
    1. The base, which has seen few human traces, answers held-out problems, and training problems it has not seen.
    2. `hf-latent traces` fills in its reasoning for those training problems, given their answers, and scores it.
    3. A judge says which traces are right. Every problem has one line of calculations that follows from its words: a
       trace is right if its calculations are those; it is verified if they are all correct and end in the answer,
       which can be said without any human trace. How well do the scores tell right from wrong?
    4. `posterior_traces/traces.py` fine-tunes the base on each set of traces, with every seed, for the same number of
       updates; the results answer the held-out problems.
    5. Table, plots and card are written.

Everything is kept as it comes; the same command goes on where it was interrupted. With `--part K N`, N processes
share the fine-tunings; the command without it waits for nobody and does what is missing.

    python recipes/studies/publish_posterior_traces.py --folder model_cards/posterior-traces
"""

import argparse
import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers.utils import logging

from hf_latent import ReasoningTemplate, score_traces
from hf_latent.data import keep_top_share, keep_verified, separation
from hf_latent.data.data_files import read_rows, to_dataset
from hf_latent.data.json_files import read_json
from hf_latent.evaluation import solve_puzzles
from hf_latent.evaluation.reports.records import digest
from hf_latent.hub import refresh_card
from hf_latent.tasks import ArithmeticTask
from hf_latent.training.runs.report import describe_environment, write_json, write_text
from hf_latent.training.runs.studies import (
    digest_file,
    identify_checkpoint,
    load_checkpoint,
    make_once,
    save_figure,
    script_parser,
    this_command,
    write_lines,
)

DECODER = {"decoding": "med", "entropy_threshold": 0.1, "block_length": 20, "block_cache": "dual"}
# Of the first training of the base, which its second went on from.
BASE_STAGES = {"stopped_at": 2300, "continued_from": 2250}
NUM_JUDGED = 500  # traces for which further estimators are compared
# Arm, what the recipe calls it, and the file of posterior traces it reads.
ARMS = {
    "human": ("human", None),
    "posterior": ("posterior", "traces.jsonl"),
    "both": ("both", "traces.jsonl"),
    "posterior, better half by score": ("posterior", "scored.jsonl"),
    "posterior, verified": ("posterior", "verified.jsonl"),
    "both, verified": ("both", "verified.jsonl"),
}
CARD = Path(__file__).parent / "cards" / "posterior_traces.md"
RECIPE = "recipes/posterior_traces/traces"
TASK = ArithmeticTask()
TEMPLATE = ReasoningTemplate(TASK.reasoning_length, TASK.answer_length, TASK.delimiter)


def calculations(text: str) -> list[tuple[str, ...]]:
    """Every `a?b=c` of a text."""
    return re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", text)


def share(flags: Sequence[bool]) -> float:
    """Of those that are true."""
    return sum(flags) / len(flags)


def is_verified(trace: str, answer: str) -> bool:
    """Whether all calculations are correct and the last one gives the answer."""
    return TASK.is_sound(trace) and calculations(trace)[-1][3] == answer


def is_right(trace: str, problem: dict[str, Any]) -> bool:
    """Whether the calculations are those that follow from the problem's words."""
    return calculations(trace) == calculations(problem["reasoning"])


def solve(folder: Path, problems: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy of a checkpoint on problems, and which of them it solved."""
    model, tokenizer = load_checkpoint(folder)
    result = solve_puzzles(model, tokenizer, TASK, problems, template=TEMPLATE, batch_size=250, **DECODER)
    return {**result.to_dict(), "correct": list(result.correct)}


def facts_of(args: argparse.Namespace, *inputs: Any, **others: Any) -> dict[str, Any]:
    """What a result is a function of: the base, the decoder, the `inputs`, and what else is named."""
    return {"model": args.identity, "decoder": DECODER, "inputs": digest(inputs), **others}


def sample(args: argparse.Namespace) -> Dataset:
    """The posterior traces of the base, by the command line."""
    knobs = [f"--set={name}={value}" for name, value in DECODER.items()]
    given = {
        "data": args.work / "human.jsonl",
        "output": args.work / "traces",
        "reasoning-length": TASK.reasoning_length,
        "answer-length": TASK.answer_length,
        "delimiter": TASK.delimiter,
        "temperature": args.temperature,
        "estimator": "marginals",
        "batch-size": 128,
        "format": "jsonl",
    }
    options = [f"--{name}={value}" for name, value in given.items()]
    code = "from hf_latent.cli import main; main()"
    subprocess.run([sys.executable, "-c", code, "traces", str(args.base), *options, *knobs], check=True)
    return to_dataset(read_rows(args.work / "traces" / "traces.jsonl"))


def judge(args: argparse.Namespace, traces: Dataset, problems: list[dict[str, Any]]) -> dict[str, Any]:
    """Shares of right traces, and how the scores separate them."""
    right = [is_right(row["trace"], problem) for row, problem in zip(traces, problems, strict=True)]
    verified = [is_verified(row["trace"], row["answer"]) for row in traces]
    asked = problems[:NUM_JUDGED]
    alone = make_once(args.work / "base_train.json", lambda: solve(args.base, asked), facts_of(args, asked))
    solved = alone["correct"]
    wrong = [r for r, s in zip(right, solved, strict=False) if not s]
    scores = list(zip(*traces["scores"], strict=True))
    model, tokenizer = load_checkpoint(args.base)
    columns = [list(traces[name])[:NUM_JUDGED] for name in ("question", "trace", "answer")]

    def others() -> dict[str, Any]:
        found = {}
        for name, options in {
            "marginals, answer shown": {"estimator": "marginals", "hide_answer": False},
            "left to right, answer hidden": {"estimator": "left_to_right", "hide_answer": True},
        }.items():
            scored = score_traces(model, tokenizer, *columns, TEMPLATE, batch_size=128, **options)
            values = list(zip(*(score.scores for score in scored), strict=True))
            found[name] = [separation(value, right[:NUM_JUDGED]) for value in values]
        return found

    kept = keep_top_share(traces.add_column("right", right), 0.5)
    return {
        "num_traces": len(traces),
        "forwards_per_trace": statistics.mean(traces["num_forward_passes"]),
        "share_right": share(right),
        "share_verified": share(verified),
        "share_right_of_verified": share([r for r, v in zip(right, verified, strict=True) if v]),
        "share_right_of_better_half": share(kept["right"]),
        "base_solves_of_these": share(solved),
        "share_right_where_base_is_wrong": share(wrong),
        "auc_right": {
            "marginals, answer hidden": [separation(value, right) for value in scores],
            **make_once(args.work / "auc.json", others, facts_of(args, columns, asked)),
        },
        "auc_verified": [separation(value, verified) for value in scores],
        "scores": [round(score, 4) for score in traces["score"]],
        "right": right,
    }


def run_folder(args: argparse.Namespace, arm: str, seed: int) -> Path:
    """Where a fine-tuning is kept."""
    return args.work / f"{arm.replace(', ', '_').replace(' ', '_')}-{seed}"


def fine_tune(args: argparse.Namespace, arm: str, seed: int, held_out: list[dict[str, Any]]) -> dict[str, Any]:
    """Run the recipe and answer the held-out problems."""
    folder, (name, file) = run_folder(args, arm, seed), ARMS[arm]
    files = {"human_file": args.work / "human.jsonl"}
    if file is not None:
        files["traces"] = args.work / "traces" / file

    def run() -> dict[str, Any]:
        command = [sys.executable, f"{RECIPE}.py", "--config", f"{RECIPE}.yaml"]
        options = {"arm": name, "seed": seed, "output_dir": folder, "model_name_or_path": args.base}
        options |= {"max_steps": args.max_steps, **files}
        flags = [text for key, value in options.items() for text in (f"--{key}", str(value))]
        subprocess.run([*command, *flags], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return solve(folder, held_out)

    trained = {"arm": arm, "seed": seed, "max_steps": args.max_steps, "recipe": digest_file(Path(f"{RECIPE}.yaml"))}
    read = {option: digest_file(path) for option, path in files.items()}
    return make_once(folder / "held_out.json", run, facts_of(args, held_out, **trained, **read))


def summarise(accuracies: list[float], num_problems: int) -> dict[str, Any]:
    """Mean, and its standard error from the seeds and from the held-out problems together."""
    mean = statistics.mean(accuracies)
    seeds = statistics.variance(accuracies) / len(accuracies) if len(accuracies) > 1 else 0.0
    error = math.sqrt(seeds + mean * (1 - mean) / num_problems)
    return {"accuracies": accuracies, "accuracy": mean, "standard_error": error}


def plot(folder: Path, arms: dict[str, Any], judged: dict[str, Any]) -> None:
    """Accuracy of the arms; scores of right and wrong traces."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    names = list(arms)
    values = [100 * arms[name]["accuracy"] for name in names]
    errors = [100 * arms[name]["standard_error"] for name in names]
    left.barh(range(len(names)), values, xerr=errors, capsize=3, color="tab:blue", alpha=0.8)
    for place, name in enumerate(names):
        left.plot([100 * a for a in arms[name]["accuracies"]], [place] * len(arms[name]["accuracies"]), "k.", ms=4)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set(xlabel="held-out problems solved, %")
    for flag, label in ((True, "right"), (False, "wrong")):
        chosen = [max(s, -15.0) for s, r in zip(judged["scores"], judged["right"], strict=True) if r == flag]
        right.hist(chosen, bins=60, range=(-15, 0), alpha=0.6, density=True, label=f"{label} ({len(chosen):,})")
    right.set(xlabel="score of a trace, nats", ylabel="density")
    right.legend(frameon=False)
    save_figure(figure, folder / "posterior_traces.png")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder to write")
    parser.add_argument("--work", type=Path, default=Path("runs/posterior_traces"), help="where runs are kept")
    parser.add_argument("--base", type=Path, default=Path("runs/posterior_traces/base_second"))
    parser.add_argument("--num_seen", type=int, default=8000, help="training problems that the base has seen")
    parser.add_argument("--num_questions", type=int, default=2000, help="training problems to sample traces for")
    parser.add_argument("--num_problems", type=int, default=1000, help="held-out problems")
    parser.add_argument("--seed", type=int, default=1234, help="of the held-out problems")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--max_steps", type=int, default=200, help="updates of each fine-tuning")
    parser.add_argument("--num_seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--part", type=int, nargs=2, metavar=("K", "N"), help="every N-th fine-tuning from K, only")
    return parser.parse_args()


def make_traces(args: argparse.Namespace, problems: list[dict[str, Any]]) -> tuple[Dataset, dict[str, Any]]:
    """Posterior traces of the base, in the files that the arms read, and what the judge says of them."""
    traces = sample(args)
    write_lines(args.work / "traces" / "scored.jsonl", keep_top_share(traces, 0.5))
    verified = keep_verified(traces, lambda row: is_verified(row["trace"], row["answer"]))
    write_lines(args.work / "traces" / "verified.jsonl", verified)
    return traces, judge(args, traces, problems)


def told(judged: dict[str, Any]) -> dict[str, Any]:
    """What is published of the judge's findings."""
    return {name: value for name, value in judged.items() if name not in ("scores", "right")}


def main(args: argparse.Namespace) -> None:
    """Run the experiment, or this process's part of its fine-tunings."""
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    settings = {name: str(value) for name, value in vars(args).items()}
    args.identity = identify_checkpoint(args.base)

    # 1.
    problems = [p | TASK.format(p) for p in TASK.generate(args.num_seen + args.num_questions, 0)[args.num_seen :]]
    held_out = [p | TASK.format(p) for p in TASK.generate(args.num_problems, args.seed, split="test")]
    runs = [(arm, seed) for arm in args.arms for seed in range(args.num_seeds)]
    if not args.part:
        rows = [{"question": p["prompt"], "trace": p["reasoning"], "answer": p["answer"]} for p in problems]
        write_lines(args.work / "human.jsonl", rows)
        path = args.work / "base_held_out.json"
        base = make_once(path, lambda: solve(args.base, held_out), facts_of(args, held_out))
        print(f"base {base['accuracy']:.3f}", flush=True)
        # 2. and 3.
        traces, judged = make_traces(args, problems)
        print(json.dumps(told(judged), indent=1), flush=True)
    # 4.
    found: dict[str, list[float]] = {}
    for arm, seed in runs[args.part[0] :: args.part[1]] if args.part else runs:
        accuracy = fine_tune(args, arm, seed, held_out)["accuracy"]
        found.setdefault(arm, []).append(accuracy)
        print(f"{arm:36} seed {seed} {accuracy:.3f}", flush=True)
    if args.part:
        return
    # 5.
    arms = {"none (the base)": summarise([base["accuracy"]], len(held_out))}
    arms |= {arm: summarise(accuracies, len(held_out)) for arm, accuracies in found.items()}
    examples = list(zip(traces, problems, judged["right"], strict=True))
    report = describe(args, settings, arms, judged, examples, len(held_out))
    args.folder.mkdir(parents=True, exist_ok=True)
    write_json(args.folder / "results.json", report)
    plot(args.folder, arms, judged)
    for name in ("base", "base_second"):
        log = args.work / name / "training_log.jsonl"
        if log.is_file():
            shutil.copy2(log, args.folder / f"training_log_{name}.jsonl")
    num_rows = {f"{arm}/{seed}": read_json(run_folder(args, arm, seed) / "run.json")["num_rows"] for arm, seed in runs}
    write_json(args.folder / "runs.json", num_rows)
    write_text(args.folder / "README.md", card(report, examples, len(held_out)))
    refresh_card(args.folder)


def describe(
    args: argparse.Namespace,
    settings: dict[str, str],
    arms: dict[str, Any],
    judged: dict[str, Any],
    examples: list[Any],
    num_problems: int,
) -> dict[str, Any]:
    """`results.json`."""
    before = arms["none (the base)"]["accuracy"]
    compared = {arm: found["accuracy"] for arm, found in arms.items() if arm in args.arms}
    return {
        "command": this_command(),
        "settings": settings,
        "decoder": DECODER,
        "environment": describe_environment(),
        "traces": told(judged),
        "arms": arms,
        "num_examples": num_problems,
        "num_judged": NUM_JUDGED,
        "points_over_base": {arm: round(100 * (accuracy - before), 2) for arm, accuracy in compared.items()},
        "share_wrong": 1 - judged["share_right"],
        "base": {"num_parameters": read_json(args.base / "run.json")["num_parameters"], **BASE_STAGES},
        "headline": headline(arms),
        "shown_scores": [abs(example[0]["score"]) for example in shown_examples(examples)],
    }


def headline(arms: dict[str, Any]) -> str:
    """The base, and the arm that helped it most."""
    base = arms["none (the base)"]["accuracy"]
    name, best = max(arms.items(), key=lambda item: item[1]["accuracy"])
    return f"base {100 * base:.1f} %, best with {name}: {100 * best['accuracy']:.1f} %"


def shown_examples(examples: list[Any]) -> list[Any]:
    """The first right trace and the first wrong one."""
    return [next(e for e in examples if e[2] is flag) for flag in (True, False)]


def reading(report: dict[str, Any]) -> str:
    """What the table says, in words."""
    changes = report["points_over_base"]
    if not {"posterior", "posterior, better half by score", "human"} <= set(changes):
        return ""

    def change(name: str) -> str:
        return f"{changes[name]:+.1f} points"

    wrong = 100 * (1 - report["traces"]["share_right"])
    return (
        f"Against the base: human traces {change('human')}, all posterior traces {change('posterior')}, the half of "
        f"them with the better score {change('posterior, better half by score')}. {wrong:.1f} % of the unfiltered "
        "traces are wrong: this base is too weak to reason towards most answers it could not reach by itself, and "
        "trained on them it learns to write calculations that end in a number. The score, which needs no human trace "
        "and no verifier, finds those: what it keeps is worth at least what human traces are. The paper's base, of "
        "8 billion parameters, gains without a filter."
    )


def card(report: dict[str, Any], examples: list[Any], num_problems: int) -> str:
    """The page of the experiment."""
    traces, arms = report["traces"], report["arms"]
    percent = {name: f"{100 * value:.1f} %" for name, value in traces.items() if isinstance(value, float)}
    rows = "\n".join(
        f"| {name} | {100 * arm['accuracy']:.1f} ± {100 * arm['standard_error']:.1f} | "
        f"{', '.join(f'{100 * a:.1f}' for a in arm['accuracies'])} |"
        for name, arm in arms.items()
    )
    curves = "\n".join(
        f"| {name} | " + " | ".join(f"{value:.3f}" for value in values) + " |"
        for name, values in traces["auc_right"].items()
    )
    shown = shown_examples(examples)
    pairs = "\n\n".join(
        f"{name} (score {row['score']:.2f} nats, answer {row['answer']}):\n\n```\n{problem['question']}\n"
        f"{row['trace']}\n```"
        for name, (row, problem, _) in zip(("Right", "Wrong"), shown, strict=True)
    )
    return CARD.read_text(encoding="utf-8").format(
        report=report,
        traces=traces,
        percent=percent,
        rows=rows,
        curves=curves,
        pairs=pairs,
        reading=reading(report),
        num_problems=num_problems,
        num_seen=int(report["settings"]["num_seen"]),
        decoder=json.dumps(report["decoder"]),
    )


if __name__ == "__main__":
    main(parse())
