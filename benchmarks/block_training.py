"""
Time of a training step on `[x_t | x_0]`: `MaskedDiffusionTrainer`, and the bare computation.

Bare: forward of the decoder over the noisy and the clean columns that masked tokens depend on, under a mask made
beforehand, logits of the masked positions in one matrix, cross entropy, backward and optimizer. "All columns": the
same over all of `[x_t | x_0]`, prompts twice. "Bidirectional": a step of the trainer on a bidirectional model of the
same size, which reads the rows once. All take turns in one process, on the same rows.

    python benchmarks/block_training.py --repeats 7 --json benchmarks/block_training.json

Prints a table, then the same content as one JSON line. Times are medians of wall seconds over the repeats.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from parts.report import describe_run, write_result
from parts.trainer_steps import (
    BATCH,
    LENGTH,
    PROMPT_LENGTH,
    SIZES,
    TrainerStep,
    median_seconds,
    optimizing,
    special_ids,
    take_turns,
)

from hf_latent import LatentTokenConfig, LatentTokenForMaskedDiffusion
from hf_latent.generation.model_calls.block_causal_masks import noisy_and_clean_visibility
from hf_latent.training.masked_diffusion.block_inputs import BlockRows

VOCAB_SIZE = 49_152
KINDS = ("trainer", "bare", "all columns", "bidirectional")


def build_model(attention: str, block_size: int | None) -> LatentTokenForMaskedDiffusion:
    torch.manual_seed(0)
    text = {"model_type": "llama", "vocab_size": VOCAB_SIZE, **SIZES}
    fields = {"attention": attention, "block_size": block_size, **special_ids(VOCAB_SIZE)}
    return LatentTokenForMaskedDiffusion(LatentTokenConfig(text_config=text, **fields)).train()


def build_steps(block_size: int) -> dict[str, Callable[[], None]]:
    """A step of each kind."""
    blocks, bidirectional = build_model("block_causal", block_size), build_model("bidirectional", None)
    trainer = TrainerStep(blocks)
    ids = trainer.ids
    masked = torch.zeros_like(ids, dtype=torch.bool)
    masked[:, PROMPT_LENGTH:] = torch.arange(LENGTH - PROMPT_LENGTH) % 2 == 0  # half, as the trainer on average
    everything = BlockRows(
        noisy=ids.masked_fill(masked, VOCAB_SIZE - 1),
        clean=ids,
        position_ids=torch.arange(LENGTH).expand_as(ids),
        exists=torch.ones_like(masked),
        masked=masked,
        block_size=block_size,
    )
    visible = noisy_and_clean_visibility(everything.position_ids, everything.exists, block_size)
    columns = torch.arange(2 * LENGTH)[None]
    whole = {
        "input_ids": torch.cat([everything.noisy, ids], 1),
        "position_ids": everything.position_ids.repeat(1, 2),
        "attention_mask": blocks.block_causal_masks()(visible, visible, columns, torch.float32),
    }
    given = dict(trainer.seen)
    at, targets = given.pop("logits_to_keep"), given.pop("targets")
    return {
        "trainer": trainer,
        "bare": bare_step(blocks, given, at, targets),
        "all columns": bare_step(blocks, whole, masked.nonzero(as_tuple=True), ids[masked]),
        "bidirectional": TrainerStep(bidirectional),
    }


def bare_step(
    model: LatentTokenForMaskedDiffusion, given: dict[str, Any], at: Any, targets: torch.Tensor
) -> Callable[[], None]:
    finish = optimizing(model)

    def step() -> None:
        states = model.model(**given, use_cache=False).last_hidden_state
        finish(F.cross_entropy(model.lm_head(states[at]), targets))

    return step


def compare(block_size: int, repeats: int) -> dict[str, Any]:
    """Median seconds of each kind, in turns, and the ratios of turns."""
    times = take_turns(build_steps(block_size), repeats)
    ratios = {
        other: statistics.median(a / b for a, b in zip(times["trainer"], times[other], strict=True))
        for other in KINDS[1:]
    }
    return {
        "block_size": block_size,
        "seconds": median_seconds(times),
        **{f"trainer_over_{other.replace(' ', '_')}": round(ratio, 3) for other, ratio in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block_sizes", type=int, nargs="+", default=[4, 32])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="file for the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = []
    for block_size in args.block_sizes:
        rows.append(row := compare(block_size, args.repeats))
        print(
            f"blocks of {block_size:>3}: trainer {row['seconds']['trainer']:.2f} s, {row['trainer_over_bare']:.3f} of "
            f"bare, {row['trainer_over_all_columns']:.2f} of all columns, "
            f"{row['trainer_over_bidirectional']:.2f} of the bidirectional model",
            flush=True,
        )
    command = f"python benchmarks/block_training.py --repeats {args.repeats}"
    result = {
        **describe_run(command, args.threads),
        "shape": f"8 layers of width 256, vocabulary {VOCAB_SIZE:,}, {BATCH}",
        "rows": rows,
    }
    write_result(result, args.json)


if __name__ == "__main__":
    main()
