"""
Wall time of `generate` against its floor, and against a loop that computes all logits.

Floor: the model calls of that very run, with the same inputs and the same selected positions, replayed bare. The ratio
says what the canvas, the belief, the rule and the bookkeeping cost, and what latent refinement, the answer's entropy,
the report and the caches add. With a large vocabulary, `generate` is compared to a plain loop that computes the logits
of every position at every step and softmaxes them, as reference code does.

    python benchmarks/generation_overhead.py --repeats 7 --json benchmarks/generation_overhead.json

Prints a table, then the same content as one JSON line. Times are wall seconds, medians over the repeats of interleaved
runs; the last column is the ratio of CPU seconds, which other processes disturb less.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date

import torch
import transformers

from hf_latent import LladaConfig, LladaForMaskedDiffusion

PROMPT_LENGTH, NEW_TOKENS, BLOCK_LENGTH = 64, 128, 32
# Beside the plain rules: what may be plugged in, with thresholds that never fire, so that the forwards are the same.
FEATURES = {
    "latent refinement": {"latent_refinement": True, "refinement_steps": 2, "stop_kl": 0.0},
    "report": {"return_dict_in_generate": True},
    "appended blocks": {"append_blocks": True},
    "prefix cache": {"block_cache": "prefix"},
    "dual cache": {"block_cache": "dual"},
}


def build_model(vocab_size: int) -> LladaForMaskedDiffusion:
    torch.manual_seed(0)
    config = LladaConfig(
        vocab_size=vocab_size,
        hidden_size=256,
        intermediate_size=1024,
        num_hidden_layers=8,
        num_attention_heads=8,
        mask_token_id=vocab_size - 1,
        eos_token_id=vocab_size - 2,
        pad_token_id=vocab_size - 2,
    )
    return LladaForMaskedDiffusion(config).eval()


class Recorder:
    """Keeps the keyword arguments of every model call, and where its keys and values went."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.calls: list[tuple[dict, dict]] = []
        self.handle = model.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        cache = kwargs.get("past_key_values")
        self.calls.append((kwargs, dict(vars(cache.slots)) if cache is not None else {}))

    def replay(self, model: torch.nn.Module) -> None:
        """The same calls, and nothing else."""
        for kwargs, slots in self.calls:
            if slots:
                vars(kwargs["past_key_values"].slots).update(slots)
            model(**kwargs)


def timed(function: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds of a call; the CPU's do not count what other processes take."""
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def knobs(decoding: str, num_steps: int) -> dict:
    # Random weights end rows at random and are never sure: no end token, and steps fixed for the adaptive rules too.
    settings = {"max_new_tokens": NEW_TOKENS, "block_length": BLOCK_LENGTH, "eos_token_id": None}
    return settings | {"decoding": decoding, "max_denoising_steps": num_steps}


@torch.no_grad()
def overhead(
    model: LladaForMaskedDiffusion, batch_size: int, decoding: str, repeats: int, feature: str | None = None
) -> dict:
    prompt = torch.randint(0, model.config.vocab_size - 2, (batch_size, PROMPT_LENGTH))
    settings = knobs(decoding, num_steps=64 // batch_size)  # the same time for every batch size
    settings |= FEATURES.get(feature or "", {})
    if feature == "answer entropy":
        masks = torch.full((batch_size, NEW_TOKENS), model.config.mask_token_id)
        prompt = torch.cat([prompt, masks], dim=1)
        answer = torch.zeros_like(prompt, dtype=torch.bool)
        answer[:, -10:] = True
        settings = {k: v for k, v in settings.items() if k != "max_new_tokens"}
        settings |= {"answer_mask": answer, "early_exit_threshold": 0.0}
    recorder = Recorder(model)
    model.generate(prompt, **settings)
    recorder.handle.remove()

    def floor() -> None:
        recorder.replay(model)

    def run() -> None:
        model.generate(prompt, **settings)

    floors, runs = [], []
    for repeat in range(repeats):
        # Each goes first in turn, so that a machine that slows down favours neither.
        for function, times in ((floor, floors), (run, runs))[:: 1 if repeat % 2 else -1]:
            times.append(timed(function))
    ratios = [r[0] / f[0] for f, r in zip(floors, runs, strict=True)]
    cpu_ratios = [r[1] / f[1] for f, r in zip(floors, runs, strict=True)]
    return {
        "batch": batch_size,
        "decoding": decoding,
        "feature": feature,
        "forwards": len(recorder.calls),
        "floor_s": statistics.median(wall for wall, _ in floors),
        "generate_s": statistics.median(wall for wall, _ in runs),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "cpu_ratio": statistics.median(cpu_ratios),
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
        (timed(lambda: plain_loop(model, prompt, num_steps))[0], timed(lambda: model.generate(prompt, **settings))[0])
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", help="also write the JSON line to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    model = build_model(4096)
    rows = [
        overhead(model, batch_size, decoding, args.repeats)
        for batch_size in (1, 8)
        for decoding in ("low_confidence", "entropy", "med")
    ]
    rows += [overhead(model, 8, "med", args.repeats, feature) for feature in (*FEATURES, "answer entropy")]
    print(
        f"{'batch':>5} {'decoding':>15} {'feature':>18} {'forwards':>8} {'floor s':>8} {'generate s':>10} "
        f"{'ratio':>6}  min-max      {'CPU':>5}"
    )
    for r in rows:
        print(
            f"{r['batch']:>5} {r['decoding']:>15} {r['feature'] or '':>18} {r['forwards']:>8} {r['floor_s']:>8.3f} "
            f"{r['generate_s']:>10.3f} {r['ratio']:>6.3f}  {r['ratio_min']:.3f}-{r['ratio_max']:.3f}  "
            f"{r['cpu_ratio']:.3f}"
        )
    large = against_all_logits(build_model(126_464), num_steps=16, repeats=max(3, args.repeats // 2))
    print(
        f"vocabulary {large['vocab_size']}: generate {large['generate_s']:.2f} s, all logits "
        f"{large['all_logits_s']:.2f} s, {large['speedup']:.1f} times faster"
    )
    result = {
        "date": date.today().isoformat(),
        "command": "python benchmarks/generation_overhead.py",
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "threads": args.threads,
        "dtype": "float32",
        "prompt_length": PROMPT_LENGTH,
        "new_tokens": NEW_TOKENS,
        "block_length": BLOCK_LENGTH,
        "repeats": args.repeats,
        "overhead": rows,
        "all_logits": large,
    }
    line = json.dumps(result)
    print(line)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            file.write(line + "\n")


if __name__ == "__main__":
    main()
