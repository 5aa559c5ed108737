"""Folders to write into, looked at before anything is loaded or computed, and held by one run at a time."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

RUN_LOCK = ".run.lock"


def check_output_folder(
    folder: str | Path, argument: str, *, files: Iterable[str] = (), folders: Iterable[str] = ()
) -> None:
    """
    Raise `ValueError` unless `folder` is a folder or can be made.

    Args:
        argument: what the user has called it.
        files, folders: names in it that will be written as one or the other, and must not be the other already.
    """
    folder = Path(folder)
    if file := next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None):
        raise ValueError(f"`{argument}` must be a folder, there or to be made, got {folder}: {file} is a file.")
    for name in files:
        if (folder / name).is_dir():
            raise ValueError(f"`{argument}` must have no folder where the file {name} goes, got {folder}.")
    for name in folders:
        if (folder / name).exists() and not (folder / name).is_dir():
            raise ValueError(f"`{argument}` must have no file where the folder {name} goes, got {folder}.")


@contextmanager
def only_run_in(folder: str | Path, argument: str = "output_dir") -> Iterator[None]:
    """
    Hold `folder`, which is made if need be, for as long as the block takes; `ValueError` if another run holds it.

    The system gives a lock back when its process ends, killed or not. Where there are none (Windows, some network
    file systems) nothing is held. A folder in which nothing was written goes again if it was made here.
    """
    check_output_folder(folder, argument)
    is_new = not Path(folder).exists()
    Path(folder).mkdir(parents=True, exist_ok=True)
    path = Path(folder) / RUN_LOCK
    lock = _take(path, f"`{argument}` ({folder})")
    try:
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        yield
    finally:
        path.unlink(missing_ok=True)
        lock.close()
        if is_new:
            with suppress(OSError):  # what was made in it stays
                Path(folder).rmdir()


def _take(path: Path, what: str) -> IO[str]:
    """The open lock file at `path`, locked."""
    while True:
        file = path.open("a+", encoding="utf-8")
        if fcntl is None:
            return file
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "of unknown number"
            file.close()
            raise ValueError(
                f"{what} is written by another run, process {holder}, which has not ended: wait for it or stop it, or "
                "give another folder."
            ) from None
        except OSError:  # a file system without locks
            return file
        # Its holder may have removed the file between the two lines above: then the lock is one of nothing.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()


__all__ = ["RUN_LOCK", "check_output_folder", "only_run_in"]
