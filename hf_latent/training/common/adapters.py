"""What a trainer must know about an adapter before it starts: whether it can be trained here, and what it names."""

import copy
import difflib
import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from hf_latent.generation.arguments.adapters import READS_SEQUENCE, is_activated, method_of
from hf_latent.modeling.adapter_names import original_names

# Methods that need arguments in every forward which no data set of a trainer has.
NEEDS_TASKS = ("POLY", "MULTITASK_PROMPT_TUNING")


def check_peft_config(peft_config: Any, model: nn.Module) -> Any:
    """
    Copy of `peft_config` that loads anywhere and trains the mask token where that is new.

    Raises `ValueError` for methods that cannot be trained here, and for names in it that peft would ignore.
    """
    peft_config = copy.deepcopy(peft_config)
    if peft_config.task_type is None:  # else the adapter stores an import path of this package and needs it to load
        peft_config.task_type = "CAUSAL_LM"
    if getattr(model, "mask_token_is_new", False) and _trains_no_embedding(peft_config):
        # Its row is the mean of all others, and nobody but the adapter will train it.
        peft_config.trainable_token_indices = [model.config.mask_token_id]  # type: ignore[union-attr]
    check_method(peft_config)
    check_names(peft_config, model)
    check_ties(peft_config, model)
    return peft_config


def check_adapters(model: nn.Module) -> None:
    """As [`check_peft_config`], for a model that carries adapters already."""
    if hasattr(model, "base_model") and hasattr(model, "set_modules_to_save"):
        raise ValueError(
            "a PeftMixedModel cannot be trained here, as peft cannot save it: train its adapters one after the other"
        )
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, dict):
        return
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    for peft_config in configs.values():
        check_method(peft_config)
        check_names(peft_config, base)
        check_ties(peft_config, base)


def check_method(peft_config: Any) -> None:
    """Raise `ValueError` for a method of peft that cannot be trained as `generate` will use it, or not at all."""
    method = method_of(peft_config)
    why = None
    if getattr(peft_config, "is_prompt_learning", False):
        why = "puts virtual tokens before the text, which `generate` and `infill` do not see"
    elif method in READS_SEQUENCE:
        why = "makes a position depend on which others are read with it"
    elif is_activated(peft_config):
        method, why = "aLoRA", "begins behind a phrase of the prompt, and all positions see each other"
    if method in NEEDS_TASKS:
        why = "needs `task_ids` in every forward"
    if why is not None:
        raise ValueError(
            f"peft's {method} is not supported by this trainer: it {why}. Use LoRA, DoRA, IA3, OFT, VeRA, LN tuning, "
            "trainable tokens or another adapter inside the layers"
        )
    if (weight := getattr(peft_config, "orth_reg_weight", 0)) != 0:
        raise ValueError(
            f"peft's {method} with `orth_reg_weight`={weight} adds a term to the loss that a model computes from "
            "`labels`, which this trainer's objective is not: set `orth_reg_weight=0`"
        )


def check_names(peft_config: Any, model: nn.Module) -> None:
    """Raise `ValueError` for names of layers that peft would ignore without a word because the model has none such."""
    names = [_without_adapters(name) for name, _ in model.named_modules() if name]
    for field in ("target_modules", "modules_to_save", "feedforward_modules"):
        wanted = getattr(peft_config, field, None)
        if not wanted or isinstance(wanted, str):  # a regular expression is for peft
            continue
        for each in sorted(wanted):
            if not any(name == each or name.endswith(f".{each}") for name in names):
                raise ValueError(
                    f"`{field}` has {each!r}, which no module of the model is called; {_hint(each, model)}"
                )


def _hint(wanted: str, model: nn.Module) -> str:
    """What the name may have been meant for: a layer of the original code, or one with nearly that name."""
    if known := original_names(model).get(wanted.rsplit(".", 1)[-1]):
        return f"it is a name of the original code, for {' and '.join(map(repr, sorted(known)))}"
    names = [_without_adapters(name) for name, _ in model.named_modules() if name]
    last = sorted({name.rsplit(".", 1)[-1] for name in names} - {str(i) for i in range(1000)})
    return f"close: {difflib.get_close_matches(wanted, last, n=3, cutoff=0.3)}"


def check_ties(peft_config: Any, model: Any) -> None:
    """Raise `ValueError` for a low-rank change of embeddings that share their weight with the head."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or _weight(embedding) is not _weight(head) or method_of(peft_config) == "TRAINABLE_TOKENS":
        return
    targets = getattr(peft_config, "target_modules", None)
    if not targets or targets == "all-linear":
        return
    for name, module in model.named_modules():
        if module is embedding and _is_target(_without_adapters(name), targets):
            raise ValueError(
                f"`target_modules` names the embeddings ({name!r}), which share their weight with the head: peft "
                "would merge the change into both. Use `trainable_token_indices`, or `modules_to_save` for all rows, "
                "or untie them first (`tie_word_embeddings`=False)"
            )


def _is_target(name: str, targets: str | Iterable[str]) -> bool:
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _weight(module: Any) -> Any:
    base = getattr(module, "base_layer", module)
    return getattr(base, "weight", None)


def _without_adapters(name: str) -> str:
    """A module's name as it was before peft wrapped it."""
    return re.sub(r"\.(base_layer|original_module|modules_to_save\.\w+)$", "", name)


def _trains_no_embedding(peft_config: Any) -> bool:
    if getattr(peft_config, "trainable_token_indices", False) is not None:
        return False
    saved = " ".join(peft_config.modules_to_save or ())
    return not any(name in saved for name in ("embed", "wte"))


__all__ = ["check_adapters", "check_method", "check_names", "check_peft_config", "check_ties"]
