"""`bundle`: a checkpoint folder that loads and generates where hf-latent is not installed."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePath

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.data.json_files import read_json_object
from hf_latent.data.output_folders import check_output_folder
from hf_latent.hub.bundles.commit import current_commit
from hf_latent.hub.cards.card import write_card
from hf_latent.modeling.atomic import replacing, write_atomically
from hf_latent.modeling.travel import TravellingConfigMixin

# What a checkpoint is made of: replaced as a whole. Everything else in a folder (results, plots, a card) stays.
CHECKPOINT_SUFFIXES = {".safetensors", ".py", ".jinja"}
CHECKPOINT_FILES = {
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
}
CODE_RECORD = "bundle.json"
# Pickles can run code when they are loaded; a bundle has none.
PICKLE_SUFFIXES = {".bin", ".pt", ".pth", ".pkl", ".ckpt"}

_LOAD_WITHOUT_US = """
import sys
sys.modules["hf_latent"] = None  # any import of it raises
import torch
import transformers
config = transformers.AutoConfig.from_pretrained(sys.argv[1], trust_remote_code=True)
for name in set(config.auto_map) - {"AutoConfig"}:
    with torch.device("meta"):
        model = getattr(transformers, name).from_config(config, trust_remote_code=True)
    if not model.can_generate():
        raise RuntimeError(f"{name} gives {type(model).__name__}, which cannot generate")
"""


def bundle(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    folder: str | os.PathLike,
    *,
    max_shard_size: str = "5GB",
    verify: bool = True,
    with_code: bool = True,
) -> Path:
    """
    Write `model` and `tokenizer` to a folder that needs nothing of this library.

    The folder holds safetensors, configurations with `auto_map`, the code they name, the tokenizer and a card. It is
    written beside and then put in place, so that an interruption leaves an earlier folder whole. Of an earlier folder
    everything that is not part of the checkpoint is kept, a card included; pickles are not.

    Args:
        model: a model of this library, without adapters (merge them first).
        tokenizer: its tokenizer; `None` leaves it out.
        folder: where to write.
        max_shard_size: of the weight files, as in `save_pretrained`.
        verify: load configuration and model class in a process that cannot import hf-latent, before anything is put
            in place.
        with_code: `False` leaves out the code and `auto_map`, for a folder that is kept where hf-latent is at hand and
            kept up to date, as those of `model_cards/`; a bundle or a push of such a folder has them.

    Returns:
        The folder's path.

    Raises:
        ValueError: for a model that is not ours or carries adapters, or for a path that is a file.
        RuntimeError: if the folder does not load without hf-latent; nothing is put in place then.
    """
    folder = Path(folder)
    check_output_folder(folder, "folder")
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ValueError(
            f"`model` carries adapters that were loaded into it ({type(model).__name__}): load its base alone, and "
            "bundle `PeftModel.from_pretrained(base, adapter).merge_and_unload()`, or `hf-latent bundle BASE FOLDER "
            "--adapter ADAPTER`."
        )
    if hasattr(model, "get_base_model") or hasattr(model, "merge_and_unload"):
        raise ValueError(
            f"`model` carries adapters ({type(model).__name__}): bundle `model.merge_and_unload()`, or save the "
            "adapter alone with its own `save_pretrained`."
        )
    if not isinstance(getattr(model, "config", None), TravellingConfigMixin):
        raise ValueError(f"`model` must be a model of hf-latent, got {type(model).__name__}.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as written:
        model.save_pretrained(written, max_shard_size=max_shard_size)
        if tokenizer is not None:
            tokenizer.save_pretrained(written)
            forget_where_loaded(written / "tokenizer_config.json")
        if not with_code:
            leave_out_code(written)
        elif verify:
            check_loads_without_us(written)
        keep_other_files(folder, written, lambda path: is_checkpoint(path) or path == Path(CODE_RECORD))
        if with_code:
            write_code_record(written)
        if not (written / "README.md").exists():
            write_card(written, model)
    return folder


def forget_where_loaded(path: Path) -> None:
    """Take out of a tokenizer's configuration how it came into this process, which transformers writes with it."""
    if not path.is_file():
        return
    fields = read_json_object(path)
    kept = {name: value for name, value in fields.items() if name not in ("is_local", "local_files_only")}
    write_atomically(path, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")


def leave_out_code(folder: Path) -> None:
    """Take the travelling code and its `auto_map` out of a checkpoint that was just saved."""
    for path in folder.glob("*.py"):
        path.unlink()
    fields = read_json_object(folder / "config.json")
    del fields["auto_map"]
    write_atomically(folder / "config.json", json.dumps(fields, indent=2, sort_keys=True) + "\n")


def write_code_record(folder: Path) -> None:
    """Write `bundle.json`: which version and commit of this library the code in `folder` is of, with checksums."""
    from hf_latent import __version__

    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.py"))}
    record = {"hf_latent": __version__, "commit": current_commit(), "sha256": sums}
    write_atomically(folder / CODE_RECORD, json.dumps(record, indent=1) + "\n")


def check_loads_without_us(folder: Path) -> None:
    """Raise `RuntimeError` unless `folder` loads in a process where `import hf_latent` fails."""
    run_without_us(_LOAD_WITHOUT_US, folder)


def run_without_us(program: str, folder: Path) -> None:
    """
    Run `program` in a process with an empty cache of remote code and no network; `sys.argv[1]` is `folder`.

    The program itself says `sys.modules["hf_latent"] = None`. Raises `RuntimeError` if it fails.
    """
    with tempfile.TemporaryDirectory() as modules:
        run = subprocess.run(
            [sys.executable, "-c", program, str(folder)],
            capture_output=True,
            text=True,
            env={**os.environ, "HF_MODULES_CACHE": modules, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
    if run.returncode != 0:
        raise RuntimeError(f"{folder.name} does not load without hf-latent:\n{run.stderr[-2000:]}")


def keep_other_files(old: Path, new: Path, is_ours: Callable[[Path], bool]) -> None:
    """Copy to `new` the files of `old` that it lacks, but for those that, by their relative path, `is_ours`."""
    if not old.exists():
        return
    for path in sorted(old.rglob("*")):
        relative = path.relative_to(old)
        if not path.is_file() or is_ours(relative) or (new / relative).exists():
            continue
        (new / relative).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, new / relative)


def is_checkpoint(path: PurePath) -> bool:
    """Whether a file, by its path in the folder, is replaced or dropped with the checkpoint."""
    at_top = len(path.parts) == 1 and (path.suffix in CHECKPOINT_SUFFIXES or path.name in CHECKPOINT_FILES)
    return at_top or path.suffix in PICKLE_SUFFIXES


__all__ = [
    "CODE_RECORD",
    "bundle",
    "check_loads_without_us",
    "is_checkpoint",
    "keep_other_files",
    "run_without_us",
    "write_code_record",
]
