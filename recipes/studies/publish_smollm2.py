"""
Measure a model of llama_to_diffusion.py before and after its training, and write its card.

Evaluation
    1. The bound on -log p(answer | question) of held-out questions, in nats per token, of the backbone as it was taken
       over (opened attention, new mask token) and of the trained model or adapter: same questions, same draws.
    2. The trained model is loaded anew from its folder (an adapter through plain peft) and evaluated by the trainer's
       own evaluation: it has to give the number that the run ended with.
    3. A few questions are answered.

The weights stay in the run's folder; the card's folder gets results, log and curve.

    python recipes/studies/publish_smollm2.py --run runs/smollm2_gsm8k --folder model_cards/smollm2-gsm8k \\
        --backbone HuggingFaceTB/SmolLM2-135M-Instruct --eval_file test.jsonl
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from hf_latent import LatentTokenForMaskedDiffusion
from hf_latent.evaluation import LikelihoodResult, evaluate_likelihood
from hf_latent.hub.cards.results import without_folders
from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer
from hf_latent.training.runs.studies import (
    answer_questions,
    evaluate_again,
    marked,
    publish_results,
    publishing_parser,
    read_questions,
    read_run,
    recipe_command,
    this_command,
)

DECODING = {"decoding": "med", "entropy_threshold": 0.2, "block_length": 32, "max_new_tokens": 128}
REEVALUATED = ("max_length", "noise_seed", "bf16", "use_cpu", "per_device_eval_batch_size")

CARD = """---
library_name: transformers
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
datasets: [openai/gsm8k]
tags: [masked-diffusion, diffusion-language-model, hf-latent]
---

# hf-latent {name}

SmolLM2-135M-Instruct turned into a masked diffusion model and fine-tuned on GSM8K for as long as a CPU allows:
{trained} parameters were trained. It is a test of the path from an autoregressive checkpoint, not a model to use: the
base is small, and {steps} updates of {batch_size} questions are a fraction of an epoch. The base is a 4-bit GGUF file,
read back to float32. The weights are not kept in this folder; the recipe below makes them.

{use}

{architecture}

{decoding_part}

## Results

| {num_examples} held-out questions | nats per token of the answer (bound) | perplexity (bound) |
|---|---|---|
| attention opened, mask token added, untrained | {before_nats} | {before_perplexity} |
| trained | {after_nats} | {after_perplexity} |

± is the standard error over the questions; {num_samples} draws a question, the same for both (`{command}`).

## Training

{steps} updates of {batch_size} in {seconds_per_step:.1f} s each, on a CPU that was shared with other work
({precision}); peak memory {peak_memory_mib:,} MiB. Loaded anew from its folder, it gives the held-out bound that the
run ended with: {reloaded_eval_nll:.4f} and {eval_nll:.4f} nats per token.

```bash
{recipe}
```

{run}

Log: `training_log.jsonl`; configuration, versions and commit: `run.json`; numbers: `results.json`.

## Answers

With `{decoding}`, the first questions of the test set:

{answers}

## Limits

One seed. Accuracy on GSM8K was not measured: a model of this size and training does not get there.
"""


def load_trained(run: Path, backbone: str, tokenizer: Any) -> Any:
    """The model of a run: a checkpoint, or an adapter on the backbone."""
    if not (run / "adapter_config.json").exists():
        return AutoModelForCausalLM.from_pretrained(run)
    base = LatentTokenForMaskedDiffusion.from_backbone(backbone, tokenizer, dtype=torch.float32)
    return PeftModel.from_pretrained(base, run)


def answer(model: Any, tokenizer: Any, questions: list[str]) -> list[dict[str, Any]]:
    """What the model says to each question, and in how many forwards."""

    def write(inputs: Any) -> tuple[torch.Tensor, dict[str, int]]:
        out = model.generate(**inputs, return_dict_in_generate=True, **DECODING)
        return out.sequences[0], {"num_forward_passes": int(out.num_forward_passes[0])}

    return answer_questions(tokenizer, questions, write)


def card(name: str, results: dict[str, Any], run: dict[str, Any]) -> str:
    """`README.md`."""
    before, after, training = results["before"], results["after"], run["training"]
    answers = [
        f"```\n{s['question']}\n---\n{s['text']}\n```\n{s['num_forward_passes']} forwards." for s in results["samples"]
    ]
    return CARD.format(
        **results | {"before": "", "after": ""},
        **{part: marked(part) for part in ("use", "architecture", "run")},
        decoding_part=marked("decoding"),
        name=name,
        trained=f"{run['num_trainable_parameters']:,} of {run['num_parameters']:,}",
        batch_size=training["per_device_train_batch_size"],
        precision="bfloat16 autocast" if training["bf16"] else "float32",
        before_nats=f"{before['nats_per_token']:.3f} ± {before['sampling_error']:.3f}",
        before_perplexity=f"{before['perplexity']:.1f}",
        after_nats=f"{after['nats_per_token']:.3f} ± {after['sampling_error']:.3f}",
        after_perplexity=f"{after['perplexity']:.1f}",
        decoding=", ".join(f"{name}={value}" for name, value in DECODING.items()),
        answers="\n\n".join(answers),
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = publishing_parser(__doc__)
    parser.add_argument("--num_samples", type=int, default=4)
    parser.add_argument("--peak_memory_mib", type=int, help="of a run that has not written it down")
    return parser.parse_args()


def measure(args: argparse.Namespace, run: dict[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """What is published of a run, of what it has left in `run.json` and `results.json`."""
    tokenizer, questions, chats = read_questions(args.run, args.eval_file, args.num_examples)

    def bound(model: Any) -> dict[str, Any]:
        with torch.autocast("cpu", torch.bfloat16, enabled=run["training"]["bf16"]):
            result: LikelihoodResult = evaluate_likelihood(
                model.eval(), chats, tokenizer, num_samples=args.num_samples, batch_size=8
            )
        return result.to_dict()

    before = bound(LatentTokenForMaskedDiffusion.from_backbone(args.backbone, tokenizer, dtype=torch.float32))
    model = load_trained(args.run, args.backbone, tokenizer)
    after = bound(model)
    reevaluated = {name: run["training"][name] for name in REEVALUATED}
    again = evaluate_again(MaskedDiffusionTrainer, MaskedDiffusionConfig, model, tokenizer, chats, **reevaluated)
    return {
        "command": this_command(),
        "recipe": recipe_command("recipes/masked_diffusion/llama_to_diffusion.py", run),
        "num_examples": args.num_examples,
        "num_samples": args.num_samples,
        "before": before,
        "after": after,
        "steps": trained["steps"],
        "seconds_per_step": trained["train_seconds"] / trained["steps"],
        "peak_memory_mib": trained.get("peak_memory_mib") or args.peak_memory_mib,
        "eval_nll": trained["held_out"]["eval_nll"],
        "reloaded_eval_nll": again["eval_nll"],
        "samples": answer(model.eval(), tokenizer, questions[: args.num_answers]),
    }


def main(args: argparse.Namespace) -> None:
    """Measure and publish."""
    torch.set_num_threads(args.threads)
    run, trained = read_run(args.run)
    results, run = without_folders(measure(args, run, trained)), without_folders(run)
    copied = {file: args.run / file for file in ("training_log.jsonl", "training_curve.png")}
    publish_results(args.folder, results, run, copied, card(args.folder.name, results, run))
    print(json.dumps({name: results[name]["nats_per_token"] for name in ("before", "after")}))


if __name__ == "__main__":
    main(parse())
