"""Absolute paths of somebody's machine, in text that is about to be published."""

import re
import tempfile
from pathlib import Path

# Folders that hold somebody's files; /usr, /etc, /dev and the like are the same everywhere and say nothing.
_ROOTS = (
    "home Users root tmp private var/tmp var/folders work workspace workspaces mnt media scratch data projects "
    "content kaggle gpfs lustre nfs shared storage ssd nvme volumes Volumes srv"
).replace(" ", "|")
# Behind a letter, a dot or a slash it is a part of an address or of a relative path.
_POSIX = re.compile(rf"(?<![\w.~/\\<-])/(?:{_ROOTS})/[\w.@+-]+(?:/[\w.@+-]+)*")
_FILE = re.compile(r"\bfile://+[\w./@+-]+")
_WINDOWS = re.compile(r"(?<![\w])[A-Za-z]:\\{1,2}(?:Users|Documents|temp|Temp|[A-Z][\w ]*)\\{1,2}[\w.@+-]+")


def find_local_path(text: str) -> str | None:
    """The first absolute path of a machine in `text`; None if there is none."""
    for pattern in (_POSIX, _FILE, _WINDOWS):
        if match := pattern.search(text):
            return match.group()
    for folder in _own_folders():
        if match := re.search(rf"(?<![\w.]){re.escape(folder)}(?![\w.-])", text):
            return match.group()
    return None


def _own_folders() -> set[str]:
    """Folders of this machine, wherever they are, that are deep enough to be nothing else."""
    folders = {Path.home(), Path.cwd(), Path(tempfile.gettempdir())}
    return {str(folder) for folder in folders if len(folder.parts) > 2}


__all__ = ["find_local_path"]
