"""JSON files that may be there or not: absent is absent; what is there and cannot be read raises, naming the file."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """What a JSON file holds; `ValueError`, naming it, if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # also what is no UTF-8
        raise ValueError(f"{path} is damaged: it is no JSON ({error}).") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no file; `ValueError`, naming it, if it holds anything else."""
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content


__all__ = ["read_json", "read_json_object"]
