"""What a folder is (model, adapter, decoder, data set), and whether it is all of it."""

from pathlib import Path, PurePosixPath

from hf_latent.auto import family_of
from hf_latent.checkpoints.adapters import BASE_FOLDER
from hf_latent.data.json_files import read_json_object
from hf_latent.hub.bundles.bundling import check_loads_without_us, is_checkpoint
from hf_latent.hub.bundles.decoder import FOLDER, check_decoder_without_us
from hf_latent.hub.bundles.travelling_code import CONFIGS, family_sources
from hf_latent.hub.safety.inspection import is_decoder_path
from hf_latent.hub.safety.pointers import is_hub_name

KINDS = ("model", "adapter", "decoder", "dataset")
DATA_SUFFIXES = {".parquet", ".arrow", ".jsonl", ".csv"}
# Of a model's code; other Python files of a repository are somebody else's.
CODE_PREFIXES = ("configuration_", "generation_", "modeling_")


def kind_of(folder: Path, files: dict[str, Path]) -> str:
    """One of `KINDS`; `ValueError` for a folder that is none."""
    if "adapter_config.json" in files:
        return "adapter"
    if "config.json" in files:
        return "model"
    if f"{FOLDER}/generate.py" in files:
        return "decoder"
    if any(PurePosixPath(name).suffix in DATA_SUFFIXES for name in files):
        return "dataset"
    found = ", ".join(sorted(files)[:8]) or "nothing"
    raise ValueError(
        "`source` must be a folder with a model (config.json and *.safetensors), an adapter (adapter_config.json), a "
        f"decoder ({FOLDER}/generate.py) or a data set (*.parquet, *.jsonl, save_to_disk); {folder} holds {found}."
    )


def check_complete(
    kind: str, folder: Path, files: dict[str, Path], *, origin: Path | None = None, verify: bool
) -> None:
    """
    Raise `ValueError` for what is missing; with `verify`, load a model or decoder where hf-latent is not installed.

    Args:
        origin: what messages call the folder, if that was made of another.

    Raises:
        ValueError: naming what is missing and what to do.
        RuntimeError: if the folder does not load without hf-latent.
    """
    if kind == "model":
        _check_model(origin or folder, files)
        if verify:
            check_loads_without_us(folder)
    elif kind == "adapter":
        _check_adapter(origin or folder, files)
    elif kind == "decoder" and verify:
        check_decoder_without_us(folder)


def replaces(kind: str, path: str) -> bool:
    """Whether a file of an earlier push, which this one lacks, belongs to what is replaced and goes."""
    pure = PurePosixPath(path)
    if kind == "model":
        return is_checkpoint(pure) and (pure.suffix != ".py" or pure.name.startswith(CODE_PREFIXES))
    if kind == "adapter":
        return len(pure.parts) == 1 and pure.name.startswith("adapter_model.")
    if kind == "decoder":
        return is_decoder_path(pure)
    return pure.parts[0] == "data" and pure.suffix == ".parquet"


def _check_model(folder: Path, files: dict[str, Path]) -> None:
    config = read_json_object(files["config.json"])
    model_type = family_of(config)
    if model_type not in CONFIGS:
        raise ValueError(
            f"{folder} holds a model of type {model_type!r}, which is not one of hf-latent ({', '.join(CONFIGS)}): "
            "push it with its own `push_to_hub`."
        )
    rebundle = f"write a whole folder with `hf-latent bundle {folder} NEW` and push that"
    if not any("/" not in name and name.endswith(".safetensors") for name in files):
        raise ValueError(
            f"{folder} has config.json and no weights (*.safetensors): save the model there, with "
            "`model.save_pretrained(folder)` or `trainer.save_model(folder)`."
        )
    missing = sorted(set(family_sources(model_type)) - set(files))
    if missing or not config.get("auto_map"):
        what = f"lacks {', '.join(missing[:3])}" if missing else "has no `auto_map` in config.json"
        raise ValueError(f"{folder} {what}, without which it does not load without hf-latent: {rebundle}.")


def _check_adapter(folder: Path, files: dict[str, Path]) -> None:
    if "adapter_model.safetensors" not in files:
        raise ValueError(
            f"{folder} has adapter_config.json and no adapter_model.safetensors: save it with "
            "`model.save_pretrained(folder)`."
        )
    base = read_json_object(files["adapter_config.json"]).get("base_model_name_or_path")
    beside = folder / BASE_FOLDER
    if not is_hub_name(base) or Path(str(base)).exists() or (base == BASE_FOLDER and beside.is_dir()):
        first = f" (`hf-latent push {beside} user/model`)" if (beside / "config.json").is_file() else ""
        raise ValueError(
            f"The adapter's base model is {base!r}, which others do not have: push the base first{first}, and pass "
            "its name on the Hub as `base_model=` (`--base-model user/model`)."
        )


__all__ = ["KINDS", "check_complete", "kind_of", "replaces"]
