"""What a run leaves beside its checkpoint: configuration, versions, log, results, curve."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hf_latent.hub.bundles.commit import current_commit
from hf_latent.modeling.atomic import replacing, write_atomically

PACKAGES = ("hf-latent", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "lm_eval")


def write_text(path: Path, text: str) -> None:
    """Make the folder, write beside, then rename: an interruption leaves the previous file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Indented JSON; what JSON does not know is written as its `str`."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def write_log(folder: Path, history: list[dict[str, Any]]) -> None:
    """`training_log.jsonl`: one line per entry of the trainer's log, from the first step on, also after a resume."""
    write_text(folder / "training_log.jsonl", "".join(json.dumps(entry, default=str) + "\n" for entry in history))


def describe_environment() -> dict[str, Any]:
    """Versions, commit (None outside a checkout) and hardware."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "device": device,
        "commit": current_commit(),
        "packages": versions,
    }


def peak_memory() -> int:
    """MiB that this process has held at most so far: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20)
    try:
        import resource
    except ImportError:  # Windows
        return -1
    unit = 2**20 if platform.system() == "Darwin" else 2**10
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit)


def describe_training(folder: Path, data: str, recipe: str) -> str:
    """The training section of a card, from what a run has left in `folder`; `recipe`: the command that repeats it."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    training = json.loads((folder / "run.json").read_text(encoding="utf-8"))["training"]
    device = results["run"]["environment"]["device"].replace("1 threads", "1 thread")
    batch_size = training["per_device_train_batch_size"]
    return (
        f"On {data}: {results['steps']:,} updates of {batch_size} examples in "
        f"{results['train_seconds'] / 60:.0f} minutes ({device}, shared with other work), float32. Only completion "
        f"tokens are masked, each with probability t ~ U(0, 1); every masked token counts the same.\n\n"
        f"```\n{recipe}\n```\n\nEvery logged value: `training_log.jsonl`."
    )


def plot_training_curve(history: list[dict[str, Any]], path: Path) -> None:
    """Plot bound and task accuracy of a trainer's log over optimizer steps; what was not logged is left out."""
    from matplotlib.figure import Figure  # without pyplot: no display, no global state

    series = [
        ("nll", "training", "nats per token"),
        ("eval_nll", "held out", "nats per token"),
        ("text_nll", "training, next token", "nats per token"),
        ("next_nll", "training, next token, looking ahead", "nats per token"),
        ("eval_text_nll", "held out, next token", "nats per token"),
        ("eval_next_nll", "held out, next token, looking ahead", "nats per token"),
        ("eval_accuracy", "solved", "share of instances"),
    ]
    points = {name: [(entry["step"], entry[name]) for entry in history if name in entry] for name, _, _ in series}
    units = [
        unit for unit in ("nats per token", "share of instances") if any(points[n] for n, _, u in series if u == unit)
    ]
    figure = Figure(figsize=(4.5 * max(len(units), 1), 3.2), layout="constrained")
    for number, unit in enumerate(units, 1):
        axis = figure.add_subplot(1, len(units), number, xlabel="optimizer steps", ylabel=unit)
        for name, label, own in series:
            if own == unit and points[name]:
                axis.plot(*zip(*points[name], strict=True), label=label, linewidth=1.2)
        axis.legend(frameon=False)
        if unit == "share of instances":
            axis.set_ylim(-0.02, 1.02)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)


__all__ = ["describe_environment", "plot_training_curve", "write_json", "write_log", "write_text"]
