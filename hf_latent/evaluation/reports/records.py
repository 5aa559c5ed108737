"""What became of each example, on disk as it comes: an interrupted evaluation loses at most the batch it was at."""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def digest(value: Any) -> str:
    """16 hexadecimal digits that only this JSON value has."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()[:16]


class RecordStore:
    """
    Records of one measurement, `{"key": ..., ...}` a line, in one file for each process that writes.

    Every process reads what all have written; none writes where another does. A line that an interruption has cut off
    is dropped, and made again.

    Args:
        folder: of this measurement alone.
        part: number of this process.
    """

    def __init__(self, folder: Path, part: int = 0) -> None:
        self.folder = folder
        self.path = folder / f"part-{part}.jsonl"

    def read(self) -> dict[str, dict[str, Any]]:
        """Key to record, of all parts."""
        records: dict[str, dict[str, Any]] = {}
        for path in sorted(self.folder.glob("part-*.jsonl")):
            # A line without its end may still be valid JSON, of a number that was longer.
            for line in path.read_bytes().split(b"\n")[:-1]:
                record = json.loads(line)
                records[record["key"]] = record
        return records

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records and have them on disk."""
        lines = "".join(json.dumps(record, ensure_ascii=True, allow_nan=False) + "\n" for record in records)
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab+") as file:
            _drop_torn_line(file)
            file.write(lines.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())


def _drop_torn_line(file: Any) -> None:
    """Cut a file, open for reading and appending, behind its last complete line."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(end - 1)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)


__all__ = ["RecordStore", "digest"]
