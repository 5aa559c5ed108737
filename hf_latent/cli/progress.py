"""What a command is doing right now, in a terminal and where there is none."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@contextmanager
def spinner(console: "Console", what: str) -> Iterator[None]:
    """Say `what` is being done: with a moving sign while it lasts in a terminal, as a line of its own elsewhere."""
    if not console.is_terminal:
        console.print(f"{what} ...", highlight=False)
        yield
        return
    with console.status(f"{what} ..."):
        yield


@contextmanager
def progress_bar(console: "Console", total: int) -> Iterator[Callable[[str, int], None]]:
    """
    A bar over `total` things: call what is given with what is in work, and how many more are done.

    Where there is no terminal, each new piece of work is a line.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>22}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task("", total=total)
        last = ""

        def advance(what: str, done: int) -> None:
            nonlocal last
            if what != last and not console.is_terminal:
                console.print(f"  {what} ...", highlight=False)
            last = what
            progress.update(bar, description=what, advance=done)

        yield advance


__all__ = ["progress_bar", "spinner"]
