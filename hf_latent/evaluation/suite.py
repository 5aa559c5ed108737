"""Measures by name: tasks of this library, local files, and how each is measured."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_latent.data.template import ReasoningTemplate
from hf_latent.evaluation.filters import ANSWER_FILTERS, is_match
from hf_latent.evaluation.local_files import (
    ANSWER_FIELDS,
    QUESTION_FIELDS,
    answer_index,
    fill_prompt,
    find_field,
    read_rows,
)
from hf_latent.evaluation.measures import Choice, ExactMatch, Likelihood, Measure
from hf_latent.evaluation.solving import Layout
from hf_latent.tasks import ArithmeticTask, SudokuTask, Task, get_task
from hf_latent.tasks.loading import EXAMPLES, TASKS

KINDS = ("exact_match", "likelihood", "choice")
DEFAULT_NUM = 200  # examples of a task that generates its own


@dataclass(frozen=True)
class SuiteOptions:
    """
    How examples become prompts, and answers are matched.

    Args:
        limit: most examples of a task; all of a file and 200 of a task that generates its own if None.
        task_seed: of generated examples.
        question_field, answer_field, choices_field: of a file; the usual names if None.
        prompt: text with `{field}`s of a row, instead of its question alone.
        answer_filter: one of `ANSWER_FILTERS`, for what was written and for the reference.
        stop: texts at the first of which what was written ends.
        chat: whether prompts go through the chat template.
        max_new_tokens: tokens to write for a file's question without a template; the checkpoint's own if None.
        template: to reason and answer in place.
        use_template: whether tasks of this library that reason in place do so.
        separator: between a context and each of its choices.
        add_eos: whether scored completions end with the end-of-sequence token.
    """

    limit: int | None = None
    task_seed: int = 1234
    question_field: str | None = None
    answer_field: str | None = None
    choices_field: str = "choices"
    prompt: str | None = None
    answer_filter: str = "exact"
    stop: tuple[str, ...] = ()
    chat: bool = False
    max_new_tokens: int | None = None
    template: ReasoningTemplate | None = None
    use_template: bool = True
    separator: str = " "
    add_eos: bool = True

    def __post_init__(self) -> None:
        if self.answer_filter not in ANSWER_FILTERS:
            raise ValueError(f"`answer_filter` must be one of {sorted(ANSWER_FILTERS)}, got {self.answer_filter!r}.")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"`limit` must be at least 1, got {self.limit}.")


def split_spec(spec: str) -> tuple[str, str]:
    """`"data.jsonl:choice"` to `("data.jsonl", "choice")`; what is measured is `exact_match` if not said."""
    source, separator, kind = spec.rpartition(":")
    if separator and kind in KINDS:
        return source, kind
    return spec, "exact_match"


def own_task(about: Mapping[str, Any]) -> str:
    """The spec of the task that a checkpoint's `task.json` names."""
    return f"sudoku-{about['size']}x{about['size']}" if about["task"] == "sudoku" else str(about["task"])


def build_measure(spec: str, options: SuiteOptions, about: Mapping[str, Any] | None = None) -> Measure:
    """
    The measure that `spec` names: `SOURCE` or `SOURCE:KIND`.

    Args:
        spec: the source is a task of this library by name (`zebra`; with the checkpoint's options if it was trained on
            that task), a name with sizes (`sudoku-6x6`, `zebra-4x3`, `star_graph-2x5`, `countdown-4`), or a `.json` or
            `.jsonl` file; the kind `exact_match`, `likelihood` or, for a file, `choice`.
        about: the checkpoint's `task.json`: "task" and, of a Sudoku, "size" and "num_givens", else "options", the
            arguments of [`~hf_latent.tasks.get_task`].

    Raises:
        ValueError: for a source or kind that is none of these, and for what is wrong with a file.
    """
    source, kind = split_spec(spec)
    if Path(source).suffix in (".json", ".jsonl"):
        return _file_measure(Path(source), kind, options)
    task, kwargs, options_of_task = _find_task(source, about or {})
    if kind == "choice":
        raise ValueError(f"`tasks`: {source} has no choices, got {spec!r}; `choice` is for files.")
    found = task.generate(options.limit or DEFAULT_NUM, options.task_seed, split="test", **kwargs)
    problems = [problem | task.format(problem) for problem in found]
    identity = {"version": task.version}
    origin = {"task_seed": options.task_seed, "split": "test", **kwargs, **options_of_task}
    if kind == "likelihood":
        rows = [{name: problem[name] for name in ("prompt", "completion")} for problem in problems]
        return Likelihood(source, rows, add_eos=options.add_eos, about=identity, source=origin)
    template = None
    if isinstance(task, ArithmeticTask) and options.use_template:
        template = options.template or ReasoningTemplate(task.reasoning_length, task.answer_length, task.delimiter)
    length = task.completion_length
    return ExactMatch(
        name=source,
        prompts=[problem["prompt"] for problem in problems],
        references=[problem["completion"] for problem in problems],
        judge=lambda number, text: task.is_solved(problems[number], text),
        layout=Layout(template, max_new_tokens=length, completion_length=length),
        about=identity,
        source=origin,
    )


def _find_task(source: str, about: Mapping[str, Any]) -> tuple[Task, dict[str, Any], dict[str, Any]]:
    """A task of this library, what `generate` is told beside number and seed, and the options taken from `about`."""
    match = re.fullmatch(r"sudoku(?:-(\d)x\1)?", source)
    if match:
        size = int(match.group(1) or about.get("size", 9))
        same = about.get("task") == "sudoku" and about.get("size") == size
        return SudokuTask(size), {"num_givens": tuple(about["num_givens"])} if same else {}, {}
    if source.partition("-")[0] not in TASKS:
        raise ValueError(
            f"`tasks` takes {', '.join(TASKS)} (also with sizes, like {EXAMPLES}), or a .json or .jsonl file, each "
            f"with :likelihood or, for a file, :choice behind it; or harness:NAME. Got {source!r}."
        )
    options = dict(about.get("options", {})) if source == about.get("task") else {}
    return get_task(source, **options), {}, options


def _file_measure(path: Path, kind: str, options: SuiteOptions) -> Measure:
    if not path.is_file():
        raise ValueError(f"`tasks`: there is no file {path}.")
    rows = read_rows(path, options.limit)
    origin: dict[str, Any] = {"file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if kind == "likelihood" and any(name in rows[0] for name in ("text", "input_ids")):
        return Likelihood(path.name, rows, chat=options.chat, add_eos=options.add_eos, source=origin)
    question = None
    if options.prompt is None:
        question = find_field(rows[0], options.question_field, QUESTION_FIELDS, "question_field")
    answer = find_field(rows[0], options.answer_field, ANSWER_FIELDS, "answer_field")
    prompts = [_prompt(row, question, options, number) for number, row in enumerate(rows)]
    answers = [_value(row, answer, number) for number, row in enumerate(rows)]
    if kind == "choice":
        return _choices(path.name, rows, prompts, answers, options, origin)
    if kind == "likelihood":
        pairs = [{"prompt": p, "completion": str(a)} for p, a in zip(prompts, answers, strict=True)]
        return Likelihood(path.name, pairs, chat=options.chat, add_eos=options.add_eos, source=origin)
    for number, text in enumerate(prompts):
        if not text and options.template is None and not options.chat:
            raise ValueError(f"Row {number}: the prompt is empty, and there is no template to fill in behind it.")
    references = [[str(a) for a in answer] if isinstance(answer, list) else str(answer) for answer in answers]
    return ExactMatch(
        name=path.name,
        prompts=prompts,
        references=references,
        judge=lambda number, text: is_match(text, references[number], options.answer_filter),
        layout=Layout(options.template, options.max_new_tokens, chat=options.chat, stop=options.stop),
        about={"answer_filter": options.answer_filter},
        source=origin,
    )


def _value(row: Mapping[str, Any], name: str, number: int) -> Any:
    if name not in row:
        raise ValueError(f"Row {number} has no field {name!r}; it has {sorted(row)}.")
    return row[name]


def _prompt(row: Mapping[str, Any], question: str | None, options: SuiteOptions, number: int) -> Any:
    return fill_prompt(options.prompt or "", row) if question is None else _value(row, question, number)


def _choices(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    prompts: Sequence[Any],
    answers: Sequence[Any],
    options: SuiteOptions,
    origin: dict[str, Any],
) -> Choice:
    choices = [[str(choice) for choice in _value(row, options.choices_field, n)] for n, row in enumerate(rows)]
    for number, of in enumerate(choices):
        if len(of) < 2 or not all(of):
            raise ValueError(f"Row {number}: `{options.choices_field}` must be at least two texts, got {of}.")
    indices = [answer_index(a, c, f"Row {n}") for n, (a, c) in enumerate(zip(answers, choices, strict=True))]
    continuations = [[options.separator + choice for choice in of] for of in choices]
    return Choice(name, prompts, continuations, indices, chat=options.chat, source=origin)


__all__ = ["DEFAULT_NUM", "KINDS", "SuiteOptions", "build_measure", "own_task", "split_spec"]
