"""`generation_config.json` of a checkpoint: absent is absent; what is there and cannot be read raises, naming it."""

import json
import os
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils import GENERATION_CONFIG_NAME, cached_file
from transformers.utils.hub import LocalEntryNotFoundError, is_offline_mode

# What `from_pretrained` is told about the Hub, in the order of transformers' `adjust_generation_fn`.
HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "proxies",
    "local_files_only",
    "token",
    "revision",
    "subfolder",
)


def find_optional_file(name: str | os.PathLike, filename: str, hub: dict[str, Any]) -> Path | None:
    """
    A file of a folder or repository `name`; None only where there is none.

    Args:
        hub: `HUB_ARGUMENTS`, and others, which are not looked at.

    Raises:
        OSError: where nobody can say whether it is there: a lost connection, a gated repository, a dangling link.
    """
    known = {key: value for key, value in hub.items() if key in HUB_ARGUMENTS and value is not None}
    try:
        path = cached_file(name, filename, **known)
    except OSError as error:
        if type(error) is not OSError or error.errno is not None:
            raise
        is_told = error.__cause__ is None  # that the file is not there; all else has another error for its cause
        offline = is_offline_mode() or known.get("local_files_only", False)
        if not is_told and not (offline and isinstance(error.__cause__, LocalEntryNotFoundError)):
            raise
        link = Path(name) / known.get("subfolder", "") / filename
        if os.path.lexists(link):
            raise OSError(f"{link} cannot be read: it is no file, or a link to none.") from error
        return None
    return None if path is None else Path(path)


def read_generation_file(name: str | os.PathLike, hub: dict[str, Any]) -> tuple[Path, dict[str, Any]] | None:
    """
    Where `generation_config.json` of a checkpoint is, and what it says; None where there is none.

    Raises:
        ValueError: naming the file, if it is no JSON object.
        OSError: see `find_optional_file`.
    """
    path = find_optional_file(name, GENERATION_CONFIG_NAME, hub)
    if path is None:
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}). Write it again, or delete it to decode with the defaults."
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return path, content


def load_generation_config(
    config_class: type[GenerationConfig], name: str | os.PathLike, hub: dict[str, Any]
) -> GenerationConfig | None:
    """The configuration in `generation_config.json`; None where there is none. Raises for what cannot be read."""
    found = read_generation_file(name, hub)
    if found is None:
        return None
    path, content = found
    try:
        config = config_class.from_dict(content)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: {error}") from error
    config._original_object_hash = hash(config)  # as `from_pretrained` does, to notice changes
    return config


def refuse_damaged_file(
    generation_config: GenerationConfig | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Raise for a file that cannot be read, given what transformers' `adjust_generation_fn` is given."""
    names = ("from_auto_class", "from_pipeline", "pretrained_model_name_or_path", *HUB_ARGUMENTS)
    told = {**dict(zip(names, args, strict=False)), **kwargs}
    name = told.get("pretrained_model_name_or_path")
    if generation_config is None and name is not None:
        load_generation_config(GenerationConfig, name, told)


class GenerationFileMixin:
    """
    Loads `generation_config.json` into the class's own `generation_config_class`, of which transformers' method would
    drop every knob. Comes before `GenerationMixin` among the bases of a class.
    """

    generation_config_class: type[GenerationConfig] = GenerationConfig
    generation_config: GenerationConfig

    def adjust_generation_fn(
        self,
        generation_config: GenerationConfig | None,
        from_auto_class: bool,
        from_pipeline: Any,
        pretrained_model_name_or_path: str | None,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """As in transformers, but that the file is read here, and raises where it cannot be."""
        defaults, name, found = self.generation_config, pretrained_model_name_or_path, None
        if generation_config is None and name is not None:
            # First: transformers' own method takes a file that cannot be read for none.
            hub = {**dict(zip(HUB_ARGUMENTS, args, strict=False)), **kwargs}
            found = load_generation_config(self.generation_config_class, name, hub)
        parent: Any = super()
        parent.adjust_generation_fn(generation_config, from_auto_class, from_pipeline, name, *args, **kwargs)
        if generation_config is None and name is not None:
            self.generation_config = defaults if found is None else found


__all__ = [
    "HUB_ARGUMENTS",
    "GenerationFileMixin",
    "find_optional_file",
    "load_generation_config",
    "read_generation_file",
    "refuse_damaged_file",
]
