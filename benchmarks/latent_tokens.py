"""
What a token costs with latent tokens, and whether the counts of tokens predict it.

From left to right a step reads the token written last, and a group: `num_latent_tokens + 2` tokens against the cache.
In any order, with one group of candidates, it is the same count. Beside each, the bare decoder reads as many tokens
against a cache of the middle length, and a masked diffusion model of the same sizes reads its whole canvas. With
`--checkpoint`, self-speculative decoding of a trained autoregressive model is compared with its plain decoding, on
prompts of a task.

    python benchmarks/latent_tokens.py --repeats 5 --json benchmarks/latent_tokens.json

Prints a table, then the same content as one JSON line. Times are medians of wall seconds; both sides take turns.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from parts.report import describe_run, timed, write_result
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from hf_latent import LatentTokenConfig, get_task
from hf_latent.evaluation import measure_speculation
from hf_latent.generation.arguments.cache_argument import CACHE_NAME

PROMPT_LENGTH, NEW_TOKENS, VOCAB_SIZE = 64, 32, 4096
NUMBERS = (0, 1, 2, 4, 8, 16, 31)


def build(kind: str) -> Any:
    """A model of 8 layers of width 256 with random weights."""
    torch.manual_seed(0)
    text = {
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    }
    fields = {
        "left to right": {"attention": "semi_causal", "order": "left_to_right", "shift_logits": True},
        "any order": {"attention": "semi_causal"},
        "masked diffusion": {},
    }[kind]
    config = LatentTokenConfig(text_config=text, mask_token_id=VOCAB_SIZE - 1, **fields)
    return AutoModelForCausalLM.from_config(config).eval()


@torch.no_grad()
def bare_step(model: Any, num_tokens: int, batch_size: int) -> Callable[[], object]:
    """The decoder reads `num_tokens` against a cache of the middle length; the head reads the last."""
    cache = DynamicCache()
    past = torch.randint(1, VOCAB_SIZE - 1, (batch_size, PROMPT_LENGTH + NEW_TOKENS // 2))
    model.model(past, **{CACHE_NAME: cache}, use_cache=True)
    ids = past[:, :num_tokens]
    seen = torch.ones(batch_size, 1, num_tokens, past.shape[1] + num_tokens, dtype=torch.bool)
    positions = torch.arange(num_tokens).expand(batch_size, -1)

    def step() -> None:
        with torch.no_grad():
            out = model.model(ids, attention_mask=seen, position_ids=positions, **{CACHE_NAME: cache}, use_cache=True)
            model.project(out.last_hidden_state[:, -1:])
            cache.crop(-num_tokens)

    return step


def compare(kind: str, model: Any, number: int, batch_size: int, repeats: int) -> dict[str, Any]:
    """Seconds of a step of `generate`, and of the bare computation."""
    prompt = torch.randint(1, VOCAB_SIZE - 1, (batch_size, PROMPT_LENGTH))
    knobs: dict[str, Any] = {"max_new_tokens": NEW_TOKENS, "eos_token_id": None}
    if kind == "left to right":
        knobs |= {"num_latent_tokens": number, "do_sample": False, "attention_mask": torch.ones_like(prompt)}
    elif kind == "any order":
        knobs |= {"num_latent_tokens": number, "num_candidates": number + 1}
    num_tokens = PROMPT_LENGTH + NEW_TOKENS if kind == "masked diffusion" else number + 2
    if kind == "left to right" and number == 0:
        num_tokens = 1
    step = None
    if kind != "masked diffusion":
        step = bare_step(model, num_tokens, batch_size)
        step()
    model.generate(prompt, **knobs)
    pairs = []
    for _ in range(repeats):
        whole = timed(lambda: model.generate(prompt, **knobs)) / NEW_TOKENS
        bare = statistics.median(timed(step) for _ in range(NEW_TOKENS)) if step else whole
        pairs.append((whole, bare))
    return {
        "kind": kind,
        "batch": batch_size,
        "num_latent_tokens": None if kind == "masked diffusion" else number,
        "tokens_read": num_tokens,
        "seconds_per_step": statistics.median(whole for whole, _ in pairs),
        "bare_seconds": statistics.median(bare for _, bare in pairs) if step else None,
        "ratio": statistics.median(whole / bare for whole, bare in pairs) if step else None,
    }


def speculative(checkpoint: str, task_name: str, numbers: list[int], num_prompts: int, repeats: int) -> dict[str, Any]:
    """Self-speculative decoding on the first held-out prompts of a task."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    task = get_task(task_name)
    prompts = [task.format(problem)["prompt"] for problem in task.generate(num_prompts, 0, split="test")]
    encoded = [tokenizer(prompt, return_tensors="pt", return_token_type_ids=False) for prompt in prompts]
    rows = []
    for number in numbers:
        result = measure_speculation(model, encoded, number, max_new_tokens=96, repeats=repeats).to_dict()
        rows.append(result)
        print({name: round(v, 3) if isinstance(v, float) else v for name, v in result.items()}, flush=True)
    return {"checkpoint": checkpoint, "task": task_name, "num_prompts": num_prompts, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint", help="autoregressive latent-token model to decode speculatively")
    parser.add_argument("--task", default="arithmetic", help="task of its prompts")
    parser.add_argument("--numbers", type=int, nargs="+", default=[1, 2, 4, 8], help="latent tokens to draft with")
    parser.add_argument("--num_prompts", type=int, default=50)
    parser.add_argument("--json", help="also write the JSON line to this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict[str, Any] = {
        **describe_run(f"python benchmarks/latent_tokens.py --repeats {args.repeats}", args.threads),
    }
    if args.checkpoint:
        result["command"] += f" --checkpoint {args.checkpoint} --task {args.task} --num_prompts {args.num_prompts}"
        result["command"] += " --numbers " + " ".join(map(str, args.numbers))
        result |= speculative(args.checkpoint, args.task, args.numbers, args.num_prompts, args.repeats)
    else:
        rows = []
        print(f"{'':>17} batch latent read {'ms a step':>10} {'bare ms':>8} {'ratio':>6}")
        for kind in ("left to right", "any order", "masked diffusion"):
            model = build(kind)
            for batch_size in (1, 8):
                for number in NUMBERS if kind != "masked diffusion" else (0,):
                    r = compare(kind, model, number, batch_size, args.repeats)
                    rows.append(r)
                    bare, ratio = r["bare_seconds"] or float("nan"), r["ratio"] or float("nan")
                    print(
                        f"{kind:>17} {batch_size:>5} {r['num_latent_tokens']!s:>6} {r['tokens_read']:>4} "
                        f"{1000 * r['seconds_per_step']:>10.2f} {1000 * bare:>8.2f} {ratio:>6.2f}",
                        flush=True,
                    )
        result |= {"prompt_length": PROMPT_LENGTH, "new_tokens": NEW_TOKENS, "rows": rows}
    write_result(result, args.json)


if __name__ == "__main__":
    main()
