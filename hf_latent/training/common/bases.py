"""The base of an adapter: what was converted in this process lies nowhere, and is written beside the adapter."""

import logging
from pathlib import Path
from typing import Any

from torch import nn

logger = logging.getLogger(__name__)

FOLDER = "base"
# What peft puts between a layer and its parameters.
WRAPPING = {"base_layer", "original_module", "token_adapter"}


def keep_base(model: nn.Module, tokenizer: Any, args: Any) -> None:
    """
    Write the model that `from_backbone` has made in this process to `base` in `args.output_dir`, and name it as the
    base of the adapters to be trained. Nothing is done for a model that was loaded, which knows where it lies.

    Without it the adapter would name the autoregressive model as its base, or none: loaded on that it says something
    else, in silence.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not getattr(base, "is_converted", False):
        return
    folder = Path(args.output_dir).resolve() / FOLDER
    if getattr(base, "is_quantized", False):
        logger.warning(
            "The adapter's base is quantized and was converted in this process: it is not written, and the adapter "
            "loads only on `from_backbone` of the same model, with the same arguments."
        )
        return
    if args.process_index == 0:
        logger.info("Writing the converted base model of the adapter to %s", folder)
        base.save_pretrained(folder, state_dict=_plain_state(base))
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
    args.distributed_state.wait_for_everyone()
    base.name_or_path = str(folder)
    for config in getattr(model, "peft_config", None) or {}:
        model.peft_config[config].base_model_name_or_path = str(folder)  # type: ignore[index,union-attr]
    base.is_converted = False


def _plain_state(base: nn.Module) -> dict[str, Any]:
    """The weights of a model under the names that they had before peft wrapped it."""
    adapted = [
        f"{name}."
        for name, layer in base.named_modules()
        if isinstance(getattr(layer, "base_layer", None), nn.Module) or hasattr(layer, "original_module")
    ]
    state = {}
    for name, value in base.state_dict().items():
        inside = (name.removeprefix(layer).split(".") for layer in adapted if name.startswith(layer))
        if all(WRAPPING & set(parts) for parts in inside):  # not of the adapter
            state[".".join(part for part in name.split(".") if part not in WRAPPING)] = value
    return state


__all__ = ["FOLDER", "keep_base"]
