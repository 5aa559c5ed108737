"""
Adapters that were made for the original code: its names for layers in their weights and in their configuration.

transformers and peft translate names of LoRA weights through the conversion mapping of a model, and nothing else: not
the `target_modules`, not the weights of other methods. What then finds no layer is dropped without a word. Here it is
given its place where that is certain, and refused where it is not. peft need not be installed.
"""

import copy
import itertools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming

from hf_latent.modeling.complete_loading import CompleteLoadingMixin

# Of a layer with DoRA; a parameter in peft's files, a module with a `weight` in memory.
MAGNITUDES = "lora_magnitude_vector"


class AdapterLoadingMixin(CompleteLoadingMixin):
    """`load_adapter` that loses nothing. Comes before `PreTrainedModel` among the bases of a head class."""

    def load_adapter(self, *args: Any, **kwargs: Any) -> Any:
        """As in transformers; raises `ValueError`, and is as before, for weights whose layers got no adapter."""
        model: Any = self
        configs = dict(model.peft_config) if model._hf_peft_config_loaded else {}
        active = {name: list(layer.active_adapters) for name, layer in adapted_layers(model)}
        info = super().load_adapter(*args, **kwargs)  # type: ignore[misc]
        try:
            refuse_lost_adapters(model, getattr(info, "unexpected_keys", ()))
        except ValueError:
            for name in set(model.peft_config) - set(configs):
                _forget(model, name, active)
            if not configs:
                del model.peft_config
                model._hf_peft_config_loaded = False
            raise
        return info


def adapted_layers(module: nn.Module) -> list[tuple[str, Any]]:
    """Names and modules of the layers that peft has wrapped."""
    named = module.named_modules()  # of transformers' own models it is a method
    return [
        (name, layer) for name, layer in named if isinstance(getattr(type(layer), "active_adapters", None), property)
    ]


def _forget(model: Any, adapter: str, active: dict[str, list[str]]) -> None:
    """Take an adapter out of the layers again, and put the `active` ones of each in charge."""
    model.peft_config.pop(adapter)
    for name, layer in adapted_layers(model):
        if hasattr(layer, "original_module"):  # trained in full, beside the layer
            layer.delete_adapter(adapter, active.get(name))
            continue
        layer.delete_adapter(adapter)
        if active.get(name):
            layer.set_adapter(active[name])


def rename_original_keys(module: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
    """
    Let a plain `load_state_dict` read a checkpoint with original key names.

    `save_pretrained` writes original names, but `Trainer` resumes with a plain, non-strict `load_state_dict`: without
    this every key would be missing, and training would go on from whatever the model held.
    """
    own = {prefix + name for name in module.state_dict()}
    transforms = get_model_conversion_mapping(module, add_legacy=False)
    renames = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    renamed = {}
    for key in sorted((key for key in state_dict if key.startswith(prefix) and key not in own), key=_natural_order):
        renamed[key] = key.removeprefix(prefix)
        for rename in renames:
            renamed[key], _ = rename.rename_source_key(renamed[key])
    strange = {name for name in renamed.values() if prefix + name not in own}
    markers = adapter_parts(module) if strange else set()
    if strange and converters:
        weights = {key: name for key, name in renamed.items() if not markers & set(name.split("."))}
        _convert_weights(module, state_dict, prefix, own, weights, converters)
    for key, name in renamed.items():
        if prefix + name not in own and markers & set(name.split(".")):
            name = _with_adapter(name, own, prefix)  # peft puts an adapter's name into names that it knows
        if key in state_dict and prefix + name in own and prefix + name not in state_dict:
            state_dict[prefix + name] = state_dict.pop(key)
    refuse_lost_adapters(module, {key.removeprefix(prefix) for key in state_dict if key not in own}, markers or None)


def _convert_weights(
    module: nn.Module,
    state_dict: dict[str, Any],
    prefix: str,
    own: set[str],
    names: dict[str, str],
    converters: list[WeightConverter],
) -> None:
    """Split and stack what the original code holds otherwise, among the weights by their keys to their `names`."""
    converted: dict[str, _Converted] = {}  # by the name of what several weights become, or the first that one becomes
    for key, name in names.items():
        for converter in converters:
            target, pattern = converter.rename_source_key(name)
            if pattern is not None:
                part = converted.setdefault(target, _Converted(copy.deepcopy(converter), []))
                part.converter.add_tensor(target, key, pattern, state_dict[key])
                part.keys.append(key)
                break
    for target, part in converted.items():
        weights = part.converter.convert(target, model=module, config=module.config)
        if all(prefix + name in own and prefix + name not in state_dict for name in weights):
            for key in part.keys:
                del state_dict[key]
            state_dict.update({prefix + name: weight for name, weight in weights.items()})


class _Converted(NamedTuple):
    """Weights of a checkpoint that become others together, experts for example, and how."""

    converter: WeightConverter
    keys: list[str]


def _natural_order(key: str) -> list[tuple[int, str]]:
    """Expert 10 after expert 9: they are stacked as they come."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in key.split(".")]


def _with_adapter(name: str, own: set[str], prefix: str) -> str:
    """The one of our names that has a part more, the adapter's, than `name`; `name` if there are several or none."""
    parts = name.split(".")
    found = [
        key.removeprefix(prefix)
        for key in own
        if (there := key.removeprefix(prefix).split("."))[: len(parts) - 1] == parts[:-1]
        and len(there) == len(parts) + 1
        and parts[-1] in there[-2:]
    ]
    return found[0] if len(found) == 1 else name


def adapter_parts(module: nn.Module) -> set[str]:
    """What the parts of adapters are called in the layers that carry them: `lora_A`, `ia3_l`, ..."""
    return {
        part
        for layer in module.modules()
        if isinstance(getattr(layer, "base_layer", None), nn.Module)
        for part in (*dict(layer.named_children()), *dict(layer.named_parameters(recurse=False)))
        if part != "base_layer"
    }


def refuse_lost_adapters(module: nn.Module, names: Iterable[str], markers: set[str] | None = None) -> None:
    """Raise `ValueError` for adapter weights among `names`, which have no place in `module`."""
    names = list(names)
    if not names:
        return
    markers = adapter_parts(module) if markers is None else markers
    lost = set()
    for name in names:
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part in markers), 0)
        if place and parts[place] == MAGNITUDES:  # its layer has an adapter: DoRA, which peft alone reads
            raise ValueError(
                f"The adapter is DoRA, whose magnitudes ({name!r}) transformers' own loading of adapters leaves out: "
                "load it with `PeftModel.from_pretrained(model, path)` or `AutoPeftModelForCausalLM`."
            )
        if place:
            lost.add(parts[place - 1])
    if lost:
        known = {layer: ours for layer in lost if (ours := original_names(module).get(layer))}
        hint = f" (here: {', '.join(sorted({repr(o) for ours in known.values() for o in ours}))})" if known else ""
        raise ValueError(
            f"The adapter has weights for {', '.join(map(repr, sorted(lost)))}{hint}, which its `target_modules` do "
            "not name. If those are names of the original code, give the names here: `config = "
            "PeftConfig.from_pretrained(path)`, `config.target_modules = [...]`, `PeftModel.from_pretrained(model, "
            "path, config=config)`, or change them in adapter_config.json."
        )


def original_names(module: Any) -> dict[str, set[str]]:
    """What the original code calls a layer, to what it is called here; one name may stand for several."""
    names: dict[str, set[str]] = {}
    for rename in get_model_conversion_mapping(module, add_legacy=False):
        sources, targets = rename.source_patterns, rename.target_patterns
        # One matrix for several layers, or the other way about, has the names of them all.
        is_one_to_one = len(sources) == len(targets)
        pairs = zip(sources, targets, strict=True) if is_one_to_one else itertools.product(sources, targets)
        for source, target in pairs:
            theirs, ours = (re.sub(r"^.*\.|[^\w.]", "", pattern) for pattern in (source, target))
            if theirs != ours:
                names.setdefault(theirs, set()).add(ours)
    return names


__all__ = ["AdapterLoadingMixin", "adapter_parts", "original_names", "refuse_lost_adapters", "rename_original_keys"]
