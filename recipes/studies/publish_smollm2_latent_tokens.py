"""
Measure a SmolLM2 that was trained with latent tokens against one that was trained without, and write the card.

Evaluation
    1. Nats per next token of held-out answers, of the model trained with latent tokens and of the one fine-tuned the
       same way without (`--num_latent_tokens 0`), as their runs ended with; and of the tokens further ahead.
    2. The adapter is put on the backbone anew through plain peft, and evaluated by the trainer's own evaluation: it
       has to give the number that the run ended with.
    3. Held-out questions are answered greedily, plain and with the latent tokens as drafts (self-speculative
       decoding). Texts have to be the same; tokens per forward and seconds are compared.
    4. A few answers are shown.

The weights stay in the run's folder; the card's folder gets results, logs and curve.

    python recipes/studies/publish_smollm2_latent_tokens.py --run runs/smollm2_latent_tokens \\
        --control runs/smollm2_latent_tokens_0 --folder model_cards/smollm2-latent-tokens \\
        --backbone HuggingFaceTB/SmolLM2-135M-Instruct --eval_file test.jsonl
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from hf_latent import LatentTokenForCausalLM
from hf_latent.evaluation import measure_speculation
from hf_latent.hub.cards.results import without_folders
from hf_latent.training import LatentTokenTrainer, LatentTokenTrainingConfig
from hf_latent.training.runs.studies import (
    answer_questions,
    ask,
    evaluate_again,
    marked,
    publish_results,
    publishing_parser,
    read_lines,
    read_questions,
    read_run,
    recipe_command,
    this_command,
)

REEVALUATED = ("max_length", "noise_seed", "bf16", "use_cpu", "per_device_eval_batch_size", "num_states")

CARD = """---
library_name: transformers
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
datasets: [openai/gsm8k]
pipeline_tag: text-generation
tags: [latent-tokens, multi-token-prediction, lora, hf-latent]
---

# hf-latent {name}

SmolLM2-135M-Instruct with latent tokens: LoRA on GSM8K teaches it to predict {most} tokens behind the next one, too,
which serve as drafts of its own text (`self_speculative="plain"`). {trained} parameters were trained, in
{steps} updates of {batch_size} questions: a fraction of an epoch, a test of the path and not a model to use. The base
is a 4-bit GGUF file, read back to float32. The adapter is not kept in this folder; the recipe below makes it.

{use}

{architecture}

## Results

Does it still speak?


Nats per token of {num_examples} held-out answers. What the text alone predicts has weight 1 in the loss; "ahead" is
the weight of the next token as it is predicted again with a look ahead, lambda that of the latent tokens. "Without" is
the same run with `--num_latent_tokens 0`: same questions, updates and seed.

{losses}

The next token's loss is {relative} that of the run without latent tokens{others}.
The look ahead is trained behind {num_states} random tokens of each answer, which stand for all of them: beside the
text's own prediction, with the same weight, it is mostly noise to it, whatever lambda is.

## Decoding

{num_prompts} held-out questions, one at a time on one CPU thread, greedy, at most {max_new_tokens} tokens, with the
latent tokens as drafts; every text was compared with that of plain decoding.

| drafts | tokens per forward | times as fast as plain decoding | kept, %, of those judged: first, second, ... |
|---|---|---|---|
{drafts}

{speed}

Made by

```
{command}
```

## Training

{seconds_per_step:.1f} s an update on a CPU that was shared with other work ({precision}), {control_seconds:.1f} s
without latent tokens. Put on the backbone anew, the adapter gives the loss that the run ended with: {reloaded:.4f} and
{ended:.4f} nats per token.

```bash
{recipe}
```

{run}

## Answers

Greedy, {max_new_tokens} tokens at most:

{answers}

## Limits

One seed. Accuracy on GSM8K was not measured: a model of this size and training does not get there.

{licence}

{citation}
"""


def before_training(run: Path) -> dict[str, float]:
    """The evaluation at step 0, from the run's log; empty if there was none."""
    entries = read_lines(run / "training_log.jsonl")
    return next((entry for entry in entries if entry["step"] == 0 and "eval_text_nll" in entry), {})


def weights_of(run: dict[str, Any]) -> str:
    """Weights of the looking-ahead losses, beside a weight of 1 of the text's own."""
    training = run["training"]
    text = training["text_loss_weight"]
    return f"ahead {1 / text:g}, lambda {training['latent_loss_weight'] / text:g}"


def loss_table(results: dict[str, Any]) -> str:
    """Markdown, nats per token: the next one as the text predicts it, looking ahead, and those after it."""
    columns = {entry["weights"]: entry["held_out"] for entry in (results, *results["others"])}
    columns |= {"without": results["control_held_out"], "before training": results["before"]}
    names = {"eval_text_nll": "next, plain decoding", "eval_next_nll": "next, looking ahead"}
    names |= {f"eval_latent_nll_{i}": f"{i} after the next" for i in range(1, results["num_latent_tokens"] + 1)}

    def show(values: dict[str, float], name: str) -> str:
        return f"{values[name]:.3f}" if name in values else "-"

    lines = [f"| token | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, text in names.items():
        lines.append(f"| {text} | {' | '.join(show(values, name) for values in columns.values())} |")
    return "\n".join(lines)


def relative_loss(held_out: dict[str, float], results: dict[str, Any]) -> float:
    """The plain next token's loss, as a multiple of that of the run without latent tokens."""
    return held_out["eval_text_nll"] / results["control_held_out"]["eval_text_nll"]


def summary(results: dict[str, Any]) -> dict[str, Any]:
    """What follows from the results: the headline, and the losses as the card states them."""
    relative = {entry["weights"]: relative_loss(entry["held_out"], results) for entry in (results, *results["others"])}
    most = max(row["tokens_per_forward"] for row in results["drafts"])
    said = f"next token's loss {relative[results['weights']]:.3f} times that of the same LoRA without latent tokens, "
    return {"headline": f"{said}{most:.2f} tokens per forward", "relative_text_nll": relative}


def draft_rows(rows: list[dict[str, Any]]) -> str:
    """Markdown rows of self-speculative decoding."""
    lines = []
    for row in rows:
        kept = ", ".join(f"{100 * share:.1f}" for share in row["accepted"])
        lines.append(
            f"| {row['num_latent_tokens']} | {row['tokens_per_forward']:.2f} | {row['speedup']:.2f} | {kept} |"
        )
    return "\n".join(lines)


def card(name: str, results: dict[str, Any], run: dict[str, Any]) -> str:
    """`README.md`."""
    others = [
        f"; {relative_loss(other['held_out'], results):.3f} times with {other['weights']}"
        for other in results["others"]
    ]
    best = max(results["drafts"], key=lambda row: row["speedup"])
    pays = f"Plain decoding takes {best['plain_ms_per_token']:.0f} ms a token, the best number of drafts "
    pays += f"{best['ms_per_token']:.0f} ms. "
    if best["speedup"] < 1:
        pays += (
            "On one thread a forward of a few tokens costs\nnearly as much as these tokens one by one: drafts do not "
        )
        pays += "pay there at this rate of acceptance. They do where a forward\nwaits for memory instead."
    answers = [f"```\n{sample['question']}\n---\n{sample['text']}\n```" for sample in results["samples"]]
    kept = {
        name: results[name]
        for name in ("steps", "num_states", "num_examples", "num_prompts", "max_new_tokens", "command")
    }
    return CARD.format(
        **kept,
        **{part: marked(part) for part in ("use", "architecture", "run", "licence", "citation")},
        name=name,
        most=results["num_latent_tokens"],
        trained=f"{run['num_trainable_parameters']:,} of {run['num_parameters']:,}",
        batch_size=run["training"]["per_device_train_batch_size"],
        precision="bfloat16 autocast" if run["training"]["bf16"] else "float32",
        losses=loss_table(results),
        relative=f"{relative_loss(results['held_out'], results):.3f} times",
        others="".join(others),
        drafts=draft_rows(results["drafts"]),
        speed=pays,
        seconds_per_step=results["seconds_per_step"],
        control_seconds=results["control_seconds_per_step"],
        reloaded=results["reloaded_text_nll"],
        ended=results["held_out"]["eval_text_nll"],
        recipe=results["recipe"],
        answers="\n\n".join(answers),
    )


def draft(model: Any, prompts: list[Any], most: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Self-speculative decoding with every number of drafts."""
    drafts = []
    for number in range(1, most + 1):
        found = measure_speculation(
            model, prompts, number, max_new_tokens=args.max_new_tokens, repeats=args.repeats
        ).to_dict()
        print(found, flush=True)
        drafts.append(found)
    return drafts


def answer(model: Any, tokenizer: Any, questions: list[str], max_new_tokens: int) -> list[dict[str, str]]:
    """What the model says to each question without latent tokens."""
    knobs = {"max_new_tokens": max_new_tokens, "do_sample": False, "num_latent_tokens": 0}
    return answer_questions(tokenizer, questions, lambda inputs: (model.generate(**inputs, **knobs)[0], {}))


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is published of the two runs, and how the first was made."""
    (run, trained), (_, control) = read_run(args.run), read_run(args.control)
    tokenizer, questions, chats = read_questions(args.run, args.eval_file, args.num_examples)
    base = LatentTokenForCausalLM.from_backbone(args.backbone, tokenizer, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, args.run)
    reevaluated = {name: run["training"][name] for name in (*REEVALUATED, "num_latent_tokens")}
    again = evaluate_again(LatentTokenTrainer, LatentTokenTrainingConfig, adapted, tokenizer, chats, **reevaluated)
    model = adapted.merge_and_unload().eval()
    most = max(run["training"]["num_latent_tokens"])
    prompts = [ask(tokenizer, question) for question in questions[: args.num_prompts]]
    others = [read_run(other) for other in args.others]
    results = {
        "command": this_command(),
        "recipe": recipe_command("recipes/latent_tokens/latent_tokens.py", run),
        "num_latent_tokens": most,
        "num_examples": args.num_examples,
        "num_prompts": args.num_prompts,
        "max_new_tokens": args.max_new_tokens,
        "steps": trained["steps"],
        "seconds_per_step": trained["train_seconds"] / trained["steps"],
        "control_seconds_per_step": control["train_seconds"] / control["steps"],
        "held_out": trained["held_out"],
        "control_held_out": control["held_out"],
        "before": next(filter(None, map(before_training, [args.run, *args.others])), {}),
        "weights": weights_of(run),
        "num_states": run["training"]["num_states"],
        "others": [{"weights": weights_of(how), "held_out": found["held_out"]} for how, found in others],
        "reloaded_text_nll": again["eval_text_nll"],
        "drafts": draft(model, prompts, most, args),
        "samples": answer(model, tokenizer, questions[: args.num_answers], args.max_new_tokens),
    }
    return without_folders(results | summary(results)), without_folders(run)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = publishing_parser(__doc__)
    parser.add_argument("--control", type=Path, required=True, help="output_dir of the training without")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="output_dir of runs with another lambda")
    parser.add_argument("--num_prompts", type=int, default=6)
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=2)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Measure and publish."""
    torch.set_num_threads(args.threads)
    results, run = measure(args)
    copied = {file: args.run / file for file in ("training_log.jsonl", "training_curve.png")}
    copied["training_log_without.jsonl"] = args.control / "training_log.jsonl"
    publish_results(args.folder, results, run, copied, card(args.folder.name, results, run))


if __name__ == "__main__":
    main(parse())
