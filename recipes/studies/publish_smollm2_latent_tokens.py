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
import json
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from transformers import AutoTokenizer

from hf_latent import LatentTokenForCausalLM
from hf_latent.data.rows import read_rows, to_dataset
from hf_latent.evaluation import measure_speculation
from hf_latent.hub import refresh_card
from hf_latent.hub.cards.results import without_folders
from hf_latent.training import LatentTokenTrainer, LatentTokenTrainingConfig
from hf_latent.training.common.sources import as_prompt_completion
from hf_latent.training.runs.report import write_json, write_text

KEPT = ("max_length", "noise_seed", "bf16", "use_cpu", "per_device_eval_batch_size", "num_states")
# Written by `refresh_card`.
PART = "<!-- hf-latent:{name} -->\n\n<!-- /hf-latent:{name} -->"

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


def reevaluate(model: Any, tokenizer: Any, data: Dataset, training: dict[str, Any]) -> dict[str, float]:
    """The trainer's own evaluation, on the questions of the run, with its noise."""
    kept = {name: training[name] for name in KEPT}
    with tempfile.TemporaryDirectory() as folder:
        args = LatentTokenTrainingConfig(
            folder, num_latent_tokens=training["num_latent_tokens"], report_to="none", **kept
        )
        trainer = LatentTokenTrainer(model, args, train_dataset=data, eval_dataset=data, processing_class=tokenizer)
        return trainer.evaluate()


def before_training(run: Path) -> dict[str, float]:
    """The evaluation at step 0, from the run's log; empty if there was none."""
    lines = (run / "training_log.jsonl").read_text(encoding="utf-8").strip().split("\n")
    entries = [json.loads(line) for line in lines]
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
        **{part: PART.format(name=part) for part in ("use", "architecture", "run", "licence", "citation")},
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


def read(run: Path, name: str) -> dict[str, Any]:
    """A JSON file of a run."""
    return json.loads((run / name).read_text(encoding="utf-8"))


def measure(args: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is published of the two runs, and how the first was made."""
    run, trained, control = (
        read(args.run, "run.json"),
        read(args.run, "results.json"),
        read(args.control, "results.json"),
    )
    tokenizer = AutoTokenizer.from_pretrained(args.run)
    data = to_dataset(read_rows(args.eval_file, args.num_examples), ("question", "answer"))
    chats = as_prompt_completion(data, "question", "answer", chat=True)
    base = LatentTokenForCausalLM.from_backbone(args.backbone, tokenizer, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, args.run)
    reloaded = reevaluate(adapted, tokenizer, chats, run["training"])
    model = adapted.merge_and_unload().eval()

    def encode(question: str) -> Any:
        chat = [{"role": "user", "content": question}]
        return tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)

    most = max(run["training"]["num_latent_tokens"])
    prompts = [encode(question) for question in data["question"][: args.num_prompts]]
    drafts = []
    for number in range(1, most + 1):
        found = measure_speculation(
            model, prompts, number, max_new_tokens=args.max_new_tokens, repeats=args.repeats
        ).to_dict()
        print(found, flush=True)
        drafts.append(found)
    samples = []
    for question in data["question"][: args.num_answers]:
        inputs = encode(question)
        ids = model.generate(**inputs, max_new_tokens=args.max_new_tokens, do_sample=False, num_latent_tokens=0)
        text = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        samples.append({"question": question, "text": text})
    results = {
        "command": shlex.join(["python", *sys.argv]),
        "recipe": shlex.join(["python", "recipes/latent_tokens/latent_tokens.py", *run["command"][1:]]),
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
        "others": [
            {"weights": weights_of(read(other, "run.json")), "held_out": read(other, "results.json")["held_out"]}
            for other in args.others
        ],
        "reloaded_text_nll": reloaded["eval_text_nll"],
        "drafts": drafts,
        "samples": samples,
    }
    return without_folders(results | summary(results)), without_folders(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="output_dir of the training with latent tokens")
    parser.add_argument("--control", type=Path, required=True, help="output_dir of the training without")
    parser.add_argument("--others", type=Path, nargs="*", default=[], help="output_dir of runs with another lambda")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write")
    parser.add_argument("--backbone", required=True, help="what the runs started from")
    parser.add_argument("--eval_file", required=True, help="JSON lines with `question` and `answer`")
    parser.add_argument("--num_examples", type=int, default=96)
    parser.add_argument("--num_prompts", type=int, default=6)
    parser.add_argument("--max_new_tokens", type=int, default=64)
    parser.add_argument("--num_answers", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results, run = measure(args)
    args.folder.mkdir(parents=True, exist_ok=True)
    write_json(args.folder / "results.json", results)
    write_json(args.folder / "run.json", run)
    for source, name in ((args.run, "training_log.jsonl"), (args.control, "training_log_without.jsonl")):
        shutil.copy2(source / "training_log.jsonl", args.folder / name)
    shutil.copy2(args.run / "training_curve.png", args.folder / "training_curve.png")
    write_text(args.folder / "README.md", card(args.folder.name, results, run))
    refresh_card(args.folder)


if __name__ == "__main__":
    main()
