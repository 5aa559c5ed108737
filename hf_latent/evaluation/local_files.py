"""Evaluation data from local JSON and JSON lines files: questions with answers or with choices."""

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

QUESTION_FIELDS = ("question", "prompt", "input")
ANSWER_FIELDS = ("answer", "completion", "output", "label")


def read_rows(path: str | Path, limit: int | None = None) -> list[dict[str, Any]]:
    """
    The first `limit` rows of a `.json` (a list of objects) or `.jsonl` file (one object a line).

    Raises:
        ValueError: naming file and line, for what is not JSON or not an object; for a file without rows.
    """
    path = Path(path)
    text = path.read_text(encoding="utf-8")
    rows: list[Any] = []
    if path.suffix == ".json":
        try:
            rows = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}.") from None
        if not isinstance(rows, list):
            raise ValueError(f"{path} must hold a list of objects, got {type(rows).__name__}.")
    else:
        for number, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                try:
                    rows.append(json.loads(line))
                except json.JSONDecodeError as error:
                    raise ValueError(f"{path}, line {number}, is not JSON: {error}.") from None
    rows = rows[:limit]
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise ValueError(f"{path}: row {number} must be an object, got {type(row).__name__}.")
    if not rows:
        raise ValueError(f"{path} has no rows.")
    return rows


def find_field(row: Mapping[str, Any], given: str | None, usual: Sequence[str], option: str) -> str:
    """The field that was `given` or the first `usual` one that `row` has; `ValueError` naming the `option`."""
    names = usual if given is None else (given,)
    found = next((name for name in names if name in row), None)
    if found is None:
        raise ValueError(f"`{option}` must name a field of the file, {sorted(row)}; none is {' or '.join(names)}.")
    return found


def fill_prompt(prompt: str, row: Mapping[str, Any]) -> str:
    """`prompt` with each `{field}` replaced by the row's value; `ValueError` for a field the row has not."""
    names = [name for _, name, _, _ in string.Formatter().parse(prompt) if name is not None]
    missing = sorted({name for name in names if name not in row})
    if missing:
        raise ValueError(f"`prompt` names {missing}, which the row lacks; it has {sorted(row)}.")
    return prompt.format(**row)


def answer_index(answer: Any, choices: Sequence[str], place: str) -> int:
    """
    Which of the `choices` is meant: by index (int, or a text that says one), by letter (A is the first), or by text.

    Raises:
        ValueError: naming `place`, where none is meant.
    """
    if isinstance(answer, str) and answer in choices:
        return list(choices).index(answer)
    if isinstance(answer, str) and len(answer.strip()) == 1 and answer.strip() in string.ascii_uppercase:
        index = string.ascii_uppercase.index(answer.strip())
    elif isinstance(answer, int | str) and not isinstance(answer, bool) and str(answer).strip().isdigit():
        index = int(answer)
    else:
        index = len(choices)
    if index >= len(choices):
        raise ValueError(
            f"{place}: `answer` must be an index from 0, a letter from A or the text of one of the {len(choices)} "
            f"choices, got {answer!r}."
        )
    return index


__all__ = ["ANSWER_FIELDS", "QUESTION_FIELDS", "answer_index", "fill_prompt", "find_field", "read_rows"]
