"""Questions with known answers for posterior traces: a task of this library, a local file, a dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

# What `datasets` calls the reader of a file, by its ending.
READERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
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
    Read two columns of a local file (JSON, JSON lines, Parquet, CSV) or of a dataset (a name on the Hub, a folder).

    Args:
        answer_pattern: regular expression with one group, searched in the answer column: r"#### (.*)" for GSM8K,
            whose answers come behind human reasoning.
        limit: the first so many rows only.

    Raises:
        ValueError: for a column that is not there, a row without answer, an expression that does not match.
    """
    from datasets import load_dataset

    path = Path(source)
    if path.suffix in READERS:
        if not path.is_file():
            raise ValueError(f"`source` must be a file or a dataset, got {source}, which does not exist.")
        data = load_dataset(READERS[path.suffix], data_files=source, split="train")
    else:
        data = load_dataset(source, config, split=split, revision=revision)
    for name, column in (("question_column", question_column), ("answer_column", answer_column)):
        if column not in data.column_names:
            raise ValueError(f"`{name}` must be one of {data.column_names}, got {column!r}.")
    if limit is not None:
        if limit < 1:
            raise ValueError(f"`limit` must be at least 1, got {limit}.")
        data = data.select(range(min(limit, len(data))))
    return Questions(list(data[question_column]), extract_answers(list(data[answer_column]), answer_pattern))


def extract_answers(values: Sequence[Any], pattern: str | None) -> list[str]:
    """Answers as text; with a `pattern`, what its group matches first, without spaces around it."""
    if pattern is not None and re.compile(pattern).groups != 1:
        raise ValueError(f"`answer_pattern` must have one group, got {pattern!r}.")
    answers = []
    for number, value in enumerate(values):
        text = "" if value is None else str(value)
        if pattern is not None:
            match = re.search(pattern, text)
            if match is None:
                raise ValueError(
                    f"`answer_pattern` ({pattern!r}) does not match the answer of row {number}: {text!r}."
                )
            text = match.group(1).strip()
        if not text:
            raise ValueError(f"`answer_column` is empty in row {number}.")
        answers.append(text)
    return answers


__all__ = ["Questions", "extract_answers", "questions_of_task", "read_questions"]
