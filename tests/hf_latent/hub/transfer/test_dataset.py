"""A data set that is written a second time, in more or fewer files, is the second one alone."""

from pathlib import Path

import pytest
from datasets import Dataset, load_dataset

from hf_latent.hub.transfer import dataset as transfer


def test_shards_of_an_earlier_write_are_no_rows_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data/train-*.parquet` would read both; what an interruption leaves is whole or not there."""
    rows = Dataset.from_list([{"a": number} for number in range(6)])
    for size in (10**6, 16, 10**6):
        monkeypatch.setattr(transfer, "SHARD_BYTES", size)
        transfer.write_dataset(rows, tmp_path / "set", "mine")
        assert sorted(load_dataset(str(tmp_path / "set"), split="train")["a"]) == list(range(6))
        assert not [path for path in (tmp_path / "set").rglob("*") if path.name.startswith(".")]
