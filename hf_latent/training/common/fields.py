"""Fields of the dataclasses that command lines and YAML files are parsed into."""

from collections.abc import Iterable
from dataclasses import field
from typing import Any


def choice(default: str | None, values: Iterable[str], help: str) -> Any:
    """A field of a dataclass that is one of `values`, and its line of `--help`; parsers refuse others."""
    return field(default=default, metadata={"help": help, "choices": list(values)})


__all__ = ["choice"]
