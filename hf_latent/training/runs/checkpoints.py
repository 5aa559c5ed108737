"""Which checkpoints of a run are whole, and which of them is the newest."""

import json
import os
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

RECORD = "hf_latent_run.json"  # what a checkpoint of our trainers says about its run, see `run_record`
STATE = "trainer_state.json"
WEIGHTS = ("model.safetensors", "adapter_model.safetensors")
_FOLDER = re.compile(r"checkpoint-(\d+)")


class Found(NamedTuple):
    """The newest whole checkpoint, if there is one, and newer ones that were passed over, each with the reason."""

    checkpoint: Path | None
    skipped: list[tuple[Path, str]]


def find_newest(output_dir: str | os.PathLike, needed: Mapping[str, str] | None = None) -> Found:
    """
    The newest whole checkpoint in a run's folder.

    Newer is what belongs to the run that was begun later, then what has more steps: after a run that began anew in the
    same folder, a higher number may be the older one.

    Args:
        needed: names of further files without which the run cannot go on, and what it means if one is missing.
    """
    folder = Path(output_dir)
    matches = [(_FOLDER.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
    candidates = [
        (float(read_record(path).get("started", 0)), int(match[1]), path)
        for match, path in matches
        if match and path.is_dir()
    ]
    skipped: list[Any] = []
    for _, _, path in sorted(candidates, reverse=True):
        reason = what_is_missing(path, needed)
        if reason is None:
            return Found(path, skipped)
        skipped.append((path, reason))
    return Found(None, skipped)


def what_is_missing(checkpoint: Path, needed: Mapping[str, str] | None = None) -> str | None:
    """
    Why a run cannot go on from a checkpoint; None for a whole one.

    Whole are weights, optimizer, scheduler, random states and the trainer's state, each readable to its end as far as
    its own table of contents tells: nothing is loaded. Of weights that are spread over processes (FSDP, DeepSpeed) the
    folders of all parts are looked for.
    """
    state = checkpoint / STATE
    try:
        if not isinstance(json.loads(state.read_text(encoding="utf-8"))["global_step"], int):
            return f"{STATE} has no `global_step`"
    except FileNotFoundError:
        return f"{STATE} is missing"
    except (ValueError, KeyError, TypeError):
        return f"{STATE} is cut off"
    for name, meaning in (needed or {}).items():
        if not (checkpoint / name).is_file():
            return f"{name} is missing: {meaning}"
    is_spread = (checkpoint / "latest").is_file() or any(checkpoint.glob("pytorch_model_fsdp*"))
    reason = _spread_parts(checkpoint) if is_spread else _weights(checkpoint) or _archive(checkpoint / "optimizer.pt")
    if reason is not None:
        return reason
    if not (checkpoint / "latest").is_file() and (reason := _archive(checkpoint / "scheduler.pt")):
        return reason
    states = sorted(checkpoint.glob("rng_state*.pth")) or [checkpoint / "rng_state.pth"]
    others = [*checkpoint.glob("scaler.pt"), *checkpoint.glob("training_args.bin")]
    return next((reason for path in [*states, *others] if (reason := _archive(path))), None) or next(
        (reason for path in checkpoint.glob("*.safetensors") if (reason := _safetensors(path))), None
    )


def read_record(checkpoint: Path) -> dict[str, Any]:
    """What our trainer has written about the run; empty for a checkpoint of others."""
    try:
        record = json.loads((checkpoint / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _weights(checkpoint: Path) -> str | None:
    for config in ("config.json", "adapter_config.json"):
        path = checkpoint / config
        if path.is_file() and (reason := _json(path)):
            return reason
    index = checkpoint / "model.safetensors.index.json"
    if index.is_file():
        if reason := _json(index):
            return reason
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8")).get("weight_map", {}).values()))
        return next((reason for shard in shards if (reason := _safetensors(checkpoint / shard))), None)
    present = [checkpoint / name for name in WEIGHTS if (checkpoint / name).is_file()]
    present += sorted(checkpoint.glob("*/adapter_model.safetensors"))  # of adapters with a name
    if not present:
        return f"its weights ({' or '.join(WEIGHTS)}) are missing"
    return next((reason for path in present if (reason := _safetensors(path))), None)


def _spread_parts(checkpoint: Path) -> str | None:
    latest = checkpoint / "latest"
    if latest.is_file():
        tag = latest.read_text(encoding="utf-8").strip()
        return None if tag and (checkpoint / tag).is_dir() else f"the folder {tag or 'that `latest` names'} is missing"
    for pattern in ("pytorch_model_fsdp*", "optimizer*"):
        parts = list(checkpoint.glob(pattern))
        if not any(part.is_file() or (part / ".metadata").is_file() for part in parts):
            return f"{pattern} is missing"
    return None


def _json(path: Path) -> str | None:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return f"{path.name} is cut off"
    return None


def _safetensors(path: Path) -> str | None:
    """The header says where the last tensor ends."""
    if not path.is_file():
        return f"{path.name} is missing"
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                return f"{path.name} is cut off"
            header = json.loads(file.read(length))
        end = max((entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"), default=0)
    except (struct.error, ValueError, KeyError, TypeError):
        return f"{path.name} is cut off"
    return None if path.stat().st_size == 8 + length + end else f"{path.name} is cut off"


def _archive(path: Path) -> str | None:
    """What `torch.save` writes is a zip, whose table of contents comes last."""
    if not path.is_file():
        return f"{path.name} is missing"
    return None if zipfile.is_zipfile(path) else f"{path.name} is cut off"


__all__ = ["RECORD", "Found", "find_newest", "read_record", "what_is_missing"]
