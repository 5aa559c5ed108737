"""
Checkpoints that carry their code: every save writes the modules a stranger needs, flat, beside the weights.

The hook is `save_pretrained` of the configuration, because that is what all ways to save have in common: the model's
own `save_pretrained` and `push_to_hub`, the Trainer's saves, and the configuration alone.
"""

import hashlib
import importlib.util
import os
import re
import sys
from pathlib import Path
from typing import Any, ClassVar

from hf_latent.modeling.atomic import write_atomically

PACKAGE = "hf_latent"
HEADER = "# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.\n"
DIGEST = "# Digest of all modules: "
_PACKAGE_IMPORT = re.compile(rf"^(\s*)from ({PACKAGE}\.[\w.]+) import", re.MULTILINE)
_FLAT_IMPORT = re.compile(r"^\s*from \.(\w+) import", re.MULTILINE)
_DIGEST_LINE = re.compile(rf"^{DIGEST}\w+\n", re.MULTILINE)


class TravellingConfigMixin:
    """
    Configuration whose saves are self-contained. Comes first among the bases of a configuration class.

    Class attributes:
        travels_with: the modules, by their name in this package, that hold what `auto_classes` names.
        auto_classes: Auto class to model class, for `auto_map`; `AutoConfig` is added.
        published_model_type: `model_type` in `config.json`, where it is another than that of the class.
    """

    travels_with: ClassVar[tuple[str, ...]] = ()
    auto_classes: dict[str, str] = {}  # of the class or, where it depends on a field, a property
    published_model_type: ClassVar[str | None] = None
    name_or_path: str  # from `PreTrainedConfig`
    model_type: str

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        As in transformers; but what is of another family is refused, and how the original code is to compute attention
        (`attn_implementation`) is its own business: that is for whoever loads the model to say.

        Raises:
            ValueError: for another `model_type` than that of this class, which transformers only warns of.
        """
        given, own = config_dict.get("model_type"), (cls.model_type, cls.published_model_type)
        if given is not None and given not in own:
            raise ValueError(
                f"`model_type` must be {own[1] or own[0]!r} for {cls.__name__}, got {given!r}: AutoConfig and "
                "AutoModelForCausalLM find the classes of a checkpoint."
            )
        fields = {name: value for name, value in config_dict.items() if name != "attn_implementation"}
        return super().from_dict(fields, **kwargs)  # type: ignore[misc]

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
        # A checkpoint that came with code of its own keeps no reference to it: those files are not here.
        self.auto_map = self.travelling_auto_map()
        super().save_pretrained(save_directory)  # type: ignore[misc]
        if push_to_hub:
            # Not through the line above: it would upload only what it has written itself, which is not the code.
            self.push_to_hub(kwargs.pop("repo_id", folder.name), **kwargs)  # type: ignore[attr-defined]

    def travelling_auto_map(self) -> dict[str, str]:
        """Auto class to the class that it loads from the code beside the configuration."""
        own_module, model_module = flat_name(type(self).__module__), flat_name(self.travels_with[0])
        return {
            "AutoConfig": f"{own_module}.{type(self).__name__}",
            **{auto: f"{model_module}.{name}" for auto, name in self.auto_classes.items()},
        }


def flat_name(module: str) -> str:
    """
    File name, without suffix, of a module in a checkpoint folder.

    Folders inside `generation` only sort: `generation.commit.rules` is `generation_rules`, so that a module keeps its
    name in checkpoints when it moves. Families keep theirs: `modeling.dream.x` is `modeling_dream_x`. Two modules that
    would get one name are refused where a folder is written (see `package_sources`).
    """
    parts = module.split(".")
    leaf = parts[-1]
    if parts[0] != PACKAGE or leaf.startswith(("modeling_", "configuration_")):
        return leaf
    return f"generation_{leaf}" if parts[1:2] == ["generation"] else "_".join(parts[1:])


def travelling_sources(config_class: type[TravellingConfigMixin], checkpoint: str = "") -> dict[str, str]:
    """
    File name to text of every module that `config_class` and its models need, ready for a flat folder.

    Inside the package, imports of it are rewritten to flat relative ones. For a class that was itself loaded from a
    folder, `checkpoint`, its files are taken as they are: from where transformers has copied them, or, where a
    configuration was loaded without its model, from the folder. The modules that `auto_map` names carry a digest of
    all (see `with_digest`).
    """
    module = config_class.__module__
    names = [flat_name(module), *map(flat_name, config_class.travels_with)]
    if module.split(".")[0] == PACKAGE:
        return with_digest(package_sources([module, *config_class.travels_with]), names)
    loaded = Path(sys.modules[module].__file__ or "").parent
    is_complete = all((loaded / f"{name}.py").exists() for name in names)
    return with_digest(_from_folder(loaded if is_complete else Path(checkpoint), names), names)


def package_sources(modules: list[str], header: str = HEADER) -> dict[str, str]:
    """
    File name to text of `modules` and of every module of this package that they import, for a flat folder.

    Each file starts with `header`.

    Raises:
        ValueError: for a module without a source file, for a package (its `__init__.py` does not travel), and for two
            modules that would be one file.
    """
    sources: dict[str, str] = {}
    origin: dict[str, str] = {}
    pending = list(modules)
    while pending:
        module = pending.pop()
        name = f"{flat_name(module)}.py"
        if origin.setdefault(name, module) != module:
            raise ValueError(
                f"`{module}` and `{origin[name]}` would both be `{name}` in a checkpoint: rename one of them."
            )
        if name in sources:
            continue
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            raise ValueError(f"Module `{module}` is needed outside of this package and has no source file.")
        if spec.submodule_search_locations is not None:
            raise ValueError(f"`{module}` is a package, which does not travel: import the module that is meant.")
        text = Path(spec.origin).read_text(encoding="utf-8")
        pending += [match.group(2) for match in _PACKAGE_IMPORT.finditer(text)]
        sources[name] = header + _PACKAGE_IMPORT.sub(
            lambda m: f"{m.group(1)}from .{flat_name(m.group(2))} import", text
        )
    return sources


def with_digest(sources: dict[str, str], names: list[str]) -> dict[str, str]:
    """
    `sources` with one digest of all of them in the header of the modules `names`, those that are loaded by name.

    transformers tells two copies of remote code apart by the module that it loads and some of those behind it, and
    takes a model's class from the first configuration class that is equal: a module that differs further away would
    be that of whichever checkpoint came first in the process.
    """
    plain = {name: _DIGEST_LINE.sub("", text, count=1) for name, text in sources.items()}
    digest = hashlib.sha256()
    for name, text in sorted(plain.items()):
        for part in (name, text):
            digest.update(hashlib.sha256(part.encode("utf-8")).digest())
    stamped = {f"{name}.py" for name in names}
    return {name: _stamp(text, digest.hexdigest()) if name in stamped else text for name, text in plain.items()}


def _stamp(text: str, digest: str) -> str:
    first, end, rest = text.partition("\n")
    return f"{first}{end}{DIGEST}{digest}\n{rest}"


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


__all__ = [
    "DIGEST",
    "TravellingConfigMixin",
    "flat_name",
    "package_sources",
    "travelling_sources",
    "with_digest",
    "write_atomically",
]
