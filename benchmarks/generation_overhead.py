"""
Wall time of `generate` against that of its forwards, and against a loop that computes all logits.

The forwards of a run are called once more, bare: inputs of the same shapes and the same cached columns, logits of
every position that is read, nothing between them. What `generate` takes beyond them is what canvas, belief, rule and
books cost, and what latent refinement, the answer's entropy, the report and the caches add; it computes the logits of
open positions only, so that it may take less. `own` leaves that out: the same against its own model calls, timed
inside the run, so that a machine which slows down slows both sides. `least` is what no decoder can do without: the
softmax of each call's logits and their maxima, timed behind the calls of the run that warms up. With a large
vocabulary, `generate` is compared to a plain loop that computes the logits of every position at every step and
softmaxes them, as reference code does.

    python benchmarks/generation_overhead.py --repeats 3 --json benchmarks/generation_overhead.json \\
        --plot benchmarks/generation_overhead.png

Prints a table, then the same content as one JSON line; with `--plot`, draws both ratios over the time of a forward.
Times are wall seconds; ratios are medians over the repeats, in which runs and bare forwards take turns.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from parts.bare_forwards import Stopwatch
from parts.report import describe_run, timed, write_result
from parts.shapes import SHAPES

from hf_latent import LladaConfig, LladaForMaskedDiffusion

PROMPT_LENGTH, NEW_TOKENS, BLOCK_LENGTH = 64, 128, 32
MAX_STEPS = {"8M": 64, "31M": 32, "SmolLM2-135M": 16}  # steps of a run
LIMIT = 1.03  # what is wanted; what is above it is named in the picture
BESIDE: dict[str, Any] = {"xytext": (5, 2), "rotation": 25, "textcoords": "offset points", "fontsize": 8}
TICKS = (10, 20, 50, 100, 200, 500)  # ms
# Random weights believe nothing; a head this many times as large makes beliefs peaked.
PEAK = 20.0
# Beside the plain rules: what may be plugged in, with thresholds that never fire, so that the forwards are the same.
FEATURES = {
    "latent refinement": {"latent_refinement": True, "refinement_steps": 2, "stop_kl": 0.0},
    "report": {"return_dict_in_generate": True},
    "appended blocks": {"append_blocks": True},
    "prefix cache": {"block_cache": "prefix"},
    "dual cache": {"block_cache": "dual"},
}


def build_model(shape: str, vocab_size: int = 4096) -> LladaForMaskedDiffusion:
    torch.manual_seed(0)
    sizes = {"vocab_size": vocab_size} | SHAPES[shape]
    vocab_size = sizes["vocab_size"]
    ends = {"eos_token_id": vocab_size - 2, "pad_token_id": vocab_size - 2}
    model = LladaForMaskedDiffusion(LladaConfig(**sizes, **ends, mask_token_id=vocab_size - 1)).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(PEAK)
    return model


def knobs(decoding: str, num_steps: int) -> dict:
    # Random weights end rows at random and are never sure: no end token, and steps fixed for the adaptive rules too.
    settings = {"max_new_tokens": NEW_TOKENS, "block_length": BLOCK_LENGTH, "eos_token_id": None}
    return settings | {"decoding": decoding, "max_denoising_steps": num_steps}


@torch.no_grad()
def overhead(
    model: LladaForMaskedDiffusion,
    stopwatch: Stopwatch,
    batch_size: int,
    decoding: str,
    repeats: int,
    feature: str | None = None,
    max_steps: int = 64,
) -> dict:
    prompt = torch.randint(0, model.config.vocab_size - 2, (batch_size, PROMPT_LENGTH))
    settings = knobs(decoding, num_steps=max_steps // batch_size)  # the same time for every batch size
    settings |= FEATURES.get(feature or "", {})
    if feature == "answer entropy":
        masks = torch.full((batch_size, NEW_TOKENS), model.config.mask_token_id)
        prompt = torch.cat([prompt, masks], dim=1)
        answer = torch.zeros_like(prompt, dtype=torch.bool)
        answer[:, -10:] = True
        settings = {k: v for k, v in settings.items() if k != "max_new_tokens"}
        settings |= {"answer_mask": answer, "early_exit_threshold": 0.0}
    stopwatch.reset(examine=True)
    model.generate(prompt, **settings)  # warms up
    least = 1 + stopwatch.softmax_seconds / stopwatch.seconds
    runs = []
    for _ in range(repeats):
        stopwatch.reset()
        whole = timed(lambda: model.generate(prompt, **settings))
        own, num_forwards = stopwatch.seconds, stopwatch.forwards
        runs.append((whole, own, stopwatch.repeat()))
    ratios = [whole / bare for whole, _, bare in runs]
    own_ratios = [whole / own for whole, own, _ in runs]
    return {
        "batch": batch_size,
        "decoding": decoding,
        "feature": feature,
        "forwards": num_forwards,
        "bare_s": statistics.median(bare for *_, bare in runs),
        "own_s": statistics.median(own for _, own, _ in runs),
        "generate_s": statistics.median(whole for whole, *_ in runs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "own": statistics.median(own_ratios),
        "own_min": min(own_ratios),
        "own_max": max(own_ratios),
        "least": least,
    }


@torch.no_grad()
def plain_loop(model: LladaForMaskedDiffusion, prompt: torch.Tensor, num_steps: int) -> torch.Tensor:
    """One token per row and forward by confidence, with the logits of every position at every step."""
    mask_token_id = model.config.mask_token_id
    ids = torch.cat([prompt, torch.full((len(prompt), NEW_TOKENS), mask_token_id)], dim=1)
    for step in range(num_steps):
        block_end = PROMPT_LENGTH + (step * NEW_TOKENS // num_steps // BLOCK_LENGTH + 1) * BLOCK_LENGTH
        logits = model(ids).logits
        confidence, token = logits.softmax(-1).max(-1)
        confidence = confidence.masked_fill(ids != mask_token_id, -1.0)
        confidence[:, block_end:] = -1.0
        best = confidence.topk(NEW_TOKENS // num_steps, dim=-1).indices
        ids.scatter_(1, best, token.gather(1, best))
    return ids


@torch.no_grad()
def against_all_logits(model: LladaForMaskedDiffusion, num_steps: int, repeats: int) -> dict:
    prompt = torch.randint(0, model.config.vocab_size - 2, (1, PROMPT_LENGTH))
    settings = knobs("low_confidence", num_steps)
    pairs = [
        (timed(lambda: plain_loop(model, prompt, num_steps)), timed(lambda: model.generate(prompt, **settings)))
        for _ in range(repeats)
    ]
    ratios = [loop / run for loop, run in pairs]
    return {
        "vocab_size": model.config.vocab_size,
        "forwards": num_steps,
        "all_logits_s": statistics.median(p[0] for p in pairs),
        "generate_s": statistics.median(p[1] for p in pairs),
        "speedup": statistics.median(ratios),
        "speedup_min": min(ratios),
        "speedup_max": max(ratios),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """What `generate` takes beyond its forwards, over how long one takes; the line is at 3 %."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name, title in zip(
        panels, ("ratio", "own"), ("beside bare forwards of the same shapes", "beside its own calls"), strict=True
    ):
        for number, shape in enumerate(SHAPES):
            for batch, marker in ((1, "o"), (8, "s")):
                found = [row for row in rows if row["model"] == shape and row["batch"] == batch]
                if not found:
                    continue
                milliseconds = [1000 * row["own_s"] / row["forwards"] for row in found]
                percent = [100 * (row[name] - 1) for row in found]
                label = f"{shape}, batch {batch}" if name == "own" else None
                axes.scatter(milliseconds, percent, color=f"C{number}", marker=marker, s=20, label=label)
                for row, x, y in zip(found, milliseconds, percent, strict=True):
                    if row[name] > LIMIT:
                        axes.annotate(row["feature"] or row["decoding"], (x, y), **BESIDE)
        axes.margins(y=0.15)
        axes.axhline(100 * (LIMIT - 1), color="grey", linestyle="--", linewidth=1)
        axes.axhline(0, color="grey", linewidth=0.8)
        axes.set(xlabel="ms per model call", xscale="log", title=title)
        axes.set_xticks(TICKS, map(str, TICKS))
        axes.xaxis.set_minor_formatter("")
        axes.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("more than the forwards, %")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=120)


def measure(shape: str, repeats: int) -> list[dict[str, Any]]:
    """Every rule and feature with a model of that shape, printed row by row."""
    batches = (1, 8) if shape == "8M" else (1,)
    cases = [(batch, rule, None) for batch in batches for rule in ("low_confidence", "entropy", "med")]
    cases += [(batch, "med", feature) for batch in batches for feature in (*FEATURES, "answer entropy")]
    model = build_model(shape)
    stopwatch = Stopwatch(model)
    rows = []
    for batch_size, decoding, feature in cases:
        r = overhead(model, stopwatch, batch_size, decoding, repeats, feature, MAX_STEPS[shape])
        rows.append({"model": shape} | r)
        print(
            f"{shape:>12} {r['batch']:>5} {r['decoding']:>15} {r['feature'] or '':>18} {r['forwards']:>8} "
            f"{r['bare_s']:>7.3f} {r['generate_s']:>10.3f} {r['ratio']:>6.3f}  {r['ratio_min']:.3f}-"
            f"{r['ratio_max']:.3f} {r['own']:>6.3f}  {r['own_min']:.3f}-{r['own_max']:.3f} {r['least']:.3f}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=SHAPES,
        default=list(SHAPES),
        help="the others keep their rows in --json",
    )
    parser.add_argument("--json", help="also write the JSON line to this file")
    parser.add_argument("--plot", type=Path, help="also draw the ratios to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    kept: dict[str, Any] = {"overhead": []}
    if set(args.shapes) < set(SHAPES) and args.json and Path(args.json).is_file():
        kept = json.loads(Path(args.json).read_text(encoding="utf-8"))

    print(
        f"{'model':>12} {'batch':>5} {'decoding':>15} {'feature':>18} {'forwards':>8} {'bare s':>7} "
        f"{'generate s':>10} {'ratio':>6}  {'min-max':<11} {'own':>6}  {'min-max':<11} least"
    )
    rows: list[dict[str, Any]] = []
    for shape in SHAPES:
        earlier = [row for row in kept["overhead"] if row["model"] == shape]
        rows += measure(shape, args.repeats) if shape in args.shapes else earlier
    large = against_all_logits(build_model("8M", 126_464), num_steps=16, repeats=max(3, args.repeats // 2))
    print(
        f"vocabulary {large['vocab_size']}: generate {large['generate_s']:.2f} s, all logits "
        f"{large['all_logits_s']:.2f} s, {large['speedup']:.1f} times faster"
    )
    if args.plot is not None:
        plot(rows, args.plot)
    result = {
        **describe_run(f"python benchmarks/generation_overhead.py --repeats {args.repeats}", args.threads),
        "dtype": "float32",
        "prompt_length": PROMPT_LENGTH,
        "new_tokens": NEW_TOKENS,
        "block_length": BLOCK_LENGTH,
        "repeats": args.repeats,
        "overhead": rows,
        "all_logits": large,
    }
    write_result(result, args.json)


if __name__ == "__main__":
    main()
