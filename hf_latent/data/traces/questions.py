"""Questions with known answers for posterior traces: a task of this library, a local file, a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from hf_latent.data.data_files import Rows, answer_texts, check_features, is_local_file, pair_text, read_rows

TASKS = ("arithmetic",)


class Questions(NamedTuple):
    """Questions (texts or conversations) and their answers, one each."""

    questions: list[Any]
    answers: list[str]


def questions_of_task(name: str, num: int, seed: int = 0, *, split: str = "train") -> Questions:
    """The prompts and answers of `num` generated problems."""
    if name not in TASKS:
        raise ValueError(f"`task` must be one of {TASKS}, got {name!r}.")
    if num < 1:
        raise ValueError(f"`num` must be at least 1, got {num}.")
    from hf_latent.tasks import ArithmeticTask

    task = ArithmeticTask()
    problems = task.generate(num, seed, split=split)
    return Questions([task.format(problem)["prompt"] for problem in problems], [p["answer"] for p in problems])


def read_questions(
    source: str,
    *,
    config: str | None = None,
    split: str = "train",
    revision: str | None = None,
    question_column: str = "question",
    answer_column: str = "answer",
    answer_pattern: str | None = None,
    limit: int | None = None,
) -> Questions:
    """
    Read two columns of a local file (JSON lines, JSON, Parquet, CSV: [`~hf_latent.data.data_files.read_rows`]) or of a
    dataset (a name on the Hub, a folder).

    Args:
        answer_pattern: regular expression with one group, searched in the answer column: r"#### (.*)" for GSM8K,
            whose answers come behind human reasoning.
        limit: the first so many rows only.

    Raises:
        ValueError: for a column that is not there, a row without answer, an expression that does not match.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}.")
    rows = read_rows(source, limit) if is_local_file(source) else _load_named(source, config, split, revision, limit)
    for name, column in (("question_column", question_column), ("answer_column", answer_column)):
        if column not in rows.columns:
            raise ValueError(f"`{name}` must be one of {rows.columns}, got {column!r}.")
    numbers = range(len(rows))
    questions = [pair_text(rows.value(n, question_column), rows.location(n, question_column)) for n in numbers]
    places = [rows.location(number, answer_column) for number in numbers]
    return Questions(
        questions, extract_answers([rows.value(n, answer_column) for n in numbers], answer_pattern, places)
    )


def _load_named(source: str, config: str | None, split: str, revision: str | None, limit: int | None) -> Rows:
    """Rows of a dataset on the Hub or in a folder."""
    from datasets import load_dataset

    data = load_dataset(source, config, split=split, revision=revision)
    check_features(data, source)
    if limit is not None:
        data = data.select(range(min(limit, len(data))))
    if not len(data):
        raise ValueError(f"`source` ({source}) has no rows.")
    return Rows(list(data), source, [f"row {number}" for number in range(len(data))])


def extract_answers(values: Sequence[Any], pattern: str | None, places: Sequence[str] | None = None) -> list[str]:
    """
    Answers as text; with a `pattern`, what its group matches first, without spaces around it.

    Args:
        places: of each value, for messages.

    Raises:
        ValueError: naming the place, for what is no text and no number, for several answers, and where the pattern
            does not match.
    """
    if pattern is not None:
        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"`answer_pattern` must be a regular expression, got {pattern!r}: {error}.") from None
        if groups != 1:
            raise ValueError(f"`answer_pattern` must have one group, got {pattern!r}.")
    answers = []
    for number, value in enumerate(values):
        place = f"row {number}" if places is None else places[number]
        found = answer_texts(value, place)
        if isinstance(found, list):
            if len(found) > 1:
                raise ValueError(f"{place}: must be one answer, got {len(found)}: {found!r}.")
            found = found[0]
        if pattern is not None:
            match = re.search(pattern, found)
            if match is None or match.group(1) is None:
                raise ValueError(f"{place}: `answer_pattern` ({pattern!r}) does not match {found!r}.")
            found = match.group(1).strip()
            if not found:
                raise ValueError(f"{place}: what `answer_pattern` ({pattern!r}) matches is empty.")
        answers.append(found)
    return answers


__all__ = ["Questions", "extract_answers", "questions_of_task", "read_questions"]
