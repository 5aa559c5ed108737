"""The order in which the cells of a board were written, one panel a decoder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from hf_latent.modeling.atomic import replacing


@dataclass(frozen=True)
class WrittenBoard:
    """
    A board as a decoder wrote it.

    Args:
        name: the decoder, with what matters of its settings.
        answer: rows of the finished board.
        steps: per cell, the 0-based forward after which it was written; -1 for unknown.
        forwards: forwards of the whole answer.
        solved: whether the board is right.
    """

    name: str
    answer: Sequence[str]
    steps: Sequence[Sequence[int]]
    forwards: int
    solved: bool


def plot_commit_order(puzzle: Sequence[str], boards: Sequence[WrittenBoard], path: str | Path) -> Path:
    """Draw `boards` side by side, cells coloured by when they were written; given cells of `puzzle` are framed."""
    columns = min(4, len(boards))
    rows = -(-len(boards) // columns)
    figure = Figure(figsize=(2.9 * columns + 0.9, 3.2 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    image = None
    for axis, board in zip(axes.flat, boards, strict=False):
        # Each panel from first to last forward of its own: the order is what is compared, forwards are in the title.
        last = max(max(row) for row in board.steps) or 1
        image = axis.imshow([[step / last for step in row] for row in board.steps], cmap="viridis", vmin=0, vmax=1)
        for r, line in enumerate(board.answer):
            for c, digit in enumerate(line):
                given = puzzle[r][c] != "."
                dark = board.steps[r][c] / last < 0.6
                axis.text(
                    c,
                    r,
                    f"{digit}\n" if not given else f"[{digit}]\n",
                    ha="center",
                    va="center",
                    fontsize=11,
                    weight="bold" if given else "normal",
                    color="white" if dark else "black",
                )
                axis.text(
                    c, r + 0.3, str(board.steps[r][c] + 1), ha="center", va="center", fontsize=6.5,
                    color="white" if dark else "black",
                )  # fmt: skip
        verdict = "solved" if board.solved else "wrong"
        axis.set_title(f"{board.name}\n{board.forwards} forwards, {verdict}", fontsize=9)
        axis.set(xticks=[], yticks=[])
    for axis in list(axes.flat)[len(boards) :]:
        axis.axis("off")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 1])
    bar.ax.set_yticklabels(["first", "last"])
    figure.suptitle("When each cell was written: [given] cells in brackets, small figures are forwards", fontsize=10)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=120)
    return Path(path)


__all__ = ["WrittenBoard", "plot_commit_order"]
