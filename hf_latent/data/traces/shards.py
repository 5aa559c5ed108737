"""
A folder of traces that is written shard by shard: interrupted anywhere, it goes on where it stopped.

    folder/run.json              what the traces are a function of
    folder/shards/00000.jsonl    the traces of the first questions, whole or not there
    folder/traces/               all of them, for `datasets.load_from_disk`, once every shard is there
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_latent.data.identity import record_or_check
from hf_latent.modeling.atomic import replacing, write_atomically

if TYPE_CHECKING:
    from datasets import Dataset

FORMATS = ("arrow", "parquet", "jsonl")


class TraceFolder:
    """
    The shards of `num_questions` questions, `shard_size` each.

    Args:
        folder: where; made if missing.
        settings: what the traces are a function of, as JSON. A folder that was begun with others is refused.
        about: for the reader of `run.json`; not compared.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        num_questions: int,
        shard_size: int,
        about: dict[str, Any] | None = None,
    ) -> None:
        if shard_size < 1:
            raise ValueError(f"`shard_size` must be at least 1, got {shard_size}.")
        self.folder, self.num_questions, self.shard_size = folder, num_questions, shard_size
        self.settings = {**settings, "num_questions": num_questions, "shard_size": shard_size}
        self.about = about or {}

    @property
    def num_shards(self) -> int:
        """Shards of the whole run."""
        return -(-self.num_questions // self.shard_size)

    def begin(self) -> None:
        """Write `run.json`, or raise `ValueError` if the folder belongs to another model or other settings."""
        path, shards = self.folder / "run.json", self.folder / "shards"
        if not path.is_file() and shards.is_dir() and any(shards.glob("*.jsonl")):
            raise ValueError(
                f"`output` ({self.folder}) holds shards but no run.json that says what they are of. Give another "
                "folder."
            )
        record_or_check(path, self.settings, about=self.about, what="checkpoint or other settings")
        shards.mkdir(parents=True, exist_ok=True)

    def missing(self) -> list[int]:
        """Shards that are not written yet."""
        return [number for number in range(self.num_shards) if not self._path(number).is_file()]

    def questions_of(self, number: int) -> range:
        """The questions of a shard."""
        return range(number * self.shard_size, min((number + 1) * self.shard_size, self.num_questions))

    def write(self, number: int, rows: Sequence[dict[str, Any]]) -> None:
        """Write a shard at once."""
        write_atomically(self._path(number), "".join(json.dumps(row) + "\n" for row in rows))

    def merge(self) -> Dataset:
        """All traces in the order of the questions."""
        from datasets import Dataset

        if missing := self.missing():
            raise ValueError(f"`{self.folder}` lacks {len(missing)} of {self.num_shards} shards, e.g. {missing[0]}.")
        rows = []
        for number in range(self.num_shards):
            rows += [json.loads(line) for line in self._path(number).read_bytes().splitlines()]
        return Dataset.from_list(rows)

    def export(self, traces: Dataset, formats: Sequence[str]) -> list[Path]:
        """Write the dataset as `traces` (for `load_from_disk`), `traces.parquet`, `traces.jsonl`; whole or not."""
        written = []
        for name in formats:
            check_format(name)
            path = self.folder / ("traces" if name == "arrow" else f"traces.{name}")
            with replacing(path) as beside:
                if name == "arrow":
                    traces.save_to_disk(beside)
                elif name == "parquet":
                    traces.to_parquet(beside)
                else:
                    traces.to_json(beside)
            written.append(path)
        return written

    def _path(self, number: int) -> Path:
        return self.folder / "shards" / f"{number:05d}.jsonl"


def check_format(name: str) -> None:
    """Raise `ValueError` for a format that is none."""
    if name not in FORMATS:
        raise ValueError(f"`format` must be one of {FORMATS}, got {name!r}.")


def fingerprint(*columns: Sequence[Any]) -> str:
    """Of the questions and answers, so that a run is not resumed with others."""
    return hashlib.sha256(json.dumps(columns).encode()).hexdigest()[:16]


__all__ = ["FORMATS", "TraceFolder", "check_format", "fingerprint"]
