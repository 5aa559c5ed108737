"""Evaluation without dropout that leaves no trace."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

from torch import nn

Function = TypeVar("Function", bound=Callable[..., Any])


@contextmanager
def evaluation_mode(*models: Any) -> Iterator[None]:
    """
    Dropout off within; behind it every module of `models` has its own mode back, also after an exception.

    A mode is a module's own: what was frozen in evaluation mode, inside a model in training, stays that.
    """
    modules = [module for model in models if isinstance(model, nn.Module) for module in model.modules()]
    modes = [module.training for module in modules]
    if any(modes):
        for model in models:
            if isinstance(model, nn.Module):
                model.eval()
    try:
        yield
    finally:
        for module, training in zip(modules, modes, strict=True):
            if module.training != training:
                module.training = training


def in_evaluation_mode(function: Function) -> Function:
    """Decorator of a function whose first argument is a model: it is called in [`evaluation_mode`]."""

    @functools.wraps(function)
    def evaluate(model: Any, *args: Any, **kwargs: Any) -> Any:
        with evaluation_mode(model):
            return function(model, *args, **kwargs)

    return cast(Function, evaluate)


__all__ = ["evaluation_mode", "in_evaluation_mode"]
