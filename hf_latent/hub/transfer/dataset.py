"""Data sets of traces, or any others, as a repository that `load_dataset("user/name")` reads."""

import math
import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCard, DatasetCardData

from hf_latent.modeling.atomic import replacing

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SHARD_BYTES = 500 * 10**6
# What `save_to_disk` leaves; `load_dataset` refuses such a folder.
SAVED = ("dataset_dict.json", "state.json")
# What a run of `hf-latent traces` leaves, best first.
TRACES = ("traces", "traces.parquet", "traces.jsonl")


def is_saved_dataset(folder: Path) -> bool:
    """Whether `folder` is what `save_to_disk` writes, or a run of `hf-latent traces`, and has to be rewritten."""
    return any((folder / name).is_file() for name in SAVED) or (
        (folder / "shards").is_dir() and any((folder / name).exists() for name in TRACES)
    )


def read_dataset(folder: Path) -> "Dataset | DatasetDict":
    """The data set that `is_saved_dataset` has seen in `folder`."""
    from datasets import load_dataset, load_from_disk

    if any((folder / name).is_file() for name in SAVED):
        return load_from_disk(folder)
    path = next(folder / name for name in TRACES if (folder / name).exists())
    if path.is_dir():
        return load_from_disk(path)
    reader = "parquet" if path.suffix == ".parquet" else "json"
    return load_dataset(reader, data_files=str(path), split="train")


def write_dataset(
    dataset: "Dataset | DatasetDict", folder: str | os.PathLike, name: str, *, card: Path | None = None
) -> Path:
    """
    Write `data/SPLIT-00000-of-0000N.parquet` and a card that says which files are which split.

    Args:
        folder: where to.
        name: title of the card.
        card: a card to take instead.

    Raises:
        ValueError: for a split whose name is not made of letters, digits, `_`, `.` and `-`.
    """
    folder = Path(folder)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    splits: dict[str, Any] = dict(dataset) if hasattr(dataset, "keys") else {str(dataset.split or "train"): dataset}
    rows = {}
    for split, part in splits.items():
        if not re.fullmatch(r"[\w.]+(-[\w.]+)*", split):
            raise ValueError(f"a split must be named with letters, digits, '_', '.' and '-', got {split!r}.")
        count = max(1, math.ceil((part.data.nbytes or 0) / SHARD_BYTES))
        for number in range(count):
            shard = part.shard(count, number, contiguous=True)
            with replacing(folder / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet") as beside:
                shard.to_parquet(beside)
        for path in (folder / "data").glob(f"{split}-*-of-*.parquet"):  # of a set in more or fewer files
            if not path.stem.endswith(f"-of-{count:05d}"):
                path.unlink()
        rows[split] = len(part)
    if card is not None:
        with replacing(folder / "README.md") as beside:
            shutil.copy2(card, beside)
    else:
        _write_card(folder, name, rows, next(iter(splits.values())).features)
    return folder


def _write_card(folder: Path, name: str, rows: dict[str, int], features: dict[str, Any]) -> None:
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in rows]
    data = DatasetCardData(
        pretty_name=name, tags=["hf-latent"], configs=[{"config_name": "default", "data_files": files}]
    )
    columns = "\n".join(f"| `{column}` | {_describe(feature)} |" for column, feature in features.items())
    counts = ", ".join(f"{count:,} rows in `{split}`" for split, count in rows.items())
    written = DatasetCard(
        f"---\n{data.to_yaml()}\n---\n\n# {name}\n\n{counts}. Nothing more was said about it when it was pushed.\n\n"
        f"| column | type |\n|---|---|\n{columns}\n\n"
        "```python\nfrom datasets import load_dataset\n\n"
        'dataset = load_dataset("user/name")  # its name on the Hub\n```\n'
    )
    with replacing(folder / "README.md") as beside:
        written.save(beside)


def _describe(feature: Any) -> str:
    return str(getattr(feature, "dtype", None) or feature).replace("|", "\\|")


__all__ = ["is_saved_dataset", "read_dataset", "write_dataset"]
