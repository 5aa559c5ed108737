"""Files and folders that are whole or not there: written beside, flushed to the disk, renamed."""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # Windows: what killed writers left cannot be told from what others are writing, and stays there
    fcntl = None  # type: ignore[assignment]

RETIRED = ".old"  # what is replaced, on its way out
_LOCK = ".lock"
_TOKEN = r"[0-9a-f]{8}"


def write_atomically(path: str | os.PathLike, text: str) -> None:
    """
    Write beside, then rename: an interrupted save leaves the previous file whole, readers see one version or the
    other, and of two writers the later one wins.
    """
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """
    Where to write the file or folder that takes the place of `path` when the block ends without an error.

    Example:

    ```python
    >>> with replacing("weights.safetensors") as beside:
    ...     save_file(tensors, beside)
    ```
    """
    path = Path(path)
    with Scratch(path) as folder:
        yield folder / path.name
        put_in_place(folder / path.name, path)


class Scratch:
    """
    A hidden `folder` beside `path`, of this writer alone, for what is to take the place of `path`; `close` removes it.

    Those that killed writers of `path` have left are removed first, never those of living ones: a writer holds a lock
    for as long as its process lives.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        remove_leftovers(self.path)
        self.folder, self._lock = _claim(self.path)

    def close(self) -> None:
        """Remove the folder."""
        _drop(self.folder, self.path)
        self._lock.close()

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *_: object) -> None:
        self.close()


def put_in_place(new: Path, path: Path) -> None:
    """Put `new`, a file or folder in a [`Scratch`] folder of `path`, in its place, once it is on the disk."""
    for file in [new] if new.is_file() else [f for f in sorted(new.rglob("*")) if f.is_file()]:
        _flush(file)
    if new.is_dir():
        with alone_in(path.parent):  # two renames: between those of another writer they would fail, or undo them
            if path.exists():
                path.rename(new.parent / f"{path.name}{RETIRED}")  # only an empty folder can be renamed over
            new.replace(path)
    else:
        new.replace(path)
    if path.is_dir():  # what it replaces may be deleted next; of a file the version before is as good
        _flush(path.parent)


@contextlib.contextmanager
def alone_in(folder: str | os.PathLike) -> Iterator[None]:
    """
    Wait until nobody else, of this process or another, is in such a block for `folder`: for what reads a file there,
    decides and writes it. Nothing is left behind, not even by the killed; a block inside a block of the same folder
    would wait for itself.

    Example:

    ```python
    >>> with alone_in(path.parent):
    ...     entries = [*json.loads(path.read_text()), entry]
    ...     write_atomically(path, json.dumps(entries))
    ```
    """
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def remove_leftovers(path: str | os.PathLike) -> None:
    """Remove what killed writers of `path` have left beside it; what they were about to replace is put back."""
    path = Path(path)
    if fcntl is None or not path.parent.is_dir():
        return
    pattern = re.compile(rf"\.{re.escape(path.name)}\.{_TOKEN}\.tmp")
    for name in [entry.name for entry in os.scandir(path.parent) if pattern.fullmatch(entry.name)]:
        folder = path.parent / name
        try:
            lock = _lock(folder, path)
        except FileNotFoundError:  # killed before it had its lock, or not yet there: then it will try again
            with contextlib.suppress(OSError):
                folder.rmdir()
            continue
        except OSError:  # somebody is writing there, or the file system has no locks
            continue
        with lock:
            _drop(folder, path)


def _claim(path: Path) -> tuple[Path, IO[bytes]]:
    """A new folder beside `path`, and the open file that keeps it ours."""
    while True:
        folder = path.parent / f".{path.name}.{secrets.token_hex(4)}.tmp"
        folder.mkdir()
        try:
            (folder / f"{path.name}{_LOCK}").touch()
            lock = _lock(folder, path)
        except FileNotFoundError:  # taken for a leftover before it had its lock
            continue
        except BlockingIOError:
            continue
        except OSError:  # a file system without locks
            lock = (folder / f"{path.name}{_LOCK}").open("r+b")
        if folder.is_dir():
            return folder, lock
        lock.close()


def _lock(folder: Path, path: Path) -> IO[bytes]:
    """Take the lock of `folder`, or raise `OSError`. The system takes it back when the process ends, killed or not."""
    file = (folder / f"{path.name}{_LOCK}").open("r+b")
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _drop(folder: Path, path: Path) -> None:
    """Remove a scratch folder. Interrupted between its two renames, the old folder goes back where it was."""
    retired = folder / f"{path.name}{RETIRED}"
    if retired.exists():
        with alone_in(path.parent):  # another writer may be between its two renames
            if not path.exists():
                retired.rename(path)
    shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    """Ask the system to write a file, or a folder's list of names, to the disk: a rename may get there before it."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    except OSError:  # a file system that cannot
        pass
    finally:
        os.close(descriptor)


__all__ = ["Scratch", "alone_in", "put_in_place", "remove_leftovers", "replacing", "write_atomically"]
