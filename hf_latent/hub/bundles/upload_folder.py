"""A model's folder as others need it: with the travelling code, which a folder may do without where hf-latent is."""

import json
import os
import shutil
from pathlib import Path

from hf_latent.auto import family_of
from hf_latent.data.json_files import read_json_object
from hf_latent.hub.bundles.bundling import CODE_RECORD, write_code_record
from hf_latent.hub.bundles.travelling_code import CONFIGS, auto_map_of, family_sources

CONFIG = "config.json"


def missing_code(folder: Path, files: dict[str, Path]) -> dict[str, str]:
    """
    File name to text of what a model's folder lacks to load without hf-latent: modules, `auto_map` in `config.json`.

    Files that are there stay as they are: whether they are this library's is asked before they are published. So does
    an `auto_map`, unless it is of somebody's code that is not there, as of a checkpoint in its authors' layout.
    """
    config = read_json_object(files[CONFIG])
    model_type = family_of(config)
    if model_type not in CONFIGS:
        return {}
    added = {name: text for name, text in family_sources(model_type).items() if name not in files}
    stated = config.get("auto_map") or {}
    if not isinstance(stated, dict):
        raise ValueError(f"`auto_map` in {files[CONFIG]} must be an object, got {stated!r}.")
    is_elsewhere = any(mark in str(reference) for reference in stated.values() for mark in ("--", "/"))
    if not stated or (added and not is_elsewhere):
        fields = config | {"auto_map": auto_map_of(folder, model_type)}
        added[CONFIG] = json.dumps(fields, indent=2, sort_keys=True) + "\n"
    return added


def link_folder(files: dict[str, Path], target: Path, added: dict[str, str]) -> Path:
    """Write to `target` the files of a folder, as links where that is possible, with `added` among or over them."""
    for name, path in files.items():
        if name not in added and (name != CODE_RECORD or not added):
            _link(path, target / name)
    target.mkdir(parents=True, exist_ok=True)
    for name, text in added.items():
        (target / name).write_text(text, encoding="utf-8")
    if added:
        write_code_record(target)
    return target


def _link(path: Path, target: Path) -> None:
    """Weights are large: a link, or a copy on a system that has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(path.absolute(), target)
    except OSError:
        shutil.copy2(path, target)


__all__ = ["link_folder", "missing_code"]
