"""
What latent tokens are worth: the same data, sizes, updates and seeds for every way to write.

Arms (arXiv 2602.03769)
    ar             autoregressive, no latent tokens
    ar+K           autoregressive, trained with K latent tokens
    ar+any         autoregressive, the number drawn anew at every update: one checkpoint for all of them
    sidm           any order, every position predicted alone
    scdm+K         any order, groups of K + 1 predicted jointly
    scdm+any       any order, the number drawn anew at every update
    mdm            masked diffusion: every position sees all others, nothing is cached

What happens
    1. Every arm is trained with every seed, by the recipes' trainers with the values of the YAML.
    2. Each checkpoint solves the held-out puzzles with every number of latent tokens it was trained for, an
       autoregressive one also with fewer, greedily, one token a forward; models that write in any order predict all
       open positions and write the surest, or with `decodings: [low_confidence, random, left_to_right]` any of them
       and the first, too, which leaves them no easy cell to begin with.
    3. Results, table and plots (accuracy over latent tokens, and over seconds per token) are written.

Everything is kept as it comes; the same command goes on where it was interrupted, and refuses to go on with other
values than it began with. With `--part K N`, N processes share the trainings.

    OMP_NUM_THREADS=1 python recipes/studies/latent_tokens_study.py \
        --config recipes/studies/latent_tokens_study_star_graph.yaml
"""

import itertools
import math
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from datasets import load_from_disk
from matplotlib.figure import Figure
from transformers import AutoModelForCausalLM, set_seed

from hf_latent import LatentTokenConfig
from hf_latent.data import record_or_check
from hf_latent.data.json_files import read_json, read_json_object
from hf_latent.evaluation import solve_puzzles
from hf_latent.modeling.atomic import replacing
from hf_latent.tasks import get_task
from hf_latent.training import (
    LatentTokenTrainer,
    LatentTokenTrainingConfig,
    MaskedDiffusionConfig,
    MaskedDiffusionTrainer,
)
from hf_latent.training.runs.report import describe_environment, write_json
from hf_latent.training.runs.studies import (
    check_made_of,
    identify_checkpoint,
    identity_file,
    load_checkpoint,
    mean_and_error,
    put_between,
    save_figure,
    script_parser,
    write_lines,
)

# Behind a number of latent tokens or the name of an arm: in which order it wrote, if it was not the surest first.
ORDERS = {"low_confidence": "", "random": ", random order", "left_to_right": ", left to right"}
# What may change while the trainings of a study go on: none of them depends on it.
MAY_CHANGE = {"title", "arms", "seeds", "decodings", "num_test_examples", "output_dir"}


def numbers_of(arm: str, study: dict[str, Any]) -> list[int]:
    """Numbers of latent tokens that an arm is trained for."""
    if not re.fullmatch(r"ar|sidm|mdm|(ar|scdm)\+(\d+|any)", arm):
        raise ValueError(f"`arms` must be ar, sidm, mdm, ar+K, scdm+K, ar+any or scdm+any, got {arm!r}")
    name, _, number = arm.partition("+")
    if number == "any":
        return study["any_ahead" if name == "ar" else "any_group"]
    return [int(number or 0)]


def numbers_to_try(arm: str, study: dict[str, Any]) -> list[int]:
    """
    Numbers of latent tokens to solve with: an autoregressive model can do with fewer than it was trained with, and its
    text alone is always trained, too.
    """
    trained = numbers_of(arm, study)
    if not arm.startswith("ar"):
        return trained
    return sorted({0, *trained, *(number for number in study["any_ahead"] if number < max(trained))})


def check(study: dict[str, Any]) -> None:
    """Raise `ValueError` for an arm or an order that there is not."""
    for arm in study["arms"]:
        numbers_of(arm, study)
    unknown = sorted(set(study.get("decodings", [])) - set(ORDERS))
    if unknown:
        raise ValueError(f"`decodings` must be of {', '.join(ORDERS)}, got {', '.join(unknown)}.")


def claim(folder: Path, study: dict[str, Any]) -> None:
    """Raise `ValueError` if `folder` has trainings of other values, which would be taken for this study's."""
    path, values = folder / "study.json", {name: value for name, value in study.items() if name not in MAY_CHANGE}
    if not path.is_file() and not any(folder.glob("*")):
        write_json(path, values)
    known = read_json_object(path)
    changed = sorted(name for name in {*known, *values} if known.get(name) != values.get(name))
    if changed:
        raise ValueError(
            f"`output_dir`={str(folder)!r} was begun with other values of {', '.join(changed)}: remove it, or name "
            "another."
        )


def build(arm: str, tokenizer: Any, study: dict[str, Any]) -> Any:
    """The arm's model; all have the same parameters."""
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {"model_type": "llama", "vocab_size": len(tokenizer), **special, **study["model"]}
    kinds = {
        "ar": {"attention": "semi_causal", "order": "left_to_right", "shift_logits": True},
        "mdm": {"attention": "bidirectional"},
    }
    kind = kinds.get(arm.split("+")[0], {"attention": "semi_causal"})
    return AutoModelForCausalLM.from_config(
        LatentTokenConfig(text_config=text, mask_token_id=tokenizer.mask_token_id, **kind)
    )


def train(arm: str, seed: int, study: dict[str, Any], task: Any, data: Any, folder: Path) -> tuple[Any, Any, Any]:
    """A trained model of the arm, its tokenizer, and the metrics of its training."""
    set_seed(seed)
    tokenizer = task.tokenizer()
    model = build(arm, tokenizer, study)
    values = {**study["training"], "seed": seed, "output_dir": str(folder / f"{arm}-{seed}"), "report_to": "none"}
    values |= {"save_strategy": "no", "disable_tqdm": not sys.stderr.isatty(), "loss_weighting": "uniform"}
    if arm == "mdm":
        trainer = MaskedDiffusionTrainer(
            model, MaskedDiffusionConfig(**values), train_dataset=data, processing_class=tokenizer
        )
    else:
        config = LatentTokenTrainingConfig(
            num_latent_tokens=numbers_of(arm, study), num_states=study["num_states"], **values
        )
        trainer = LatentTokenTrainer(model, config, train_dataset=data, processing_class=tokenizer)
    metrics = trainer.train().metrics
    return trainer.model.eval(), tokenizer, {"log": trainer.state.log_history, **metrics}


def solve(arm: str, model: Any, tokenizer: Any, study: dict[str, Any], repeats: int = 1) -> dict[str, Any]:
    """Held-out puzzles by number of latent tokens; seconds are the median of `repeats`."""
    task = get_task(study["task"], **study.get("task_options", {}))
    options = study.get("data_options", {})
    puzzles = list(task.dataset(study["num_test_examples"], 0, split="test", **options))
    solved = {}
    decodings = [None] if arm.startswith("ar") else study.get("decodings", ["low_confidence"])
    for number, decoding in itertools.product(numbers_to_try(arm, study), decodings):
        knobs: dict[str, Any] = {} if arm == "mdm" else {"num_latent_tokens": number}
        if decoding is not None:
            knobs |= {"decoding": decoding, "seed": 0}  # the seed draws random orders
        results = [solve_puzzles(model, tokenizer, task, puzzles, batch_size=100, **knobs) for _ in range(repeats)]
        seconds = statistics.median(result.seconds for result in results)
        name = f"{number}{ORDERS[decoding or 'low_confidence']}"
        solved[name] = results[0].to_dict() | {"seconds": seconds}
        print(arm, name, f"{results[0].accuracy:.3f}", f"{seconds / len(puzzles):.4f} s", flush=True)
    return solved


def made_of(path: Path, study: dict[str, Any]) -> dict[str, Any]:
    """What the results in a file are a function of, beside the values of the study: weights, puzzles."""
    task = get_task(study["task"], **study.get("task_options", {}))
    return {"model": identify_checkpoint(path.with_suffix("")), "task": {"name": task.name, "version": task.version}}


def run(arm: str, seed: int, study: dict[str, Any], folder: Path) -> None:
    """Train, solve, keep; what is there is kept if it belongs to the weights beside it."""
    path = folder / f"{arm}-{seed}.json"
    if path.is_file():
        check_made_of(path, made_of(path, study))
        return
    task = get_task(study["task"], **study.get("task_options", {}))
    if not (folder / "data").is_dir():  # on disk, so that `datasets` keeps what it makes of it for the next training
        data = task.dataset(study["num_train_examples"], 0, split="train", **study.get("data_options", {}))
        with replacing(folder / "data") as beside:
            data.save_to_disk(beside)
    data = load_from_disk(folder / "data")
    model, tokenizer, metrics = train(arm, seed, study, task, data, folder)
    model.save_pretrained(folder / f"{arm}-{seed}")
    tokenizer.save_pretrained(folder / f"{arm}-{seed}")
    result = {
        "arm": arm,
        "seed": seed,
        "solved": solve(arm, model, tokenizer, study),
        "train_seconds": metrics["train_runtime"],
        "num_parameters": model.num_parameters(),
        "log": metrics["log"],
        "environment": describe_environment(),
    }
    identity_file(path).unlink(missing_ok=True)  # of a training whose result was removed
    record_or_check(identity_file(path), made_of(path, study))
    write_json(path, result)


def time_again(arm: str, seed: int, study: dict[str, Any], folder: Path) -> None:
    """Solve once more with what was trained: seconds that were measured one after the other can be compared."""
    path = folder / f"{arm}-{seed}.json"
    if not path.is_file():
        return
    check_made_of(path, made_of(path, study))
    model, tokenizer = load_checkpoint(path.with_suffix(""))
    write_json(path, read_json(path) | {"solved": solve(arm, model, tokenizer, study, repeats=3)})


def num_tokens(solved: dict[str, Any]) -> float:
    """Tokens written for all puzzles."""
    return solved["tokens_per_forward"] * solved["forwards_per_example"] * solved["num_examples"]


def summarize(study: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A row per arm and number of latent tokens: mean and standard error over the seeds that are there."""
    rows = []
    for arm in study["arms"]:
        paths = (folder / f"{arm}-{seed}.json" for seed in study["seeds"])
        runs = [read_json(path) for path in paths if path.is_file()]
        if not runs:
            continue
        if len({tuple(found["solved"]) for found in runs}) > 1:
            raise ValueError(f"The seeds of {arm} were not all solved alike: --time_again solves them once more.")
        for number in runs[0]["solved"]:
            solved = [found["solved"][number] for found in runs]
            mean, error = mean_and_error([one["accuracy"] for one in solved])
            rows.append(
                {
                    "arm": arm,
                    "num_latent_tokens": None if arm == "mdm" else int(number.partition(",")[0]),
                    "order": number.lstrip("0123456789"),
                    "accuracy": mean,
                    "accuracies": [one["accuracy"] for one in solved],
                    "standard_error": error,
                    "num_seeds": len(runs),
                    "ms_per_token": 1000 * statistics.median(one["seconds"] / num_tokens(one) for one in solved),
                    "num_parameters": runs[0]["num_parameters"],
                    "train_seconds": statistics.median(found["train_seconds"] for found in runs),
                }
            )
    return rows


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    lines = [
        "| arm | latent tokens | solved, % | each seed | ms per token, batch 100 | training, s |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        error = "" if row["standard_error"] is None else f" ± {100 * row['standard_error']:.1f}"
        number = "all" if row["num_latent_tokens"] is None else row["num_latent_tokens"]
        each = ", ".join(f"{100 * accuracy:.1f}" for accuracy in row["accuracies"])
        lines.append(
            f"| {name_of(row)} | {number} | {100 * row['accuracy']:.1f}{error} | {each} | "
            f"{row['ms_per_token']:.2f} | {row['train_seconds']:.0f} |"
        )
    return "\n".join(lines)


def name_of(row: dict[str, Any]) -> str:
    """The arm, and how it wrote if not as usual."""
    return row["arm"] + row["order"]


def lines_of(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """What is connected in a plot: name of a line to its rows, by number of latent tokens."""

    def trained_for_it(row: dict[str, Any], plain: str, kind: str) -> bool:
        return row["arm"] == plain or row["arm"] == f"{kind}+{row['num_latent_tokens']}"

    single = [row for row in rows if re.fullmatch(r"ar\+\d+", row["arm"])]
    most = max((row["num_latent_tokens"] for row in single), default=0)
    lines = {
        "AR, each trained for its number": [row for row in rows if trained_for_it(row, "ar", "ar")],
        f"AR, trained for {most}": [row for row in single if row["arm"] == f"ar+{most}"],
        "AR, trained for any": [row for row in rows if row["arm"] == "ar+any"],
    }
    for how in ORDERS.values():
        written = [row for row in rows if row["order"] == how]
        lines |= {
            f"any order, each trained for its number{how}": [
                row for row in written if trained_for_it(row, "sidm", "scdm")
            ],
            f"any order, trained for any{how}": [row for row in written if row["arm"] == "scdm+any"],
            f"masked diffusion{how}": [row for row in written if row["arm"] == "mdm"],
        }
    by_number = {name: sorted(found, key=lambda row: row["num_latent_tokens"] or 0) for name, found in lines.items()}
    return {name: found for name, found in by_number.items() if found}


def plot(rows: Sequence[dict[str, Any]], path: Path, title: str) -> None:
    """Accuracy over latent tokens, and over milliseconds per token."""
    lines = lines_of(rows)
    figure = Figure(figsize=(10.5, 4.2 + 0.17 * math.ceil(len(lines) / 3)), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    colors: dict[str, str] = {}
    for name, found in lines.items():
        accuracy, order = [100 * row["accuracy"] for row in found], found[0]["order"]
        # A colour for who wrote, a mark and a dash for the order.
        color = colors.setdefault(name.removesuffix(order), f"C{len(colors)}")
        marker, dash = dict(zip(ORDERS.values(), (("o", "-"), ("s", "--"), ("^", ":")), strict=True))[order]
        style: dict[str, Any] = {"color": color, "marker": marker, "linestyle": dash, "markersize": 4, "capsize": 2}
        style |= {"yerr": [100 * (row["standard_error"] or 0.0) for row in found], "label": name}
        if found[0]["num_latent_tokens"] is None:
            axes[0].axhline(accuracy[0], linestyle=dash, color=color, label=name)
        else:
            axes[0].errorbar([row["num_latent_tokens"] for row in found], accuracy, **style)
        axes[1].errorbar([row["ms_per_token"] for row in found], accuracy, **style)
    axes[0].set(xlabel="latent tokens", ylabel="puzzles solved, %", title=title, ylim=(0, 102))
    axes[0].xaxis.get_major_locator().set_params(integer=True)
    axes[1].set(xlabel="ms per token, batch 100", xlim=(0, 1.05 * max(row["ms_per_token"] for row in rows)))
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    save_figure(figure, path)


def training_log(study: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Every logged value of every training."""
    return [
        {"arm": arm, "seed": seed, **entry}
        for arm, seed in itertools.product(study["arms"], study["seeds"])
        for entry in read_json_object(folder / f"{arm}-{seed}.json").get("log", ())
    ]


def headline(rows: list[dict[str, Any]], title: str) -> str:
    """What looking ahead gives: the autoregressive model without latent tokens, and the best with some."""
    causal = [row for row in rows if row["arm"].startswith("ar")]
    plain = next((row for row in causal if row["arm"] == "ar"), None)
    if plain is None or len(causal) == 1:
        return ""
    best = max((row for row in causal if row["num_latent_tokens"]), key=lambda row: row["accuracy"])
    tokens = f"{best['num_latent_tokens']} latent token{'' if best['num_latent_tokens'] == 1 else 's'}"
    return f"{title}: autoregressive {100 * plain['accuracy']:.1f} %, with {tokens} {100 * best['accuracy']:.1f} %"


def publish(rows: list[dict[str, Any]], study: dict[str, Any], config: Path, folder: Path) -> None:
    """Results, logs and plot; the table also goes into the card of `folder`, between the marks of this study."""
    name = config.stem.removeprefix("latent_tokens_study_")
    command = f"python recipes/studies/latent_tokens_study.py --config {config} --folder {folder}"
    said = headline(rows, study["title"])
    result = {"command": command, "study": study, "rows": rows, "environment": describe_environment()}
    write_json(folder / f"{name}.json", result | {"headline": said})
    summary, count = folder / "results.json", study["num_test_examples"]
    known = read_json_object(summary).get("headlines", {}) | {name: said}
    whole = "; ".join(filter(None, known.values()))
    write_json(summary, {"command": command, "headline": whole, "headlines": known, "num_examples": count})
    write_lines(folder / f"{name}_training_log.jsonl", training_log(study, Path(study["output_dir"])))
    plot(rows, folder / f"{name}.png", study["title"])
    begin, end = f"<!-- study:{name} -->\n", f"<!-- /study:{name} -->"
    put_between(folder / "README.md", begin, end, f"{table(rows)}\n\n```\n{command}\n```\n")


def main() -> None:
    """Run the study, or this process's part of it."""
    parser = script_parser(__doc__)
    parser.add_argument("--config", type=Path, required=True, help="YAML of the study")
    parser.add_argument("--arms", nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", help="only these")
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1), metavar=("K", "N"), help="share of the trainings")
    parser.add_argument("--time_again", action="store_true", help="train nothing; solve again, for the clock")
    parser.add_argument("--summarize", action="store_true", help="train nothing; what is there is enough")
    parser.add_argument("--folder", type=Path, help="where table and plot go; none are written without")
    args = parser.parse_args()
    study = yaml.safe_load(args.config.read_text(encoding="utf-8"))
    work = Path(study["output_dir"])
    check(study | {"arms": args.arms or study["arms"]})
    work.mkdir(parents=True, exist_ok=True)
    claim(work, study)
    wanted = [(arm, seed) for seed in args.seeds or study["seeds"] for arm in args.arms or study["arms"]]
    for arm, seed in [] if args.summarize else wanted[args.part[0] :: args.part[1]]:
        (time_again if args.time_again else run)(arm, seed, study, work)
    rows = summarize(study, work)
    print(table(rows))
    if args.folder is not None:
        publish(rows, study, args.config, args.folder)


if __name__ == "__main__":
    main()
