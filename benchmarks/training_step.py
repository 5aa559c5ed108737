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
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from report import describe_run, write_result

from hf_latent import LladaConfig, LladaForMaskedDiffusion
from hf_latent.tasks import sudoku_tokenizer
from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer

BATCH_SIZE, LENGTH, PROMPT_LENGTH = 8, 256, 64
KINDS = ("trainer", "bare", "all logits")


def build_model(vocab_size: int) -> LladaForMaskedDiffusion:
    torch.manual_seed(0)
    special = {"mask_token_id": vocab_size - 1, "eos_token_id": vocab_size - 2, "pad_token_id": vocab_size - 2}
    config = LladaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=8,
        **special,
    )
    return LladaForMaskedDiffusion(config).train()


def build_steps(vocab_size: int) -> dict[str, Callable[[], None]]:
    """A step of each kind, on a model and an optimizer that they share."""
    model = build_model(vocab_size)
    ids = torch.randint(0, vocab_size - 2, (BATCH_SIZE, LENGTH), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[:, :PROMPT_LENGTH] = -100
    rows = [{"input_ids": i, "labels": k} for i, k in zip(ids.tolist(), labels.tolist(), strict=True)]
    tokenizer = sudoku_tokenizer(4)  # for padding, of which there is none
    tokenizer.mask_token = None
    with tempfile.TemporaryDirectory() as folder:
        args = MaskedDiffusionConfig(folder, use_cpu=True, report_to="none", max_length=LENGTH, disable_tqdm=True)
        trainer = MaskedDiffusionTrainer(
            model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
    trainer.model.train()
    batch = trainer.data_collator([{**row, "example_id": i} for i, row in enumerate(rows)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    seen: dict[str, Any] = {}
    hook = model.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        trainer.compute_loss(model, dict(batch))
    hook.remove()
    noisy, masked = seen["input_ids"], seen["logits_to_keep"]
    attention = seen["attention_mask"]
    weights = torch.rand(BATCH_SIZE, LENGTH) + 0.5

    def finish(loss: torch.Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def ours() -> None:
        finish(trainer.compute_loss(model, dict(batch)))

    def bare() -> None:
        logits = model(noisy, attention_mask=attention, logits_to_keep=masked).logits
        finish((F.cross_entropy(logits, ids[masked], reduction="none") * weights[masked]).mean())

    def all_logits() -> None:
        logits = model(noisy, attention_mask=attention).logits
        nll = F.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        finish((nll * weights * masked).sum() / masked.sum())

    return dict(zip(KINDS, (ours, bare, all_logits), strict=True))


def compare(vocab_size: int, repeats: int) -> dict[str, Any]:
    """Median seconds of each kind, in turns, and the ratios of turns."""
    steps = build_steps(vocab_size)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for repeat in range(repeats + 1):
        order = list(KINDS)[:: 1 if repeat % 2 else -1]
        for kind in order:
            start = time.perf_counter()
            steps[kind]()
            if repeat:  # the first turn warms up
                times[kind].append(time.perf_counter() - start)
    ratios = {
        other: statistics.median(a / b for a, b in zip(times[other], times["trainer"], strict=True))
        for other in ("bare", "all logits")
    }
    return {
        "seconds": {kind: round(statistics.median(values), 4) for kind, values in times.items()},
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
        "shape": f"8 layers of width 256, batch {BATCH_SIZE} x {LENGTH}, of which {PROMPT_LENGTH} are prompt",
        "rows": rows,
    }
    write_result(result, args.json)


if __name__ == "__main__":
    main()
