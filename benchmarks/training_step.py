"""
Time and memory of a training step: `MaskedDiffusionTrainer`, the bare computation, and a step with all logits.

Bare: forward, cross entropy of the masked tokens from one matrix of their logits, backward and optimizer, with masks
that are drawn beforehand. All logits: what reference code does, the logits of every position and the cross entropy of
all of them, weighted by the mask. All three have the same model, batch and masks, and take turns in one process.
Memory: the most that a step holds above what model and optimizer hold between steps, each kind in a process of its own
that runs nothing else (Linux).

    python benchmarks/training_step.py --repeats 7 --json benchmarks/training_step.json

Prints a table, then the same content as one JSON line. Times are medians of wall seconds over the repeats.
"""

import argparse
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from parts.report import describe_run, write_result
from parts.trainer_steps import BATCH, SIZES, TrainerStep, median_seconds, special_ids, take_turns

from hf_latent import LladaConfig, LladaForMaskedDiffusion

KINDS = ("trainer", "bare", "all logits")


def build_model(vocab_size: int) -> LladaForMaskedDiffusion:
    torch.manual_seed(0)
    config = LladaConfig(vocab_size=vocab_size, **SIZES, **special_ids(vocab_size))
    return LladaForMaskedDiffusion(config).train()


def build_steps(vocab_size: int) -> dict[str, Callable[[], None]]:
    """A step of each kind, on a model and an optimizer that they share."""
    model = build_model(vocab_size)
    trainer = TrainerStep(model)
    ids, seen, finish = trainer.ids, trainer.seen, trainer.finish
    noisy, masked = seen["input_ids"], seen["logits_to_keep"]
    attention = seen["attention_mask"]
    weights = torch.rand(ids.shape) + 0.5

    def bare() -> None:
        logits = model(noisy, attention_mask=attention, logits_to_keep=masked).logits
        finish((F.cross_entropy(logits, ids[masked], reduction="none") * weights[masked]).mean())

    def all_logits() -> None:
        logits = model(noisy, attention_mask=attention).logits
        nll = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        finish((nll * weights * masked).sum() / masked.sum())

    return dict(zip(KINDS, (trainer, bare, all_logits), strict=True))


def compare(vocab_size: int, repeats: int) -> dict[str, Any]:
    """Median seconds of each kind, in turns, and the ratios of turns."""
    times = take_turns(build_steps(vocab_size), repeats)
    ratios = {
        other: statistics.median(a / b for a, b in zip(times[other], times["trainer"], strict=True))
        for other in ("bare", "all logits")
    }
    return {
        "seconds": median_seconds(times),
        "trainer_over_bare": round(1 / ratios["bare"], 3),
        "all_logits_over_trainer": round(ratios["all logits"], 3),
    }


def peak(vocab_size: int, kind: str) -> float:
    """MiB that a step needs at most, above what the model and its optimizer hold between steps."""
    step = build_steps(vocab_size)[kind]
    step()
    Path("/proc/self/clear_refs").write_text("5")  # only what is held now counts
    before = resident_peak()
    step()
    return (resident_peak() - before) / 1024


def resident_peak() -> int:
    """Most KiB that this process has held since the counter was reset (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def peak_of_process(vocab_size: int, kind: str) -> float:
    command = [sys.executable, __file__, "--vocab_sizes", str(vocab_size), "--memory_of", kind]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab_sizes", type=int, nargs="+", default=[49_152, 126_464])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="file for the results")
    parser.add_argument("--memory_of", choices=KINDS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print(peak(args.vocab_sizes[0], args.memory_of))
        return
    rows = []
    for vocab_size in args.vocab_sizes:
        memory = {kind: round(peak_of_process(vocab_size, kind)) for kind in KINDS}
        rows.append({"vocab_size": vocab_size, **compare(vocab_size, args.repeats), "peak_mib": memory})
        row = rows[-1]
        print(
            f"vocabulary {vocab_size:>7,}: trainer {row['seconds']['trainer']:.2f} s, {row['trainer_over_bare']:.3f} "
            f"of bare; all logits takes {row['all_logits_over_trainer']:.2f} times as long; memory "
            + ", ".join(f"{kind} {value:,} MiB" for kind, value in memory.items()),
            flush=True,
        )
    result = {
        **describe_run(
            f"python benchmarks/training_step.py --repeats {args.repeats} --vocab_sizes "
            + " ".join(map(str, args.vocab_sizes)),
            args.threads,
        ),
        "shape": f"8 layers of width 256, {BATCH}",
        "rows": rows,
    }
    write_result(result, args.json)


if __name__ == "__main__":
    main()
