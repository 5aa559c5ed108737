"""Folders to write into, looked at before anything is loaded or computed."""

from collections.abc import Iterable
from pathlib import Path


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


__all__ = ["check_output_folder"]
