"""From what a user has, a model, an adapter, a data set or a folder, to the folder that goes to the Hub."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.data.json_files import read_json_object
from hf_latent.hub.bundles.bundling import bundle
from hf_latent.hub.bundles.upload_folder import link_folder, missing_code
from hf_latent.hub.safety.contents import DATA_SUFFIXES, kind_of
from hf_latent.hub.safety.inspection import list_files
from hf_latent.hub.safety.training_files import leave_out, where_weights_are
from hf_latent.hub.transfer.dataset import is_saved_dataset, read_dataset, write_dataset
from hf_latent.modeling.travel import write_atomically

DATA = tuple(sorted(DATA_SUFFIXES))


@dataclass(frozen=True)
class Prepared:
    """
    A folder as it goes.

    Args:
        origin: the folder it was made of, to which its links may lead; itself, if nothing was changed.
        kind: one of `KINDS`.
        was_verified: whether it has just been loaded without hf-latent.
        left_out: files of the training run, which do not go.
    """

    folder: Path
    origin: Path
    files: dict[str, Path]
    kind: str
    was_verified: bool
    left_out: tuple[str, ...]


@contextmanager
def prepare(
    source: Any, name: str, *, tokenizer: PreTrainedTokenizerBase | None, base_model: str | None, verify: bool
) -> Iterator[Prepared]:
    """
    The folder of `source`: itself, or a temporary one that is written from it, with the code that a model lacks.

    Raises:
        ValueError: for what is none of the things that can be pushed, or for arguments that do not apply to it.
    """
    with tempfile.TemporaryDirectory(prefix="hf-latent-") as temporary:
        target = Path(temporary) / name
        is_folder = isinstance(source, str | Path)
        folder = _check_folder(source, tokenizer) if is_folder else _write(source, target, tokenizer, verify)
        if is_folder and is_saved_dataset(folder):
            card = folder / "README.md"
            folder = write_dataset(read_dataset(folder), target, name, card=card if card.is_file() else None)
        origin = folder
        files, left_out = leave_out(list_files(folder))
        advice = where_weights_are(folder, "hf-latent push {folder} user/name")
        if advice and not any(name.endswith(DATA) for name in files):
            raise ValueError(advice)
        kind = kind_of(folder, files)
        if base_model is not None and kind != "adapter":
            raise ValueError(f"`base_model` is for adapters, and `source` is a {kind}.")
        added = missing_code(folder, files) if kind == "model" else {}
        if (added or base_model is not None) and folder != target:
            folder = link_folder(files, target, added)
            files = list_files(folder)
        if base_model is not None:
            set_base_model(folder, base_model)
        was_verified = verify and not is_folder and kind == "model"
        yield Prepared(folder, origin, files, kind, was_verified, left_out)


def set_base_model(folder: Path, base_model: str) -> None:
    """Name another base model in an adapter's configuration and card."""
    config = read_json_object(folder / "adapter_config.json")
    before = config.get("base_model_name_or_path")
    config["base_model_name_or_path"] = base_model
    write_atomically(folder / "adapter_config.json", json.dumps(config, indent=2, sort_keys=True) + "\n")
    card = folder / "README.md"
    if before and card.is_file():
        text = card.read_text(encoding="utf-8")
        write_atomically(card, re.sub(rf"{re.escape(before)}(?![\w.-])", lambda _: base_model, text))


def _check_folder(source: str | Path, tokenizer: PreTrainedTokenizerBase | None) -> Path:
    folder = Path(source)
    if not folder.is_dir():
        raise ValueError(f"`source` must be a folder, a model, an adapter or a data set, got {source}, which is none.")
    if tokenizer is not None:
        raise ValueError("`tokenizer` goes with a model; a folder is pushed as it is, so save the tokenizer in it.")
    return folder


def _write(source: Any, target: Path, tokenizer: PreTrainedTokenizerBase | None, verify: bool) -> Path:
    if hasattr(source, "peft_config") and hasattr(source, "merge_and_unload"):
        source.save_pretrained(target)
        if tokenizer is not None:
            tokenizer.save_pretrained(target)
        return target
    if isinstance(source, PreTrainedModel):
        return bundle(source, tokenizer, target, verify=verify)
    if type(source).__module__.split(".")[0] == "datasets" and hasattr(source, "save_to_disk"):
        if tokenizer is not None:
            raise ValueError("`tokenizer` goes with a model, and `source` is a data set.")
        return write_dataset(source, target, target.name)
    raise ValueError(
        "`source` must be a folder, a model of hf-latent, a PEFT model or a datasets.Dataset, got "
        f"{type(source).__name__}."
    )


__all__ = ["Prepared", "prepare", "set_base_model"]
