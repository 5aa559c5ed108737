"""JSON files that may be there or not: absent is absent; what is there and cannot be read raises, naming the file."""

import json
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """What a JSON file holds; `ValueError`, naming file, line and column, if it is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a byte order mark first
    except json.JSONDecodeError as error:
        place = f"{path.name}, line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path} is damaged: it is no JSON ({place}: {error.msg}).") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it is no text in UTF-8 ({error}).") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no file; `ValueError`, naming it, if it holds anything else."""
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}.")
    return content


__all__ = ["read_json", "read_json_object"]
