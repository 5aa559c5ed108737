"""Names of checkpoints: folders, those that come with this package, those on the Hub; what was meant by others."""

import contextlib
import difflib
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from hf_latent.data.json_files import read_json, read_json_object

# What a folder of a model, an adapter or a tokenizer has one of.
MARKS = ("config.json", "adapter_config.json", "tokenizer_config.json", "tokenizer.json")
SHOWN = 8


def packaged_checkpoints(*, autoregressive: bool = True) -> list[str]:
    """Names of the checkpoints that come with this package; those that write from left to right if asked for."""
    root = resources.files("hf_latent.model_cards")
    names = [entry.name for entry in root.iterdir() if (entry / "model.safetensors").is_file()]
    if not autoregressive:
        orders = {name: read_json(Path(str(root / name / "config.json"))).get("order") for name in names}
        names = [name for name in names if orders[name] != "left_to_right"]
    return sorted(names)


def resolve_checkpoint(name: str, option: str = "model") -> str:
    """
    The path of a folder or packaged checkpoint, or a name for the Hub, in this order.

    Args:
        name: as the user gave it.
        option: what the user calls it, for the error.

    Raises:
        ValueError: for what cannot be one of the three, or is nearly the name of a packaged checkpoint, with what was
            probably meant and what there is. Nothing is asked of the network.
    """
    if not name.strip():
        known = listed(packaged_checkpoints())
        raise ValueError(f"`{option}` must be a folder, a packaged checkpoint ({known}) or a name, got {name!r}")
    path = Path(name).expanduser()
    if path.is_dir():
        return name if checked_folder(path, option) == Path(name) else str(path)
    if path.exists():
        raise ValueError(f"`{option}` must be a folder or a name, got the file {name}")
    packaged = packaged_checkpoints()
    if name in packaged:
        return str(resources.files("hf_latent.model_cards") / name)
    if near := nearest_packaged(name):
        raise ValueError(
            f"`{option}` {name!r} is neither a folder nor a packaged checkpoint: did you mean {listed(near, 'or')}? "
            f"Packaged are {listed(packaged)}"
        )
    if not is_hub_name(name):
        raise ValueError(f"`{option}` must be a folder or a name, got {name!r}, which does not exist{beside(path)}")
    return name


def checked_folder(path: Path, option: str) -> Path:
    """`path`, if a checkpoint lies in it; otherwise `ValueError` with the folders in it that have one."""
    if any((path / mark).is_file() for mark in MARKS) or any(path.glob("*.gguf")):
        return path
    inside = sorted(child.name for child in path.iterdir() if any((child / mark).is_file() for mark in MARKS))
    what = f"; there are checkpoints in it: {listed(inside)}" if inside else f", has none of {listed(MARKS, 'or')}"
    raise ValueError(f"`{option}` must be the folder of a checkpoint, got {path}{what}")


def check_adapter(name: str) -> None:
    """Raise `ValueError` for what is neither the folder of an adapter nor could be one's name on the Hub."""
    path = Path(name).expanduser()
    if path.is_dir():
        if not read_json_object(path / "adapter_config.json"):
            raise ValueError(
                f"`--adapter` must be the folder of an adapter, got {name}, which has no adapter_config.json"
            )
        if not any(path.glob("adapter_model.*")):
            raise ValueError(f"`--adapter` {name} has no weights: adapter_model.safetensors is missing")
    elif path.exists() or not is_hub_name(name):
        what = "is a file" if path.exists() else "does not exist"
        raise ValueError(
            f"`--adapter` must be a folder or a name on the Hub, got {name!r}, which {what}{beside(path)}"
        )


@contextlib.contextmanager
def explained(name: str, option: str = "model") -> Iterator[None]:
    """
    While a checkpoint is loaded: that the Hub has no answer for `name` says what `name` is not, either, and what is
    wrong in a file of it is a `ValueError` that says of what.
    """
    try:
        yield
    except OSError as error:
        if not is_hub_name(name) or Path(name).exists() or name in packaged_checkpoints():
            raise
        reason = re.split(r"(?<=[.!])\s", " ".join(str(error).split()))[0]
        raise ValueError(
            f"`{option}` {name!r} is neither a folder here{beside(Path(name))} nor a packaged checkpoint "
            f"({listed(packaged_checkpoints())}), and the Hub could not be asked or does not have it: {reason}"
        ) from None
    except Exception as error:
        if not is_of_a_file(error):
            raise
        raise ValueError(f"`{option}` {name!r} cannot be loaded: {' '.join(str(error).split())}") from error


def is_of_a_file(error: BaseException) -> bool:
    """
    Whether `error` says what is wrong in a file of a checkpoint: a field of a configuration, weights that are cut off
    or of other shapes, a tokenizer that is none. Their classes derive from no `ValueError`; tokenizers has none.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    is_of_shapes = type(error) is RuntimeError and "mismatch" in str(error)
    return (
        type(error) is Exception
        or is_of_shapes
        or bool(names & {"StrictDataclassError", "SafetensorError", "YAMLError"})
    )


def read_description(name: str) -> dict[str, Any]:
    """The `task.json` of a model folder or packaged checkpoint, which says what it was trained on; empty without."""
    return read_json_object(Path(resolve_checkpoint(name)) / "task.json")


def nearest_packaged(name: str) -> list[str]:
    """Packaged checkpoints whose names differ only in case and separators, begin like it, or are spelled nearly so."""
    packaged = packaged_checkpoints()
    plain = {re.sub(r"[^a-z0-9]", "", known): known for known in packaged}
    wanted = re.sub(r"[^a-z0-9]", "", Path(name).name.lower())
    # A name with a folder or user before it is meant as one, unless its last part is a packaged name to the letter.
    if "/" in name:
        return [plain[wanted]] if wanted in plain and not is_hub_name(name) else []
    if wanted in plain:
        return [plain[wanted]]
    begins = [known for key, known in plain.items() if len(wanted) > 3 and key.startswith(wanted)]
    return begins or [plain[key] for key in difflib.get_close_matches(wanted, plain, n=3, cutoff=0.7)]


def is_hub_name(name: str) -> bool:
    """Whether the Hub could have a repository of that name: `name` or `user/name`."""
    part = r"[A-Za-z0-9][A-Za-z0-9._-]*"
    return re.fullmatch(rf"{part}(/{part})?", name) is not None


def beside(path: Path) -> str:
    """The folders that lie where `path` should, for an error."""
    parent = path.parent
    if str(parent) in ("", ".") or not parent.is_dir():
        return ""
    there = sorted(child.name for child in parent.iterdir() if child.is_dir())
    near = difflib.get_close_matches(path.name, there, n=3) or there
    return f" ({parent} has {listed(near)})" if near else f" ({parent} has no folders)"


def listed(names: list[str] | tuple[str, ...], word: str = "and") -> str:
    """`a, b and c`; long lists are cut."""
    shown = list(names[:SHOWN]) + ([f"{len(names) - SHOWN} more"] if len(names) > SHOWN else [])
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {word} {shown[-1]}" if shown else "none"


__all__ = [
    "check_adapter",
    "explained",
    "is_hub_name",
    "is_of_a_file",
    "listed",
    "nearest_packaged",
    "packaged_checkpoints",
    "read_description",
    "resolve_checkpoint",
]
