"""
Checkpoints that carry their code: every save writes the modules a stranger needs, flat, beside the weights.

The hook is `save_pretrained` of the configuration, because that is what all ways to save have in common: the model's
own `save_pretrained` and `push_to_hub`, the Trainer's saves, and the configuration alone.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

from hf_latent.modeling.atomic import write_atomically

PACKAGE = "hf_latent"
HEADER = "# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.\n"
_PACKAGE_IMPORT = re.compile(rf"^(\s*)from ({PACKAGE}\.[\w.]+) import", re.MULTILINE)
_FLAT_IMPORT = re.compile(r"^\s*from \.(\w+) import", re.MULTILINE)


class TravellingConfigMixin:
    """
    Configuration whose saves are self-contained. Comes first among the bases of a configuration class.

    Class attributes:
        travels_with: the modules, by their name in this package, that hold what `auto_classes` names.
        auto_classes: Auto class to model class, for `auto_map`; `AutoConfig` is added.
    """

    travels_with: ClassVar[tuple[str, ...]] = ()
    auto_classes: dict[str, str] = {}  # of the class or, where it depends on a field, a property
    name_or_path: str  # from `PreTrainedConfig`

    def to_dict(self) -> dict[str, Any]:
        """As in transformers; but where a part was loaded from on this machine is nobody else's business."""
        fields = super().to_dict()  # type: ignore[misc]
        for part in fields.values():
            if isinstance(part, dict) and os.path.exists(part.get("_name_or_path") or ""):
                del part["_name_or_path"]
        return fields

    def save_pretrained(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """As in transformers; the code the checkpoint needs and a complete `auto_map` go along."""
        if "travels_with" not in vars(type(self)):
            # Somebody else's subclass: its code is not ours to publish (see `register_for_auto_class`).
            super().save_pretrained(save_directory, push_to_hub=push_to_hub, **kwargs)  # type: ignore[misc]
            return
        folder = Path(save_directory)
        sources = travelling_sources(type(self), self.name_or_path)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in sources.items():
            write_atomically(folder / name, text)
        own_module = flat_name(type(self).__module__)
        model_module = flat_name(self.travels_with[0])
        # A checkpoint that came with code of its own keeps no reference to it: those files are not here.
        self.auto_map = {
            "AutoConfig": f"{own_module}.{type(self).__name__}",
            **{auto: f"{model_module}.{name}" for auto, name in self.auto_classes.items()},
        }
        super().save_pretrained(save_directory)  # type: ignore[misc]
        if push_to_hub:
            # Not through the line above: it would upload only what it has written itself, which is not the code.
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)  # type: ignore[attr-defined]


def flat_name(module: str) -> str:
    """File name, without suffix, of a module in a checkpoint folder."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return parts[-1]
    return parts[-1] if parts[-1].startswith(("modeling_", "configuration_")) else "_".join(parts[1:])


def travelling_sources(config_class: type[TravellingConfigMixin], checkpoint: str = "") -> dict[str, str]:
    """
    File name to text of every module that `config_class` and its models need, ready for a flat folder.

    Inside the package, imports of it are rewritten to flat relative ones. For a class that was itself loaded from a
    folder, `checkpoint`, its files are taken as they are: from where transformers has copied them, or, where a
    configuration was loaded without its model, from the folder.
    """
    module = config_class.__module__
    if module.split(".")[0] == PACKAGE:
        return package_sources([module, *config_class.travels_with])
    names = [flat_name(module), *map(flat_name, config_class.travels_with)]
    loaded = Path(sys.modules[module].__file__ or "").parent
    is_complete = all((loaded / f"{name}.py").exists() for name in names)
    return _from_folder(loaded if is_complete else Path(checkpoint), names)


def package_sources(modules: list[str], header: str = HEADER) -> dict[str, str]:
    """
    File name to text of `modules` and of every module of this package that they import, for a flat folder.

    Each file starts with `header`. Raises `ValueError` for a module without a source file.
    """
    sources: dict[str, str] = {}
    pending = list(modules)
    while pending:
        module = pending.pop()
        name = f"{flat_name(module)}.py"
        if name in sources:
            continue
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ValueError(f"Module `{module}` is needed outside of this package and has no source file.")
        text = Path(spec.origin).read_text(encoding="utf-8")
        pending += [match.group(2) for match in _PACKAGE_IMPORT.finditer(text)]
        sources[name] = header + _PACKAGE_IMPORT.sub(
            lambda m: f"{m.group(1)}from .{flat_name(m.group(2))} import", text
        )
    return sources


def _from_folder(folder: Path, names: list[str]) -> dict[str, str]:
    sources: dict[str, str] = {}
    pending = list(names)
    while pending:
        name = pending.pop()
        if f"{name}.py" in sources:
            continue
        path = folder / f"{name}.py"
        if not path.exists():
            raise ValueError(
                f"`{path.name}` is needed to save this checkpoint and is not in `{folder}`; load the model, not its "
                "configuration alone."
            )
        text = path.read_text(encoding="utf-8")
        pending += _FLAT_IMPORT.findall(text)
        sources[path.name] = text
    return sources


__all__ = ["TravellingConfigMixin", "flat_name", "package_sources", "travelling_sources", "write_atomically"]
