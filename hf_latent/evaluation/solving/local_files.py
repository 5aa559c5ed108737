"""What rows of a local file say: question, answer, choices."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

QUESTION_FIELDS = ("question", "prompt", "input")
ANSWER_FIELDS = ("answer", "completion", "output", "label")


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
    nothing = sorted(name for name in names if row[name] is None)
    if nothing:
        raise ValueError(f"`prompt` names {nothing}, which is null in the row.")
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


__all__ = ["ANSWER_FIELDS", "QUESTION_FIELDS", "answer_index", "fill_prompt", "find_field"]
