"""`hf-latent demo`"""

import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

if TYPE_CHECKING:
    from rich.console import Console

    from hf_latent.evaluation import DecodingResult
    from hf_latent.tasks import SudokuTask

# Decoders of the table, from one token per forward to several; None is the checkpoint's own value.
DECODERS: list[dict[str, Any]] = [
    {"decoding": "left_to_right"},
    {"decoding": "random"},
    {"decoding": "low_confidence"},
    {"decoding": "margin"},
    {"decoding": "entropy"},
    {"decoding": "med_left_to_right", "entropy_threshold": None},
    {"decoding": "confidence_threshold", "confidence_threshold": 0.99},
    {"decoding": "wide_in", "confidence_threshold": 0.9},
    {"decoding": "klass", "confidence_threshold": 0.9},
    {"decoding": "entropy_bound", "entropy_bound": 0.01},
    {"decoding": "entropy_sum", "entropy_bound": 0.01},
    {"decoding": "med", "entropy_threshold": None},
]
REASONING_CHECKPOINT = "arithmetic"
SHOWN = ("left_to_right", "low_confidence", "confidence_threshold", "med")


def demo(
    checkpoint: Annotated[
        str | None, typer.Option(help="Packaged checkpoint or folder with task.json. Default: the hardest packaged.")
    ] = None,
    show: Annotated[int, typer.Option(help="Puzzles to solve live.", min=0)] = 1,
    puzzles: Annotated[
        int, typer.Option(help="Puzzles, and word problems, for the tables; more take longer and say more.", min=1)
    ] = 12,
    seed: Annotated[int, typer.Option(help="Of the puzzles.", min=0)] = 1,
    delay: Annotated[float, typer.Option(help="Seconds to wait after each live step.", min=0)] = 0.1,
    output: Annotated[Path, typer.Option(help="Picture of the order in which cells are written.")] = Path(
        "commit_order.png"
    ),
    threads: Annotated[int, typer.Option(help="CPU threads; a model this small gains nothing by more.", min=1)] = 1,
) -> None:
    """
    Watch a masked diffusion model solve Sudokus it has never seen, compare decoders on it, and see another model leave
    its reasoning as soon as its answer is decided.

    Needs no network, and less than a minute on two cores. The puzzles are held out: which side a puzzle belongs to is
    a function of the puzzle itself.
    """
    from rich.console import Console

    from hf_latent.checkpoints.names import packaged_checkpoints
    from hf_latent.cli.progress import spinner
    from hf_latent.cli.sudoku_board import draw_puzzle

    console = Console()
    boards = [known for known in packaged_checkpoints() if known.startswith("sudoku")]
    name = checkpoint or max(boards, default=None)
    if name is None:
        raise ValueError("no checkpoint comes with this installation: give `--checkpoint` a folder.")
    task, givens = read_board(name)
    check_picture(output)
    console.print(
        f"[bold]{escape(name)}[/]: {task.size}x{task.size} Sudokus with {givens[0]}-{givens[1]} given cells, one "
        "solution each, never seen in training. The first:"
    )
    found = task.generate(max(show, puzzles), seed=seed, split="test", num_givens=givens)
    instances = [instance | task.format(instance) for instance in found]
    draw_puzzle(console, instances[0]["puzzle"].split("\n"))
    with spinner(console, "Loading torch, transformers and the model"):
        import torch

        from hf_latent.checkpoints.loading import load

        torch.set_num_threads(threads)
        model, tokenizer = load(name)
    console.print(f"A masked diffusion model of {model.num_parameters():,} parameters writes in any order:\n")
    own = model.generation_config
    decoders = [{k: getattr(own, k) if v is None else v for k, v in d.items()} for d in DECODERS]
    solve_live(console, model, tokenizer, task, instances[:show], (decoders[2], decoders[-1]), delay)
    console.print(f"The same {puzzles} puzzles with each of {len(decoders)} decoders:")
    print_table(console, compare(console, model, tokenizer, task, instances[:puzzles], decoders))
    with spinner(console, "Drawing the order in which cells are written"):
        draw_order(model, tokenizer, task, instances[0], [d for d in decoders if d["decoding"] in SHOWN], output)
    console.print("\nOrder in which the cells of the first puzzle were written: ", end="")
    console.print(str(output), style="bold", markup=False, highlight=False)
    if REASONING_CHECKPOINT in packaged_checkpoints():
        from hf_latent.cli.early_exit import show_early_exit

        show_early_exit(console, REASONING_CHECKPOINT, puzzles, seed, delay)


def read_board(name: str) -> "tuple[SudokuTask, tuple[int, int]]":
    """The task of a Sudoku checkpoint and the range of given cells it was trained on, from its task.json."""
    from hf_latent.checkpoints.names import read_description
    from hf_latent.tasks import SudokuTask

    about = read_description(name)
    if not about:
        raise ValueError(f"`--checkpoint` {name} has no task.json that says which puzzles it was trained on.")
    if about.get("task") != "sudoku":
        raise ValueError(f"`--checkpoint` must be one for Sudokus, got {name}, whose task is {about.get('task')!r}.")
    givens = about.get("num_givens")
    fits = isinstance(givens, list) and len(givens) == 2 and all(isinstance(number, int) for number in givens)
    if givens is None or not fits or about.get("size") not in (4, 6, 9):
        raise ValueError(
            f"task.json of `--checkpoint` {name} must have `size` (4, 6 or 9) and `num_givens` (fewest and most), got "
            f"{about.get('size')!r} and {givens!r}."
        )
    return SudokuTask(about["size"]), (givens[0], givens[1])


def check_picture(path: Path) -> None:
    """A picture that cannot be written is said before the minute that comes before it."""
    kinds = (".png", ".svg", ".pdf", ".jpg", ".jpeg")
    if path.suffix.lower() not in kinds:
        raise ValueError(f"`--output` must end in one of {', '.join(kinds)}, got {path}.")
    if not path.parent.is_dir():
        raise ValueError(f"`--output` must be in a folder that exists, got {path}.")


def solve_live(
    console: "Console",
    model: Any,
    tokenizer: Any,
    task: "SudokuTask",
    instances: list[dict],
    decoders: tuple[dict[str, Any], dict[str, Any]],
    delay: float,
) -> None:
    """Solve each puzzle with both `decoders`, the draft drawn after every forward."""
    from rich.live import Live

    from hf_latent.cli.sudoku_board import LiveBoard

    for instance in instances:
        ids = tokenizer(instance["prompt"], return_tensors="pt")["input_ids"]
        rows = instance["puzzle"].split("\n")
        # The second has few steps, so each is shown longer.
        for settings, pause in zip(decoders, (delay, 6 * delay), strict=True):
            with Live(console=console, auto_refresh=False) as live:
                title = settings["decoding"]
                board = LiveBoard(live, tokenizer, rows, title, pause if console.is_terminal else 0.0)
                sequence = model.generate(ids, max_new_tokens=task.completion_length, streamer=board, **settings)
            solved = task.verify(instance["puzzle"], tokenizer.decode(sequence[0, ids.shape[1] :]))
            if not console.is_terminal:
                console.print()  # rich leaves the cursor behind the last frame there
            console.print("[green]solved[/]\n" if solved else "[red]wrong[/]\n")


def compare(
    console: "Console",
    model: Any,
    tokenizer: Any,
    task: "SudokuTask",
    instances: list[dict],
    decoders: list[dict[str, Any]],
) -> "list[DecodingResult]":
    """Solve the same puzzles with every decoder."""
    from hf_latent.cli.progress import progress_bar
    from hf_latent.evaluation import solve_puzzles

    results = []
    with progress_bar(console, len(instances) * len(decoders)) as advance:
        for settings in decoders:
            name = settings["decoding"]
            advance(name, 0)
            on_batch = functools.partial(advance, name)
            size = math.ceil(len(instances) / 2)
            results.append(
                solve_puzzles(
                    model, tokenizer, task, instances, batch_size=size, on_batch=on_batch, seed=0, **settings
                )
            )
    return results


def print_table(console: "Console", results: "list[DecodingResult]") -> None:
    """Accuracy, forwards and seconds of every decoder."""
    from rich.table import Table

    table = Table(title=f"{results[0].num_examples} held-out puzzles")
    table.add_column("decoding", no_wrap=True)
    for heading in ("knob", "solved", "forwards\nper puzzle", "tokens per\nforward", "seconds"):
        table.add_column(heading, justify="left" if heading == "knob" else "right", no_wrap=True)
    for result in results:
        knobs = ", ".join(str(v) for k, v in result.settings.items() if k not in ("decoding", "seed"))
        table.add_row(
            result.settings["decoding"],
            knobs,
            f"{100 * result.accuracy:.0f} %",
            f"{result.forwards_per_example:.1f}",
            f"{result.tokens_per_forward:.1f}",
            f"{result.seconds:.1f}",
        )
    console.print(table)


def draw_order(
    model: Any, tokenizer: Any, task: "SudokuTask", instance: dict, decoders: list[dict[str, Any]], path: Path
) -> None:
    """Draw the order in which `decoders` write the cells of one puzzle."""
    from hf_latent.viz import plot_commit_order
    from hf_latent.viz.commit_order import WrittenBoard

    ids = tokenizer(instance["prompt"], return_tensors="pt")["input_ids"]
    boards = []
    for settings in decoders:
        output = model.generate(
            ids, max_new_tokens=task.completion_length, return_dict_in_generate=True, seed=0, **settings
        )
        answer = output.sequences[0, ids.shape[1] :]
        steps = output.commit_step[0, ids.shape[1] :].tolist()
        tokens = [t if len(t) == 1 else "?" for t in tokenizer.convert_ids_to_tokens(answer.tolist())]
        cells = [[r * (task.size + 1) + c for c in range(task.size)] for r in range(task.size)]
        boards.append(
            WrittenBoard(
                name=settings["decoding"],
                answer=["".join(tokens[i] for i in row) for row in cells],
                steps=[[steps[i] for i in row] for row in cells],
                forwards=int(output.num_forward_passes[0]),
                solved=task.verify(instance["puzzle"], tokenizer.decode(answer)),
            )
        )
    plot_commit_order(instance["puzzle"].split("\n"), boards, path)


__all__ = ["demo"]
