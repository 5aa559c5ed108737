"""
Measure a trained Sudoku model with every decoder and write its folder under `model_cards/`.

What happens
    1. Held-out puzzles (never in a training set, whatever the seeds) are solved with every commit rule, each with
       several values of its knob; a board counts if it is right and keeps the given cells.
    2. Boards from local JSON lines files (`{"input": rows with 0 for open cells}`), if given, are solved too, where
       they have a solution; any right completion counts.
    3. The model is bundled with its code, tokenizer, results, training log, curve and card.

Numbers in the card come from `decoding_results.json` beside it, which holds the command.

    python recipes/studies/publish_sudoku.py --run runs/sudoku_4x4 --folder model_cards/sudoku-4x4 --num_puzzles 1000
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from hf_latent.data import identify
from hf_latent.data.json_files import read_json
from hf_latent.evaluation import DecodingResult, describe, measure_all, solve_puzzles
from hf_latent.evaluation.reports.plots import name_lines
from hf_latent.hub import write_card
from hf_latent.tasks import SudokuTask
from hf_latent.training.runs.report import describe_training, write_text
from hf_latent.training.runs.studies import (
    load_checkpoint,
    numbers_in,
    publish_weights,
    read_lines,
    script_parser,
    this_command,
)
from hf_latent.viz import plot_accuracy_over_forwards


def decoder_grid(num_tokens: int) -> list[dict[str, Any]]:
    """Every commit rule; those by schedule with fewer and fewer forwards, those by the belief over their knob."""
    grid: list[dict[str, Any]] = []
    for decoding in ("low_confidence", "margin", "entropy", "random", "left_to_right"):
        for divisor in (1, 2, 4, 8):
            grid.append({"decoding": decoding, "max_denoising_steps": -(-num_tokens // divisor)})
    grid += [{"decoding": "confidence_threshold", "confidence_threshold": c} for c in (0.99, 0.95, 0.9, 0.8, 0.6)]
    grid += [{"decoding": "entropy_bound", "entropy_bound": b} for b in (0.01, 0.05, 0.1, 0.3, 1.0)]
    for decoding in ("med", "med_left_to_right"):
        grid += [{"decoding": decoding, "entropy_threshold": h} for h in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)]
    return grid


def solvable_boards(task: SudokuTask, path: Path) -> tuple[list[dict[str, str]], int]:
    """Boards of a JSON lines file that have a solution, formatted for the model, and how many boards there are."""
    puzzles = [row["input"].replace("0", ".") for row in read_lines(path)]
    solvable = [puzzle for puzzle in puzzles if task.count_solutions(puzzle, limit=1)]
    return [{"puzzle": p, "prompt": task.format({"puzzle": p, "solution": p})["prompt"]} for p in solvable], len(
        puzzles
    )


def training_data(run: dict[str, Any]) -> str:
    script = run["script"]
    data = (
        f"{script['num_train_examples']:,} puzzles with one solution and {script['min_givens']}-"
        f"{script['max_givens']} given cells"
    )
    if script["num_ambiguous_examples"]:
        data += (
            f", and {script['num_ambiguous_examples']:,} with {script['min_ambiguous_givens']}-"
            f"{script['max_ambiguous_givens']} given cells and one or more solutions"
        )
    return f"{data}, from random weights, made by `SudokuTask` (version {SudokuTask.version})"


def boards_section(rows: list[tuple[str, int, int, DecodingResult]]) -> str:
    if not rows:
        return ""
    lines = ["| boards | solvable of all | decoding | solved | forwards per board |", "|---|---|---|---|---|"]
    lines += [
        f"| {name} | {num}/{total} | {describe(r.settings)} | {100 * r.accuracy:.1f} % | "
        f"{r.forwards_per_example:.2f} |"
        for name, num, total, r in rows
    ]
    return (
        "## Other boards\n\nPublic evaluation boards by number of given cells, where they have a solution; some have "
        "several, and any right completion counts.\n\n" + "\n".join(lines)
    )


def accuracy_by_givens(puzzles: list[dict], result: DecodingResult) -> dict[int, tuple[int, int]]:
    """Number of given cells to (solved, all) puzzles."""
    counts: dict[int, tuple[int, int]] = {}
    for puzzle, right in zip(puzzles, result.correct, strict=True):
        solved, total = counts.get(puzzle["num_givens"], (0, 0))
        counts[puzzle["num_givens"]] = (solved + right, total + 1)
    return dict(sorted(counts.items()))


def givens_section(puzzles: list[dict], result: DecodingResult) -> str:
    lines = ["| given cells | solved |", "|---|---|"]
    lines += [f"| {givens} | {s}/{n} |" for givens, (s, n) in accuracy_by_givens(puzzles, result).items()]
    return f"## By number of given cells\n\nWith `{describe(result.settings)}`.\n\n" + "\n".join(lines)


def failures_section(task: SudokuTask, model: Any, tokenizer: Any, puzzles: list[dict], result: DecodingResult) -> str:
    """A right and a wrong answer, verbatim."""
    parts = []
    for name, wanted in (("solved", True), ("wrong", False)):
        index = next((i for i, right in enumerate(result.correct) if right is wanted), None)
        if index is None:
            parts.append(f"No {name} puzzle among {result.num_examples} with `{describe(result.settings)}`.")
            continue
        ids = tokenizer(puzzles[index]["prompt"], return_tensors="pt")["input_ids"]
        output = model.generate(ids, max_new_tokens=task.completion_length, **result.settings)
        answer = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        parts.append(f"{name.capitalize()}:\n\n```\n{puzzles[index]['prompt']}{answer}\n```")
    return f"## Examples\n\nWith `{describe(result.settings)}`.\n\n" + "\n\n".join(parts)


def best_med(results: list[DecodingResult]) -> DecodingResult:
    """MED with the fewest forwards among those within 1 point of one token per forward, else its most accurate."""
    one = next(r for r in results if r.settings["decoding"] == "low_confidence")
    med = [r for r in results if r.settings["decoding"] == "med"]
    close = [r for r in med if r.accuracy >= one.accuracy - 0.01]
    if close:
        return min(close, key=lambda r: r.forwards_per_example)
    return max(med, key=lambda r: r.accuracy)


def mean_open_cells(puzzles: list[dict]) -> float:
    """Cells to fill, of a puzzle."""
    return sum(puzzle["puzzle"].count(".") for puzzle in puzzles) / len(puzzles)


def headline(results: list[DecodingResult], open_cells: float) -> str:
    one, med = next(r for r in results if r.settings["decoding"] == "low_confidence"), best_med(results)
    return (
        f"One token per forward (`low_confidence`) solves {100 * one.accuracy:.1f} % in "
        f"{one.forwards_per_example:.1f} forwards. MED (`{describe(med.settings)}`) solves {100 * med.accuracy:.1f} % "
        f"in {med.forwards_per_example:.2f}, {one.forwards_per_example / med.forwards_per_example:.1f} times fewer. "
        "Row breaks and the copies of given cells are among the tokens that are written, and are easy: against one "
        f"forward per open cell ({open_cells:.1f} on average) it is {open_cells / med.forwards_per_example:.1f} times "
        "fewer."
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--run", type=Path, required=True, help="output_dir of recipes/masked_diffusion/sudoku.py")
    parser.add_argument("--folder", type=Path, required=True, help="folder to write, e.g. model_cards/sudoku-4x4")
    parser.add_argument("--num_puzzles", type=int, default=1000)
    parser.add_argument("--givens", type=int, nargs=2, help="fewest and most given cells; default: those trained on")
    parser.add_argument("--seed", type=int, default=1234)
    parser.add_argument("--batch_size", type=int, default=250)
    parser.add_argument("--boards", type=Path, nargs="*", default=[], help="JSON lines files of other boards")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Measure every decoder, choose MED's threshold, and publish."""
    torch.set_num_threads(args.threads)
    model, tokenizer = load_checkpoint(args.run)
    run = read_json(args.run / "run.json")
    task = SudokuTask(run["script"]["task_size"])
    givens = tuple(args.givens or (run["script"]["min_givens"], run["script"]["max_givens"]))
    puzzles = [p | task.format(p) for p in task.generate(args.num_puzzles, args.seed, split="test", num_givens=givens)]

    def solve(boards: list[dict], settings: dict[str, Any]) -> DecodingResult:
        return solve_puzzles(model, tokenizer, task, boards, batch_size=args.batch_size, **settings)

    grid = [{**settings, "seed": 0} for settings in decoder_grid(task.completion_length)]
    # Names of local files are nobody else's business.
    shown = this_command({"--boards": ["--boards", "givens_*.jsonl"]})
    results = measure_all(
        grid,
        lambda settings: solve(puzzles, settings),
        args.folder / "decoding_results.json",
        {"command": shown, "seed": args.seed, "threads": args.threads},
        identity=identify(model, tokenizer),
    )

    chosen = solve(puzzles, best_med(results).settings)  # once more, for which puzzles it solves
    threshold = chosen.settings["entropy_threshold"]
    boards: list[tuple[str, int, int, DecodingResult]] = []
    for path in sorted(args.boards, key=lambda path: numbers_in(path.stem)):
        solvable, total = solvable_boards(task, path)
        for settings in ({"decoding": "low_confidence"}, {"decoding": "med", "entropy_threshold": threshold}):
            boards.append((path.stem, len(solvable), total, solve(solvable, {"seed": 0, **settings})))

    publish_weights(
        model,
        tokenizer,
        args.run,
        args.folder,
        {"task": "sudoku", "size": task.size, "version": task.version, "num_givens": givens},
        decoding="med",
        entropy_threshold=threshold,
        max_new_tokens=task.completion_length,
    )
    add_details(args.folder / "decoding_results.json", puzzles, chosen, boards)
    title = f"{args.folder.name}, {args.num_puzzles} held-out puzzles"
    plot_accuracy_over_forwards(results, args.folder / "accuracy_over_forwards.png", title, name_lines(results))
    recipe = f"python recipes/masked_diffusion/sudoku.py --config recipes/masked_diffusion/{args.run.name}.yaml"
    write_folder_card(args.folder, model, tokenizer, task, puzzles, chosen, recipe)


def add_details(
    path: Path, puzzles: list[dict], chosen: DecodingResult, boards: list[tuple[str, int, int, DecodingResult]]
) -> None:
    """Put what the card says beside accuracies into the results file, which names the command."""
    report = read_json(path)
    report["boards"] = [{"boards": n, "solvable": s, "total": t, **r.to_dict()} for n, s, t, r in boards]
    report["open_cells"] = mean_open_cells(puzzles)
    report["open_cells_per_forward"] = mean_open_cells(puzzles) / chosen.forwards_per_example
    report["by_givens"] = {
        str(givens): {"solved": solved, "num_examples": num}
        for givens, (solved, num) in accuracy_by_givens(puzzles, chosen).items()
    }
    write_text(path, json.dumps(report, indent=1) + "\n")


def write_folder_card(
    folder: Path,
    model: Any,
    tokenizer: Any,
    task: SudokuTask,
    puzzles: list[dict],
    chosen: DecodingResult,
    recipe: str,
) -> None:
    """`README.md`, from the results files of the folder."""
    run, report = read_json(folder / "run.json"), read_json(folder / "decoding_results.json")
    givens = read_json(folder / "task.json")["num_givens"]
    results = [DecodingResult.from_dict(values) for values in report["results"]]
    boards = [(b["boards"], b["solvable"], b["total"], DecodingResult.from_dict(b)) for b in report["boards"]]
    write_card(
        folder,
        model,
        title=f"hf-latent {folder.name}",
        description=(
            f"A masked diffusion language model of {model.num_parameters():,} parameters that solves "
            f"{task.size}x{task.size} Sudoku with {givens[0]} to {givens[1]} given cells. "
            f"{headline(results, report['open_cells'])}"
        ),
        training=describe_training(folder, training_data(run), recipe),
        notes="\n\n".join(
            part
            for part in (
                givens_section(puzzles, chosen),
                boards_section(boards),
                failures_section(task, model, tokenizer, puzzles, chosen),
            )
            if part
        ),
        limits=(
            "It knows this one format (rows of characters, `.` for an open cell, `=` before the answer) and nothing "
            "else. One training seed."
        ),
        example_prompt=puzzles[0]["prompt"],
    )


if __name__ == "__main__":
    main(parse())
