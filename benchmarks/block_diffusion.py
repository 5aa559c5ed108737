"""
What block-causal decoding with an exact cache costs, of a model with random weights.

growth: a token, behind 64 to 2,048 tokens written before it: the time of 128 new tokens less that of 64. Beside it the
bare forward of a block against a cache of as many columns, whose growth is what attention costs.
step: from the beginning of one forward within a block to that of the next, over the same forward called bare: the
block read against the same columns of the same cache, logits of the positions that are open half way through a block.
against: 512 new tokens, beside a bidirectional model of the same sizes with the dual cache and blocks of the same
length, and beside a loop that encodes the prefix anew at each block and copies its cache at each step, as samplers of
other libraries do; that loop is written here, after their descriptions. All three commit the same number of tokens by
confidence at each step.

    python benchmarks/block_diffusion.py --repeats 5 --json benchmarks/block_diffusion.json

Prints a table, then the same content as one JSON line. Times are medians of wall seconds; the sides take turns.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from parts.report import describe_run, timed, write_result
from parts.shapes import SHAPES
from transformers import AutoModelForCausalLM, DynamicCache

from hf_latent import LatentTokenConfig
from hf_latent.generation.arguments.cache_argument import CACHE_NAME
from hf_latent.generation.model_calls.exact_cache import ColumnCache

LENGTHS = (64, 128, 256, 512, 1024, 2048)
PROMPT_LENGTH = 64
# Blocks of the published families, and steps of a block: one token a step, and four.
BLOCKS = ((4, 4), (4, 1), (8, 8), (16, 16), (32, 32), (32, 8))


def build(shape: str, attention: str, block_size: int | None = None) -> Any:
    """A model with random weights; with the same ones whatever the attention is."""
    torch.manual_seed(0)
    text = {"model_type": "llama", "vocab_size": 4096, "max_position_embeddings": 4096, "pad_token_id": 0}
    text |= {"bos_token_id": None, "eos_token_id": None} | SHAPES[shape]
    fields = {"text_config": text, "mask_token_id": text["vocab_size"] - 1, "attention": attention}
    return AutoModelForCausalLM.from_config(LatentTokenConfig(**fields, block_size=block_size)).eval()


def make_prompt(model: Any, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(1, model.config.vocab_size - 1, (1, length), generator=generator)


@torch.no_grad()
def bare_forward(model: Any, length: int) -> Callable[[], object]:
    """A forward of a block that ends at column `length`, against all columns before it."""
    block_size = model.config.block_size
    cache = ColumnCache(length)
    start = length - block_size
    ids = make_prompt(model, length)
    positions = torch.arange(length)[None]
    cache.set_target(None, positions, length, 0)
    seen = torch.ones(1, 1, length, length, dtype=torch.bool)
    model(input_ids=ids, attention_mask=seen, position_ids=positions, cache=cache, logits_to_keep=1)
    open_positions = torch.arange(block_size // 2, block_size)
    index = torch.zeros_like(open_positions), open_positions
    block, position_ids = ids[:, start:], positions[:, start:]

    @torch.no_grad()
    def forward() -> None:
        cache.set_target(None, position_ids, length, start)
        model(input_ids=block, attention_mask=None, position_ids=position_ids, cache=cache, logits_to_keep=index)

    return forward


class StepTimer:
    """Seconds from the beginning of each forward within a block to that of the next, and of those forwards."""

    def __init__(self, model: Any) -> None:
        self.steps: list[float] = []
        self.forwards: list[float] = []
        self._began: float | None = None
        self._block_size = model.config.block_size
        self._hooks = (
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end),
        )

    def _begin(self, _model: Any, _args: tuple, kwargs: dict[str, Any]) -> None:
        now = time.perf_counter()
        within = kwargs["input_ids"].shape[1] == self._block_size
        if self._began is not None:
            self.steps.append(now - self._began)
        elif self.forwards:
            self.forwards.pop()  # one that entered a block
        self._began = now if within else None
        self._start = now

    def _end(self, *_: Any) -> None:
        self.forwards.append(time.perf_counter() - self._start)

    def remove(self) -> None:
        """Watch no longer; the last forward of a run has no next one."""
        for hook in self._hooks:
            hook.remove()


def measure_step(shape: str, block_size: int, length: int, repeats: int) -> dict[str, Any]:
    """A step of `generate` over the bare forward, behind `length` tokens."""
    model = build(shape, "block_causal", block_size)
    prompt = make_prompt(model, length)
    knobs = {"max_new_tokens": 2 * block_size, "eos_token_id": None}
    forward = bare_forward(model, length + 2 * block_size)
    model.generate(prompt, **knobs)
    forward()
    pairs, own = [], []
    for _ in range(repeats):
        timer = StepTimer(model)
        model.generate(prompt, **knobs)
        timer.remove()
        bare = statistics.median(timed(forward) for _ in range(max(8, len(timer.steps))))
        pairs.append((statistics.median(timer.steps), bare))
        own.append(statistics.median(timer.steps) / statistics.median(timer.forwards))
    return {
        "model": shape,
        "block_size": block_size,
        "length": length,
        "step_s": statistics.median(step for step, _ in pairs),
        "bare_s": statistics.median(bare for _, bare in pairs),
        "ratio": statistics.median(step / bare for step, bare in pairs),
        "own_ratio": statistics.median(own),
    }


def measure_growth(shape: str, block_size: int, lengths: tuple[int, ...], repeats: int) -> list[dict[str, Any]]:
    """Seconds a token behind so many others, and of the bare forward there."""
    model = build(shape, "block_causal", block_size)
    knobs = {"eos_token_id": None, "steps_per_block": block_size}
    forwards = {length: bare_forward(model, length + 96) for length in lengths}
    times: dict[int, list[tuple[float, float]]] = {length: [] for length in lengths}
    for repeat in range(repeats + 1):  # the first warms up
        for length in lengths:
            prompt = make_prompt(model, length)
            less, more = (timed(partial(model.generate, prompt, max_new_tokens=n, **knobs)) for n in (64, 128))
            bare = statistics.median(timed(forwards[length]) for _ in range(8))
            if repeat:
                times[length].append(((more - less) / 64, bare))
    rows = []
    for length in lengths:
        token, bare = (statistics.median(pair[i] for pair in times[length]) for i in (0, 1))
        rows.append({"model": shape, "block_size": block_size, "length": length, "token_s": token, "bare_s": bare})
    for row in rows:
        row["growth"], row["bare_growth"] = (row[name] / rows[0][name] for name in ("token_s", "bare_s"))
    return rows


@torch.no_grad()
def reencode_and_copy(model: Any, prompt: torch.Tensor, new_tokens: int, steps: int) -> torch.Tensor:
    """
    The baseline: the finished text is encoded anew at each block, and its cache copied at each step, as a forward
    appends the block's keys to what it is given.
    """
    block_size, mask_token_id = model.config.block_size, model.config.mask_token_id
    ids = prompt
    for _ in range(new_tokens // block_size):
        length = ids.shape[1]
        prefix = DynamicCache()
        block_of = torch.arange(length) // block_size
        seen = (block_of[:, None] >= block_of)[None, None]
        model.model(ids, attention_mask=seen, **{CACHE_NAME: prefix}, use_cache=True)
        block = torch.full((1, block_size), mask_token_id)
        positions = torch.arange(length, length + block_size)[None]
        everything = torch.ones(1, 1, block_size, length + block_size, dtype=torch.bool)
        for _ in range(steps):
            cache = copy.deepcopy(prefix)
            states = model.model(
                block, attention_mask=everything, position_ids=positions, **{CACHE_NAME: cache}, use_cache=True
            ).last_hidden_state
            logits = model.project(states)
            logits[..., mask_token_id] = -torch.inf
            confidence, token = logits.softmax(-1).max(-1)
            best = confidence.masked_fill(block != mask_token_id, -1).topk(block_size // steps, dim=-1).indices
            block.scatter_(1, best, token.gather(1, best))
        ids = torch.cat([ids, block], 1)
    return ids


def measure_against(shape: str, block_size: int, steps: int, new_tokens: int, repeats: int) -> dict[str, Any]:
    """Tokens a second beside the two others."""
    model, bidirectional = build(shape, "block_causal", block_size), build(shape, "bidirectional")
    prompt = make_prompt(model, PROMPT_LENGTH)
    knobs = {"max_new_tokens": new_tokens, "block_length": block_size, "eos_token_id": None, "steps_per_block": steps}
    sides = {
        "block_causal": lambda: model.generate(prompt, **knobs),
        "bidirectional_dual": lambda: bidirectional.generate(prompt, block_cache="dual", **knobs),
        "reencode_and_copy": lambda: reencode_and_copy(model, prompt, new_tokens, steps),
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            times[name].append(timed(side))
    ours = times["block_causal"]
    return {
        "model": shape,
        "block_size": block_size,
        "steps_per_block": steps,
        "new_tokens": new_tokens,
        **{f"{name}_tokens_per_s": new_tokens / statistics.median(values) for name, values in times.items()},
        **{
            f"times_{name}": statistics.median(b / a for a, b in zip(ours, values, strict=True))
            for name, values in times.items()
            if name != "block_causal"
        },
    }


def show(row: dict[str, Any]) -> dict[str, Any]:
    """Print a row; returns it."""
    print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["31M"])
    parser.add_argument("--new_tokens", type=int, default=512, help="that are written beside the others")
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="of the tokens written before")
    parser.add_argument("--json", help="also write the JSON line to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lengths = tuple(length for length in LENGTHS if length <= args.longest)
    growth, steps, against = [], [], []
    for shape in args.shapes:
        for block_size in (4, 32):
            growth += [show(row) for row in measure_growth(shape, block_size, lengths, args.repeats)]
            steps += [show(measure_step(shape, block_size, length, args.repeats)) for length in lengths[::2]]
        for block_size, number in BLOCKS:
            against.append(show(measure_against(shape, block_size, number, args.new_tokens, args.repeats)))
    command = f"python benchmarks/block_diffusion.py --repeats {args.repeats} --shapes {' '.join(args.shapes)}"
    result = {
        **describe_run(command, args.threads),
        "dtype": "float32",
        "prompt_length": PROMPT_LENGTH,
        "repeats": args.repeats,
        "growth": growth,
        "steps": steps,
        "against": against,
    }
    write_result(result, args.json)


if __name__ == "__main__":
    main()
