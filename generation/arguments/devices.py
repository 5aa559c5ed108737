"""Where a model computes, also where its weights lie elsewhere."""

from typing import Any

import torch
from torch import nn


def find_device(model: nn.Module) -> torch.device:
    """
    The device that a model's inputs belong on.

    Of a model with offloaded weights (`device_map` with "disk" or "cpu") these are on `meta` until a module runs; its
    hooks say where it does. Without any, inputs are on the first device that holds weights.
    """
    device = next(parameter.device for parameter in model.parameters())
    if device.type != "meta":
        return device
    embeddings: Any = getattr(model, "get_input_embeddings", lambda: None)()
    for module in (embeddings, *model.modules()):
        place = _execution_device(getattr(module, "_hf_hook", None))
        if place is not None:
            return place
    devices = (parameter.device for parameter in model.parameters() if parameter.device.type != "meta")
    return next(devices, device)


def _execution_device(hook: Any) -> torch.device | None:
    """Where a hook of accelerate, or one of several in a row, lets its module run."""
    for each in (hook, *getattr(hook, "hooks", ())):
        place = getattr(each, "execution_device", None)
        if place is not None:
            device = torch.device(place)
            if device.type != "meta":
                return device
    return None


__all__ = ["find_device"]
