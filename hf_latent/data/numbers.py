"""Numbers of numpy and tensors of one number, taken as the numbers they are."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def as_number(value: Any) -> Any:
    """A numpy number, an array or a tensor of no dimension as Python's number; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def takes_numbers(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, called with `as_number` of each argument: what it checks and keeps are Python's numbers."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return function(*map(as_number, args), **{name: as_number(value) for name, value in kwargs.items()})  # type: ignore[arg-type]

    return call


__all__ = ["as_number", "takes_numbers"]
