"""The end of a run on the command line: a table and the next command, or, interrupted, how to go on."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from hf_latent.data.output_folders import only_run_in
from hf_latent.training.runs.checkpoints import find_newest

INTERRUPTED = 130  # what shells give for ctrl-C
RESUME = "--resume_from_checkpoint"


@contextmanager
def going_on(args: TrainingArguments) -> Iterator[None]:
    """
    Hold the run's folder against a second run, and on ctrl-C say in one line what is kept and which command goes on,
    and leave with the exit status 130.
    """
    try:
        with only_run_in(args.output_dir) if args.process_index == 0 else nullcontext():
            yield
    except KeyboardInterrupt:
        if args.process_index == 0:
            found = find_newest(args.output_dir)
            kept = "no checkpoint yet" if found.checkpoint is None else f"{found.checkpoint} is kept"
            command = command_to_go_on(args.resume_from_checkpoint)
            sys.stderr.write(f"\nInterrupted; {kept}. To go on: {command}\n")
        raise SystemExit(INTERRUPTED) from None


def command_to_go_on(resume: Any = None) -> str:
    """
    The command of this process, as it goes on from the newest checkpoint.

    Args:
        resume: what the run was told of `resume_from_checkpoint`, by the command or its YAML.
    """
    words, given = [], iter(sys.argv[1:])
    for word in given:
        name, _, value = word.partition("=")
        if name.replace("-", "_") != RESUME.replace("-", "_"):
            words.append(word)
        elif not value:
            next(given, None)
    if str(resume).lower() not in ("none", "auto", "true"):
        words += [RESUME, "auto"]
    program = [Path(sys.argv[0]).name]
    if Path(sys.argv[0]).name == "__main__.py":
        program = ["python", "-m", ".".join(Path(sys.argv[0]).parts[-3:-1])]
    elif sys.argv[0].endswith(".py"):
        program = ["python", sys.argv[0]]
    command = shlex.join([*program, *words])
    return f"{command} (with the launcher of before)" if int(os.environ.get("WORLD_SIZE", 1)) > 1 else command


def last_loss(history: list[dict[str, Any]]) -> float | None:
    """What was logged last as `loss`; None if nothing was."""
    return next((entry["loss"] for entry in reversed(history) if "loss" in entry), None)


def describe_end(results: dict[str, Any], output_dir: str | os.PathLike) -> str:
    """A table of how the run ended, where things lie, and the command to go on with."""
    folder = Path(output_dir)
    seconds = results["train_seconds"]
    rows = [("steps", f"{results['steps']:,}"), ("seconds", f"{seconds:,.1f}")]
    if results.get("loss") is not None:
        rows.append(("loss, last logged", f"{results['loss']:.4f}"))
    rows += [
        (name.replace("eval_", "held out, "), f"{value:.4f}")
        for name, value in results.get("held_out", {}).items()
        if isinstance(value, float) and name in ("eval_loss", "eval_nll", "eval_text_nll", "eval_masked_accuracy")
    ]
    solved = results.get("generation", {})
    if isinstance(solved.get("accuracy"), float):
        rows.append(("held out, solved", f"{100 * solved['accuracy']:.1f} % of {solved['num_examples']:,}"))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {value}" for name, value in rows]
    files = [name for name in ("results.json", "training_log.jsonl", "training_curve.png") if (folder / name).exists()]
    lines += ["", f"The model is in {folder}, with {', '.join(files)}.", f"Next: {next_command(folder)}"]
    return "\n".join(lines)


def next_command(folder: Path) -> str:
    """What one does with a model that has just been trained: let it write."""
    adapter = folder / "adapter_config.json"
    if adapter.is_file():
        base = json.loads(adapter.read_text(encoding="utf-8")).get("base_model_name_or_path")
        return shlex.join(["hf-latent", "generate", str(base), "--adapter", str(folder), "Your prompt"])
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    next_stage = f"--model_name_or_path {shlex.quote(str(folder))} ..."
    if config.get("model_type") == "latent_diffusion" and "LatentAutoencoder" in (config.get("architectures") or ()):
        return f"python recipes/latent_diffusion/stages.py --stage denoiser {next_stage}"
    if config.get("model_type") in ("bart", "t5"):
        return f"python recipes/latent_diffusion/stages.py {next_stage}"
    return shlex.join(["hf-latent", "generate", str(folder), "Your prompt"])


__all__ = ["command_to_go_on", "describe_end", "going_on", "last_loss", "next_command"]
