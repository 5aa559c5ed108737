"""
Compare every decoder on a trained arithmetic model and write its folder under `model_cards/`.

What happens
    1. Held-out word problems (none is a training problem in other words) are answered through the template
       `[question] [reasoning] delimiter [answer]`, block by block, with one token a forward, several tokens a forward,
       thresholds, MED, early exit, latent refinement (LRD) with its ablations, and all of them together, with and
       without block caches. An answer counts if it is the right number.
    2. Results go to `decoding_results.json` as they come; the same command goes on where it was interrupted. With
       `--part K N` as the last arguments, N processes share the work; the command without them then puts it together.
    3. The table, the plot, the card and the bundle are written.

Accuracies, forwards and seconds come from one run of one command; seconds are wall time of everything, in batches.

    python recipes/studies/publish_arithmetic.py --folder model_cards/arithmetic --num_problems 1000
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from hf_latent import ReasoningTemplate
from hf_latent.data import identify
from hf_latent.data.json_files import read_json
from hf_latent.evaluation import DecodingResult, describe, measure_all, solve_puzzles
from hf_latent.evaluation.reports.plots import name_lines
from hf_latent.hub import write_card
from hf_latent.tasks import ArithmeticTask
from hf_latent.training.runs.report import describe_training
from hf_latent.training.runs.studies import load_checkpoint, publish_weights, script_parser, this_command
from hf_latent.viz import plot_accuracy_over_forwards

BLOCK_LENGTH = 20
CACHES = ("prefix", "dual")
EXIT = {"early_exit_threshold": 0.1}
LRD = {"latent_refinement": True}
NO_REASONING = {"decoding": "med", "early_exit_threshold": 1e6}
ONE_TOKEN = {"decoding": "entropy"}
MED = {"decoding": "med", "entropy_threshold": 0.1}
# The decoders that are also run with both caches.
CACHED: list[dict[str, Any]] = [
    ONE_TOKEN,
    {"decoding": "confidence_threshold", "confidence_threshold": 0.9},
    {"decoding": "entropy_bound", "entropy_bound": 0.1},
    MED,
    {**MED, **EXIT},
    {"decoding": "entropy", **LRD},
    {**MED, **LRD, **EXIT},
]


def decoder_grid() -> list[dict[str, Any]]:
    """Every decoder, from one token a forward to all at once."""
    grid: list[dict[str, Any]] = [ONE_TOKEN]
    # k tokens a forward, the surest first: a bound that lets everything through, and a ceiling.
    grid += [{"decoding": "entropy_bound", "entropy_bound": 1e6, "max_tokens_per_step": k} for k in (2, 4)]
    grid += [{"decoding": "confidence_threshold", "confidence_threshold": c} for c in (0.95, 0.9)]
    grid += [{"decoding": "entropy_bound", "entropy_bound": b} for b in (0.1, 0.3)]
    grid += [{"decoding": "med", "entropy_threshold": h} for h in (0.02, 0.1, 0.3)]
    grid += [{"decoding": "med", "entropy_threshold": h, **EXIT} for h in (0.02, 0.1, 0.3)]
    lrd = {"decoding": "entropy", **LRD}
    grid += [lrd]
    grid += [{**lrd, "refinement_steps": 0}, {**lrd, "refinement_ratio": 0.0}, {**lrd, "stop_kl": 0.0}]
    grid += [{**lrd, "stop_kl": kl} for kl in (0.01, 0.001)]
    grid += [{**MED, **LRD}, {**MED, **LRD, "stop_kl": 0.001}, {**MED, **LRD, **EXIT}, NO_REASONING]
    grid += [{**settings, "block_cache": cache} for cache in CACHES for settings in CACHED]
    return [{**settings, "block_length": BLOCK_LENGTH} for settings in grid]


def line_of(result: DecodingResult) -> str:
    """The line of the plot that a result is on."""
    settings = result.settings
    if settings.get("max_tokens_per_step"):
        name = "k tokens a forward"
    elif settings.get("early_exit_threshold", 0) > 1:
        name = "answer without reasoning"
    else:
        name = settings["decoding"]
    name += " + LRD" if settings.get("latent_refinement") else ""
    name += " + exit" if 0 < settings.get("early_exit_threshold", 0) <= 1 else ""
    return name + (f" ({settings['block_cache']} cache)" if settings.get("block_cache") else "")


def find(results: list[DecodingResult], settings: dict[str, Any]) -> DecodingResult:
    """The result of exactly these settings."""
    wanted = {**settings, "block_length": BLOCK_LENGTH}
    return next(result for result in results if result.settings == wanted)


def cheapest(results: list[DecodingResult], settings: dict[str, Any], accuracy: float) -> DecodingResult:
    """The fewest forwards, over the entropy threshold, among the results of at least `accuracy`; else the best."""
    names = {*settings, "block_length", "entropy_threshold", "decoding"}
    family = [r for r in results if set(r.settings) == names and {**r.settings, **settings} == r.settings]
    near = [result for result in family if result.accuracy >= accuracy]
    return min(near, key=lambda r: r.forwards_per_example) if near else max(family, key=lambda r: r.accuracy)


def comparison(results: list[DecodingResult]) -> str:
    """The table with everything that was measured, as Markdown."""
    one = find(results, ONE_TOKEN)
    lines = [
        "| decoder | accuracy | forwards | times fewer | tokens per forward | seconds | left-most choices | "
        "distance to left-most | exits |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        settings = {name: value for name, value in r.settings.items() if name != "block_length"}
        has_chosen = r.leftmost_share == r.leftmost_share  # nan where no rule has chosen anything
        choices = f"{100 * r.leftmost_share:.0f} % | {r.leftmost_distance:.1f}" if has_chosen else "|"
        exits = f"{100 * r.exit_share:.0f} %" if "early_exit_threshold" in settings else ""
        lines.append(
            f"| {describe(settings)} | {100 * r.accuracy:.1f} ± {100 * r.standard_error:.1f} | "
            f"{r.forwards_per_example:.2f} | {one.forwards_per_example / r.forwards_per_example:.1f} | "
            f"{r.tokens_per_forward:.2f} | {r.seconds:.0f} | {choices} | {exits} |"
        )
    return "\n".join(lines)


def headline(results: list[DecodingResult]) -> str:
    """What the comparison says, in the terms of the paper."""
    one = find(results, ONE_TOKEN)
    parts = []
    for name, extra in (("MED", {}), ("MED with early exit", EXIT)):
        best = cheapest(results, {"decoding": "med", **extra}, one.accuracy - 0.005)
        parts.append(
            f"{name} (`{describe({k: v for k, v in best.settings.items() if k != 'block_length'})}`) answers "
            f"{100 * best.accuracy:.1f} % in {best.forwards_per_example:.2f} forwards, "
            f"{one.forwards_per_example / best.forwards_per_example:.1f} times fewer"
        )
    none = find(results, NO_REASONING)
    return (
        f"One token per forward answers {100 * one.accuracy:.1f} % of the problems in {one.forwards_per_example:.1f} "
        f"forwards. {parts[0]}; {parts[1]}. Asked for the answer at once, without any reasoning, it answers "
        f"{100 * none.accuracy:.1f} %."
    )


def ablation(results: list[DecodingResult]) -> str:
    """LRD and what each of its parts does."""
    lrd = {"decoding": "entropy", **LRD}
    rows = {
        "without LRD (one token per forward)": ONE_TOKEN,
        "LRD": lrd,
        "LRD without refinement": {**lrd, "refinement_steps": 0},
        "LRD without mixing": {**lrd, "refinement_ratio": 0.0},
        "LRD without early stop": {**lrd, "stop_kl": 0.0},
        "LRD, early stop at 0.01 nats": {**lrd, "stop_kl": 0.01},
        "LRD, early stop at 0.001 nats": {**lrd, "stop_kl": 0.001},
    }
    one = find(results, ONE_TOKEN)
    lines = ["| | accuracy | forwards | times fewer | forwards that only refined |", "|---|---|---|---|---|"]
    for name, settings in rows.items():
        r = find(results, settings)
        lines.append(
            f"| {name} | {100 * r.accuracy:.1f} ± {100 * r.standard_error:.1f} | {r.forwards_per_example:.2f} | "
            f"{one.forwards_per_example / r.forwards_per_example:.1f} | {100 * r.refinement_share:.0f} % |"
        )
    return "\n".join(lines)


def examples(
    task: ArithmeticTask, model: Any, tokenizer: Any, template: ReasoningTemplate, problems: list[dict[str, Any]]
) -> str:
    """Right, wrong and early answers, verbatim."""
    settings = {"decoding": "med", "entropy_threshold": model.generation_config.entropy_threshold, **EXIT}
    inputs = template.apply(tokenizer, [p["prompt"] for p in problems])
    output = model.generate(**inputs, return_dict_in_generate=True, **settings)
    answers = template.split(tokenizer, output.sequences, inputs["answer_mask"])
    parts = [f"With `{describe(settings)}`."]
    for name, wanted in (("Right", True), ("Wrong", False)):
        chosen = [i for i, a in enumerate(answers) if (a.answer == problems[i]["answer"]) is wanted][:2]
        for i in chosen:
            at = int(output.exit_step[i])
            left = f"left its reasoning at forward {at + 1}" if at >= 0 else "wrote to the end"
            parts.append(
                f"{name} ({int(output.num_forward_passes[i])} forwards, {left}; the answer is "
                f"{problems[i]['answer']}):\n\n```\n{problems[i]['question']}\n{answers[i].reasoning}"
                f"{task.delimiter}{answers[i].answer}\n```"
            )
    return "\n\n".join(parts)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--run", type=Path, default="runs/arithmetic", help="output_dir of the training")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write, e.g. model_cards/arithmetic")
    parser.add_argument("--num_problems", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--batch_size", type=int, default=250)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--part", type=int, nargs=2, metavar=("K", "N"), help="measure every N-th decoder from K, only"
    )
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Measure, or this process's part of it; then choose the checkpoint's threshold and publish."""
    torch.set_num_threads(args.threads)
    model, tokenizer = load_checkpoint(args.run)
    task = ArithmeticTask()
    template = ReasoningTemplate(task.reasoning_length, task.answer_length, task.delimiter)
    found = task.generate(args.num_problems, args.seed, split="test")
    problems = [problem | task.format(problem) for problem in found]

    def measure(settings: dict[str, Any]) -> DecodingResult:
        return solve_puzzles(
            model, tokenizer, task, problems, template=template, batch_size=args.batch_size, **settings
        )

    header = {"command": this_command({"--part": []}), "seed": args.seed, "threads": args.threads}
    identity = identify(model, tokenizer)
    if args.part:
        first, every = args.part
        path = args.folder / f"decoding_results_{first}.json"
        measure_all(decoder_grid()[first::every], measure, path, header, identity=identity)
        return
    path, parts = args.folder / "decoding_results.json", sorted(args.folder.glob("decoding_results_*.json"))
    results = measure_all(decoder_grid(), measure, path, header, known=parts, identity=identity)
    for part in parts:
        part.unlink()

    # The checkpoint's own threshold: the fewest forwards at the accuracy of one token per forward.
    one = find(results, ONE_TOKEN)
    chosen = cheapest(results, {"decoding": "med", **EXIT}, one.accuracy - 0.005)
    layout = {name: getattr(task, name) for name in ("reasoning_length", "answer_length", "delimiter")}
    publish_weights(
        model,
        tokenizer,
        args.run,
        args.folder,
        {"task": task.name, "version": task.version, **layout, "early_exit_threshold": 0.1},
        decoding="med",
        entropy_threshold=chosen.settings["entropy_threshold"],
        block_length=BLOCK_LENGTH,
        max_new_tokens=task.completion_length,
    )
    uncached = [r for r in results if "block_cache" not in r.settings]
    title = f"{args.folder.name}, {args.num_problems} held-out problems"
    names = name_lines(uncached, line_of)
    plot_accuracy_over_forwards(uncached, args.folder / "accuracy_over_forwards.png", title, group=names)
    write_folder_card(args.folder, model, tokenizer, task, template, problems, args.batch_size)


def write_folder_card(
    folder: Path,
    model: Any,
    tokenizer: Any,
    task: ArithmeticTask,
    template: ReasoningTemplate,
    problems: list[dict[str, Any]],
    batch_size: int,
    shown_examples: str | None = None,
) -> None:
    """`README.md`, from the results files of the folder; `shown_examples` instead of new ones."""
    run, report = read_json(folder / "run.json"), read_json(folder / "decoding_results.json")
    results = [DecodingResult.from_dict(values) for values in report["results"]]
    shown = shown_examples or examples(task, model, tokenizer, template, problems[:200])
    notes = (
        f"## Latent refinement and its parts\n\n{ablation(results)}\n\n"
        "The early stop takes a belief that rests for one that is decided. Here what is committed first, one token a "
        "forward, are fillers and punctuation: they change nothing, so that the belief rests at once although the "
        "results are open. Under MED more is decided before it rests. Without early stop the mixed embeddings change "
        f"the accuracy by less than its error.\n\n## Examples\n\n{shown}"
    )
    write_card(
        folder,
        model,
        title=f"hf-latent {folder.name}",
        description=(
            f"A masked diffusion language model of {model.num_parameters():,} parameters that answers word problems "
            "of two to five steps by writing out its calculations, in place of masks before an answer that can be "
            f"read at any time. {headline(results)}"
        ),
        training=(
            f"From random weights; {100 * run['script']['given_share']:.0f} % of the problems come with part of their "
            f"reasoning; {run['script']['num_drills']:,} rows are calculations alone (see "
            "`recipes/masked_diffusion/arithmetic.py`)."
            "\n\nThe held-out curve counts the tokens of the questions, too, which nobody can predict: "
            "`completion_only_loss` was left to trl, which decides by the training set, here one of token ids. It "
            "was interrupted after update 3,000 and went on with fewer updates ahead; the minutes are those since.\n\n"
            + describe_training(
                folder,
                f"{run['script']['num_train_examples']:,} problems made by `ArithmeticTask` (version {task.version})",
                "OMP_NUM_THREADS=1 python recipes/masked_diffusion/arithmetic.py "
                "--config recipes/masked_diffusion/arithmetic.yaml",
            )
        ),
        results=(
            f"Blocks of {BLOCK_LENGTH} tokens, the answer a block of its own. Fillers and punctuation are among the "
            "tokens that are written, and are easy. Seconds are wall time for all problems "
            f"({report['threads']} CPU thread(s), batches of {batch_size}), of a machine that did other work, too; "
            f"`benchmarks/block_cache.py` compares caches side by side.\n\n{comparison(results)}"
        ),
        command=report["command"],
        notes=notes,
        limits=(
            "It knows the sentences of one generator and numbers from 10 to 99, and nothing else. One training seed."
        ),
        example_prompt=problems[0]["prompt"],
    )


if __name__ == "__main__":
    main(parse())
