"""
Compare samplers and numbers of steps on a trained latent diffusion model, and show how an answer is denoised.

What happens
    1. Held-out problems of one or more tasks are answered with DDPM (ancestral, learned variance), DDIM and
       DPM-Solver++ at several numbers of steps; an answer counts if the first token is right.
    2. Results go to `samplers.json` as they come; the same command goes on where it was interrupted.
    3. `samplers.png` shows accuracy over steps. `denoising.json` and `denoising.png` hold the text that the estimate
       of the clean latent decodes to at eight steps of one reverse process.

Seconds are wall time of everything, in batches.

    python recipes/studies/latent_diffusion_samplers.py --folder runs/latent_diffusion/denoiser --num_problems 500
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_latent.data import identify
from hf_latent.evaluation import DecodingResult, measure_all
from hf_latent.tasks import AnswerFirstTask
from hf_latent.tasks.answer_first import KINDS, strip_special
from hf_latent.training.latent_diffusion.data import TextCollator
from hf_latent.training.runs.report import write_json
from hf_latent.training.runs.studies import save_figure, script_parser, this_command
from hf_latent.viz import plot_accuracy_over_forwards, texts_over_steps

FAST_STEPS = (1, 2, 5, 10, 20, 25, 50, 100)
SHOWN_STEPS = 8


def grid(num_train_timesteps: int, full: bool) -> list[dict[str, Any]]:
    """Fast samplers at few steps; DDPM at few, and at all of them with `full`."""
    steps = [n for n in FAST_STEPS if n < num_train_timesteps and num_train_timesteps % n == 0]
    settings = [{"decoding": name, "num_inference_steps": n} for name in ("ddim", "dpmsolver++") for n in steps]
    settings += [{"decoding": "ddpm", "num_inference_steps": n} for n in steps]
    if full:
        settings.append({"decoding": "ddpm", "num_inference_steps": num_train_timesteps})
    return settings


def answer(model: Any, tokenizer: Any, questions: list[str], **settings: Any) -> Any:
    """What `generate` gives for a batch of questions."""
    rows = [{"input_ids": tokenizer(question)["input_ids"]} for question in questions]
    batch = {name: value.to(model.device) for name, value in TextCollator(tokenizer.pad_token_id)(rows).items()}
    return model.generate(**batch, **settings)


def measure(
    model: Any,
    tokenizer: Any,
    problems: list[dict[str, Any]],
    settings: dict[str, Any],
    args: Any,
) -> DecodingResult:
    """Answer all problems with one sampler."""
    judge = AnswerFirstTask()  # all tasks judge alike
    start, correct, tokens = time.perf_counter(), [], 0
    given = {name: value for name, value in settings.items() if name != "decoding"}
    for first in range(0, len(problems), args.batch_size):
        batch = problems[first : first + args.batch_size]
        # Rows are numbered through the whole set: the noise of a problem does not depend on the batch size.
        rows = list(range(first, first + len(batch)))
        questions = [problem["question"] for problem in batch]
        ids = answer(
            model,
            tokenizer,
            questions,
            sampler=settings["decoding"],
            seed=args.seed,
            row_indices=rows,
            max_new_tokens=longest(args.tasks),
            **given,
        )
        texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
        correct += [judge.is_solved(problem, text) for problem, text in zip(batch, texts, strict=True)]
        tokens += sum(len(strip_special(text).split()) for text in texts)
    steps = settings["num_inference_steps"]
    return DecodingResult(
        settings=settings,
        num_correct=sum(correct),
        num_examples=len(correct),
        forwards_per_example=float(steps),
        tokens_per_forward=tokens / (steps * len(correct)),
        seconds=time.perf_counter() - start,
        correct=tuple(correct),
    )


def longest(tasks: list[str]) -> int:
    """Tokens of the longest completion of any of the tasks."""
    return max(AnswerFirstTask(name).completion_length for name in tasks)


def denoising_of(
    model: Any, tokenizer: Any, problem: dict[str, Any], args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The text of the estimate at eight steps of one reverse process, the first and the last among them."""
    output = answer(
        model,
        tokenizer,
        [problem["question"]],
        sampler="ddim",
        num_inference_steps=args.shown_of,
        seed=args.seed,
        max_new_tokens=longest(args.tasks),
        output_history=True,
        return_dict_in_generate=True,
    )
    shown = texts_over_steps(model, tokenizer, output, num_shown=SHOWN_STEPS, max_new_tokens=longest(args.tasks))
    return [{**row, "text": strip_special(row["text"])} for row in shown]


def draw_denoising(shown: list[dict[str, Any]], path: Path) -> None:
    """A picture of `denoising.json`: one block for each problem, one line for each step."""
    lines: list[str] = []
    for entry in shown:
        lines += [f"{entry['question']}   target: {entry['target']}"]
        lines += [f"  t = {row['timestep']:>4}   {row['text']}" for row in entry["steps"]]
        lines += [""]
    figure = Figure(figsize=(0.085 * max(map(len, lines)) + 0.4, 0.19 * len(lines) + 0.3))
    figure.text(0.02, 0.98, "\n".join(lines), family="monospace", fontsize=9, va="top")
    save_figure(figure, path)


def main(args: argparse.Namespace) -> list[DecodingResult]:
    """Measure, then draw; what is there already is kept."""
    folder = Path(args.folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    drawn = {
        name: AnswerFirstTask(name).generate(args.num_problems, args.task_seed, split="test", at_most=True)
        for name in args.tasks
    }
    problems = [problem for found in drawn.values() for problem in found]
    header = {
        "command": this_command(),
        "tasks": args.tasks,
        "version": AnswerFirstTask.version,
        "task_seed": args.task_seed,
        "seed": args.seed,
        "num_problems": len(problems),
        "threads": torch.get_num_threads(),
    }
    results = measure_all(
        grid(model.config.num_train_timesteps, args.full),
        lambda settings: measure(model, tokenizer, problems, settings, args),
        folder / "samplers.json",
        header,
        identity=identify(model, tokenizer),
    )
    plot_accuracy_over_forwards(
        results, folder / "samplers.png", title=", ".join(args.tasks).replace("_", " "), unit="problem"
    )
    shown = [
        {
            "question": problem["question"],
            "target": AnswerFirstTask(name).format(problem)["completion"],
            "steps": denoising_of(model, tokenizer, problem, args),
        }
        for name, found in drawn.items()
        for problem in found[: args.num_shown]
    ]
    write_json(folder / "denoising.json", {**header, "shown": shown})
    draw_denoising(shown, folder / "denoising.png")
    return results


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--folder", required=True, help="what the stage `denoiser` has written; results go there")
    parser.add_argument("--tasks", nargs="+", default=["single_digit_additions"], choices=list(KINDS))
    parser.add_argument("--num_problems", type=int, default=500, help="of each task")
    parser.add_argument("--task_seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--batch_size", type=int, default=250)
    parser.add_argument("--full", action="store_true", help="also DDPM with all timesteps")
    parser.add_argument("--num_shown", type=int, default=3, help="problems of each task whose denoising is shown")
    parser.add_argument("--shown_of", type=int, default=50, help="steps of the process that is shown")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(parse())
