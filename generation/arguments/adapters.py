"""
What generation asks of peft: adapters in the layers of a model are simply there; others are refused by name.

peft's own wrapper prepends virtual tokens, routes rows to adapters or finds out where an adapter begins, in its
`forward`. A `generate` of our own calls the model inside, which knows nothing of all that and would write what the
base model writes. peft need not be installed: its objects are known by what they have.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

# Methods whose layers read the whole sequence, or what another network makes of it: what they say of a position
# depends on which others are read with it.
READS_SEQUENCE = ("LILY", "SHADOW")
REMEDY = "Use an adapter inside the layers (LoRA, DoRA, IA3, OFT, VeRA, LN tuning, trainable tokens, ...)"


class AdapterAware:
    """
    A method that learns which peft model it is asked through.

    `PeftModel.generate` and, for all other names, `PeftModel.__getattr__` look the method up on the model inside; the
    look-up is the only moment at which that can be noticed. `check(model, adapter, arguments)` is then called before
    the method, with the peft model or, for a call from anywhere else, None.
    """

    def __init__(self, function: Callable, check: Callable[[Any, Any, dict[str, Any]], None]) -> None:
        self.function, self.check = function, check
        functools.update_wrapper(self, function)  # type: ignore[arg-type]

    def __get__(self, instance: Any, owner: type | None = None) -> Callable:
        if instance is None:
            return self.function
        adapter = asking_adapter(sys._getframe(1))

        @functools.wraps(self.function)
        def method(*args: Any, **kwargs: Any) -> Any:
            self.check(instance, adapter, kwargs)
            return self.function(instance, *args, **kwargs)

        return method


def adapter_aware(check: Callable[[Any, Any, dict[str, Any]], None]) -> Callable[[Callable], Any]:
    """Decorator: [`AdapterAware`] with a `check`."""
    return lambda function: AdapterAware(function, check)


def asking_adapter(frame: FrameType | None) -> Any:
    """The outermost peft model among the objects of peft that are asking, None if somebody else is."""
    found = None
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] == "peft":
        asking = frame.f_locals.get("self")
        if hasattr(type(asking), "get_base_model"):
            found = asking
        frame = frame.f_back
    return found


def refuse_for_diffusion(model: Any, adapter: Any, arguments: dict[str, Any]) -> None:
    """Raise `ValueError` for adapters that denoising would not see, or would see as training did not."""
    if arguments.get("custom_generate") is not None:
        return
    refuse_prompt_learning(adapter)
    refuse_routed_rows(model, adapter)
    refuse_inconsistent(model)


def refuse_for_latent_tokens(model: Any, adapter: Any, arguments: dict[str, Any]) -> None:
    """As [`refuse_for_diffusion`] with latent tokens; without, what transformers' `generate` does not get right."""
    number = arguments.get("num_latent_tokens")
    if number is None:
        number = model.config.num_latent_tokens
    if number:
        if arguments.get("self_speculative"):
            refuse_routed_rows(model, adapter)
        refuse_prompt_learning(adapter)
        refuse_inconsistent(model)
        return
    config = virtual_tokens(adapter)
    if getattr(config, "prefix_projection", None) is not None or method_of(config) == "CARTRIDGE":
        _refuse(method_of(config), "fills a cache that transformers' `generate` takes for its own")
    if arguments.get("use_cache", getattr(model.generation_config, "use_cache", None)) is False:
        return
    methods = [method_of(config)] if config is not None else []
    methods += [method_of(config) for _, config in active_configs(model) if method_of(config) in READS_SEQUENCE]
    if methods:
        raise ValueError(f"peft's {methods[0]} needs `use_cache=False`: it is not read with a cache as without one.")


def refuse_routed_rows(model: Any, adapter: Any) -> None:
    """Raise `ValueError` if peft sends each row of this call to an adapter of its own."""
    if adapter is not None and routes_rows(model):
        raise ValueError(
            "`adapter_names` is not supported: rows that are done leave the batch. Call once for each adapter, after "
            "`set_adapter`."
        )


def refuse_inconsistent(model: Any) -> None:
    """Raise `ValueError` for adapters in the layers of `model` that depend on more than the text and the weights."""
    for name, config in active_configs(model):
        if (method := method_of(config)) in READS_SEQUENCE:
            _refuse(f"{method} (adapter {name!r})", "reads which positions are read together, which changes")
        if method == "POLY":
            _refuse(f"POLY (adapter {name!r})", "needs `task_ids` in every forward, which denoising does not pass")
        if is_activated(config):
            _refuse(
                f"aLoRA (adapter {name!r})", "begins behind a phrase of the prompt, and all positions see each other"
            )


def refuse_infill(model: Any, adapter: Any, arguments: dict[str, Any]) -> None:
    """As [`refuse_for_diffusion`], for a method that peft's wrapper hands through without preparing anything."""
    refuse_for_diffusion(model, adapter, arguments)
    config = getattr(adapter, "peft_config", {}).get(getattr(adapter, "active_adapter", None))
    if method_of(config) == "XLORA":
        _refuse("XLORA", "weighs its adapters in peft's `forward` and `generate` alone")


def refuse_prompt_learning(adapter: Any) -> None:
    """Raise `ValueError` if `adapter` is a peft model whose active adapter is made of virtual tokens."""
    if (config := virtual_tokens(adapter)) is not None:
        _refuse(method_of(config), "puts virtual tokens before the text in peft's `forward`, which is not called here")


def virtual_tokens(adapter: Any) -> Any:
    """Configuration of the active adapter of a peft model, if it is made of virtual tokens; else None."""
    if adapter is None or getattr(adapter, "_adapters_disabled", False):
        return None
    configs, active = getattr(adapter, "peft_config", None), getattr(adapter, "active_adapter", None)
    config = configs.get(active) if isinstance(configs, dict) and isinstance(active, str) else None
    return config if getattr(config, "is_prompt_learning", False) else None


def _refuse(what: str, why: str) -> None:
    raise ValueError(f"peft's {what} is not supported by diffusion decoding and training: it {why}. {REMEDY}.")


def active_configs(model: Any) -> Iterable[tuple[str, Any]]:
    """Names and configurations of the adapters in the layers of `model` that are at work."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict) or not any(_is_special(config) for config in configs.values()):
        return
    at_work: set[str] = set()
    for module in model.modules():
        if getattr(module, "disable_adapters", True) is False:
            names = module.active_adapters
            at_work.update(names() if callable(names) else names)
    yield from ((name, config) for name, config in configs.items() if name in at_work)


def _is_special(config: Any) -> bool:
    return method_of(config) in (*READS_SEQUENCE, "POLY") or is_activated(config)


def method_of(config: Any) -> str:
    """`"LORA"`, `"PREFIX_TUNING"`, ...; empty without a configuration."""
    method = getattr(config, "peft_type", None)
    return str(getattr(method, "value", method) or "")


def is_activated(config: Any) -> bool:
    """Whether it is LoRA that begins at a phrase (aLoRA)."""
    return bool(getattr(config, "alora_invocation_tokens", None))


def routes_rows(model: Any) -> bool:
    """Whether peft sends each row of this call to an adapter of its own."""
    return any(
        "adapter_names" in getattr(hook, "keywords", {})
        for module in model.modules()
        for hook in module._forward_pre_hooks.values()
    )


__all__ = [
    "AdapterAware",
    "active_configs",
    "adapter_aware",
    "asking_adapter",
    "is_activated",
    "method_of",
    "refuse_for_diffusion",
    "refuse_for_latent_tokens",
    "refuse_inconsistent",
    "refuse_infill",
    "refuse_prompt_learning",
    "virtual_tokens",
]
