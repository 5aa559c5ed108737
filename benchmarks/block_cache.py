"""
What a block cache saves on long prompts, against what the skipped positions predict.

The same prompts are decoded without a cache, with the prefix cache and with the dual cache, in as many forwards. The
prediction counts positions: forwards times length without a cache, the windows that are really read with one. It takes
a forward's time for proportional to its positions; `calls`, the ratio of the time in the model's own calls, says how
far that holds for this model on this machine. Random weights: this is about time, not about what is written.

    python benchmarks/block_cache.py --repeats 5 --json benchmarks/block_cache.json

Wall seconds, medians over the repeats of interleaved runs, one thread unless told otherwise.
"""

import argparse
import statistics

import torch
from generation_overhead import build_model
from parts.bare_forwards import Stopwatch
from parts.report import describe_run, timed, write_result

NEW_TOKENS, BLOCK_LENGTH, NUM_FORWARDS = 64, 32, 16
# (model, prompt tokens, rows): 8 million parameters, where the fixed cost of a forward counts, and SmolLM2's shape.
CASES = (
    ("8M", 256, 1),
    ("8M", 512, 1),
    ("8M", 512, 4),
    ("8M", 1024, 1),
    ("8M", 1024, 4),
    ("8M", 2048, 1),
    ("SmolLM2-135M", 512, 1),
    ("SmolLM2-135M", 1024, 1),
)


@torch.no_grad()
def compare(model: torch.nn.Module, prompt_length: int, batch_size: int, repeats: int) -> list[dict]:
    prompt = torch.randint(0, model.config.vocab_size - 2, (batch_size, prompt_length))
    settings = {"max_new_tokens": NEW_TOKENS, "block_length": BLOCK_LENGTH, "eos_token_id": None}
    # A threshold that nothing passes: as many forwards whatever random weights believe.
    settings |= {"decoding": "med", "entropy_threshold": 0.0, "max_denoising_steps": NUM_FORWARDS}
    kinds = (None, "prefix", "dual")
    stopwatch = Stopwatch(model)
    positions: dict[str | None, int] = {}
    seconds: dict[str | None, list[float]] = {kind: [] for kind in kinds}
    calls: dict[str | None, list[float]] = {kind: [] for kind in kinds}
    for kind in kinds:  # also warms up
        stopwatch.reset(examine=True)
        model.generate(prompt, block_cache=kind, **settings)
        positions[kind] = sum(inputs["input_ids"].numel() for inputs, _ in stopwatch.calls)
    for repeat in range(repeats):
        for kind in kinds[:: 1 if repeat % 2 else -1]:
            stopwatch.reset()
            seconds[kind].append(timed(lambda kind=kind: model.generate(prompt, block_cache=kind, **settings)))
            calls[kind].append(stopwatch.seconds)
    stopwatch.remove()
    rows = []
    for kind in ("prefix", "dual"):
        ratios = _ratios(seconds, kind)
        rows.append(
            {
                "block_cache": kind,
                "prompt_length": prompt_length,
                "batch": batch_size,
                "seconds_without": statistics.median(seconds[None]),
                "seconds": statistics.median(seconds[kind]),
                "predicted": positions[None] / positions[kind],
                "calls": statistics.median(_ratios(calls, kind)),
                "measured": statistics.median(ratios),
                "measured_min": min(ratios),
                "measured_max": max(ratios),
            }
        )
    return rows


def _ratios(seconds: dict[str | None, list[float]], kind: str) -> list[float]:
    return [plain / cached for plain, cached in zip(seconds[None], seconds[kind], strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="also write the JSON line to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    models = {shape: build_model(shape) for shape, _, _ in CASES}
    rows = [
        {"model": shape} | row
        for shape, prompt_length, batch_size in CASES
        for row in compare(models[shape], prompt_length, batch_size, args.repeats)
    ]
    print(
        f"{'model':>12} {'cache':>7} {'prompt':>6} {'batch':>5} {'without s':>9} {'with s':>7} {'predicted':>9} "
        f"{'calls':>5} {'measured':>8}  min-max"
    )
    for r in rows:
        print(
            f"{r['model']:>12} {r['block_cache']:>7} {r['prompt_length']:>6} {r['batch']:>5} "
            f"{r['seconds_without']:>9.2f} {r['seconds']:>7.2f} {r['predicted']:>9.2f} {r['calls']:>5.2f} "
            f"{r['measured']:>8.2f}  "
            f"{r['measured_min']:.2f}-{r['measured_max']:.2f}"
        )
    result = {
        **describe_run(f"python benchmarks/block_cache.py --repeats {args.repeats}", args.threads),
        "new_tokens": NEW_TOKENS,
        "block_length": BLOCK_LENGTH,
        "forwards": NUM_FORWARDS,
        "repeats": args.repeats,
        "rows": rows,
    }
    write_result(result, args.json)


if __name__ == "__main__":
    main()
