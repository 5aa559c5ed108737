"""Metrics by what names them, `SOURCE:KIND`: a task of this library or a local file, and how it is measured."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hf_latent.data.data_files import (
    Rows,
    answer_texts,
    is_conversation,
    is_local_file,
    pair_text,
    read_rows,
    texts_of,
)
from hf_latent.data.template import ReasoningTemplate
from hf_latent.evaluation.metrics import Choice, ExactMatch, Likelihood, Metric
from hf_latent.evaluation.solving.filters import ANSWER_FILTERS, is_match
from hf_latent.evaluation.solving.local_files import (
    ANSWER_FIELDS,
    QUESTION_FIELDS,
    answer_index,
    fill_prompt,
    find_field,
)
from hf_latent.evaluation.solving.solving import Layout
from hf_latent.evaluation.solving.wordings import Wording
from hf_latent.tasks import ArithmeticTask, SudokuTask, Task, get_task
from hf_latent.tasks.loading import EXAMPLES, TASKS

KINDS = ("exact_match", "likelihood", "choice")
DEFAULT_NUM = 200  # examples of a task that generates its own


@dataclass(frozen=True)
class MetricOptions:
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
        max_new_tokens: tokens to write for a file's question without a template; if None the checkpoint's own, or 128.
        template: to reason and answer in place.
        use_template: whether tasks of this library that reason in place do so.
        separator: between a context and each of its choices.
        add_eos: whether scored completions end with the end-of-sequence token.
        wording: how the questions are asked, around what `prompt` gives; as they stand if None.
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
    wording: Wording | None = None

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


def build_metric(spec: str, options: MetricOptions, about: Mapping[str, Any] | None = None) -> Metric:
    """
    The metric that `spec` names: `SOURCE` or `SOURCE:KIND`.

    Args:
        spec: the source is a task of this library by name (`zebra`; with the checkpoint's options if it was trained on
            that task), a name with sizes (`sudoku-6x6`, `zebra-4x3`, `star_graph-2x5`, `countdown-4`), or a file
            (`.jsonl`, `.json`, `.csv`, `.parquet`); the kind `exact_match`, `likelihood` or, for a file, `choice`.
        about: the checkpoint's `task.json`: "task" and, of a Sudoku, "size" and "num_givens", else "options", the
            arguments of [`~hf_latent.tasks.get_task`].

    Raises:
        ValueError: for a source or kind that is none of these, and for what is wrong with a file.
    """
    source, kind = split_spec(spec)
    if is_local_file(source):
        return _worded(_file_metric(Path(source), kind, options), options.wording)
    return _worded(_task_metric(source, kind, options, about or {}), options.wording)


def _worded(metric: ExactMatch | Likelihood | Choice, wording: Wording | None) -> Metric:
    """The metric with its questions asked in one way; `ValueError` where there are none, or none that are texts."""
    if wording is None:
        return metric
    if isinstance(metric, Likelihood) and not all("prompt" in row for row in metric.rows):
        raise ValueError(f"`templates` word questions, and {metric.name} has texts without any.")
    worded = replace(metric, wording=wording)
    len(worded.examples)  # asks every question
    return worded


def _task_metric(source: str, kind: str, options: MetricOptions, about: Mapping[str, Any]) -> ExactMatch | Likelihood:
    task, kwargs, options_of_task = _find_task(source, about)
    if kind == "choice":
        raise ValueError(f"`tasks`: {source} has no choices, got '{source}:{kind}'; `choice` is for files.")
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
            f"`tasks` takes {', '.join(TASKS)} (also with sizes, like {EXAMPLES}), or a .jsonl, .json, .csv or "
            f".parquet file, each with :likelihood or, for a file, :choice behind it; or harness:NAME. Got {source!r}."
        )
    options = dict(about.get("options", {})) if source == about.get("task") else {}
    return get_task(source, **options), {}, options


def _file_metric(path: Path, kind: str, options: MetricOptions) -> ExactMatch | Likelihood | Choice:
    rows = read_rows(path, options.limit)
    known = dict.fromkeys(rows.columns)
    origin: dict[str, Any] = {"file_sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    if kind == "likelihood" and any(name in known for name in ("text", "input_ids")):
        texts = [row if "input_ids" in row else row | {"text": rows.text(n, "text")} for n, row in enumerate(rows)]
        return Likelihood(path.name, texts, chat=options.chat, add_eos=options.add_eos, source=origin)
    prompts, values, answer = _read_columns(rows, known, options)
    places = [rows.location(number, answer) for number in range(len(rows))]
    if kind == "choice":
        return _choices(path.name, rows, prompts, values, places, options, origin)
    if kind == "likelihood":
        sides = zip(prompts, map(pair_text, values, places), strict=True)
        pairs = [{"prompt": prompt, "completion": completion} for prompt, completion in sides]
        return Likelihood(path.name, pairs, chat=options.chat, add_eos=options.add_eos, source=origin)
    for number, text in enumerate(prompts):
        if not text and options.template is None and not options.chat and options.wording is None:
            raise ValueError(
                f"{rows.location(number)}: the prompt is empty, and there is no template to fill in behind it."
            )
    references = list(map(answer_texts, values, places))
    return ExactMatch(
        name=path.name,
        prompts=prompts,
        references=references,
        judge=lambda number, text: is_match(text, references[number], options.answer_filter),
        layout=Layout(options.template, options.max_new_tokens, chat=options.chat, stop=options.stop),
        about={"answer_filter": options.answer_filter},
        source=origin,
    )


def _read_columns(rows: Rows, known: Mapping[str, Any], options: MetricOptions) -> tuple[list[Any], list[Any], str]:
    """Prompts (texts or messages), answers as they stand in the file, and the column of those."""
    numbers = range(len(rows))
    is_given = options.prompt is not None or options.question_field is not None or options.answer_field is not None
    if "messages" in known and not is_given and not any(name in known for name in QUESTION_FIELDS):
        talks = [rows.value(number, "messages") for number in numbers]
        for number, talk in enumerate(talks):
            if not is_conversation(talk) or len(talk) < 2 or talk[-1]["role"] != "assistant":
                place = rows.location(number, "messages")
                raise ValueError(f"{place}: must be messages of which the last is the assistant's, got {talk!r}.")
        return [talk[:-1] for talk in talks], [talk[-1].get("content") for talk in talks], "messages"
    answer = find_field(known, options.answer_field, ANSWER_FIELDS, "answer_field")
    answers = [rows.value(number, answer) for number in numbers]
    if options.prompt is not None:
        return [_fill(options.prompt, rows, number) for number in numbers], answers, answer
    question = find_field(known, options.question_field, QUESTION_FIELDS, "question_field")
    read = [(rows.value(number, question), rows.location(number, question)) for number in numbers]
    return [pair_text(value, place, may_be_empty=True) for value, place in read], answers, answer


def _fill(prompt: str, rows: Rows, number: int) -> str:
    try:
        return fill_prompt(prompt, rows[number])
    except ValueError as error:
        raise ValueError(f"{rows.location(number)}: {error}") from None


def _choices(
    name: str,
    rows: Rows,
    prompts: Sequence[Any],
    answers: Sequence[Any],
    places: Sequence[str],
    options: MetricOptions,
    origin: dict[str, Any],
) -> Choice:
    choices = []
    for number in range(len(rows)):
        value, place = rows.value(number, options.choices_field), rows.location(number, options.choices_field)
        if not isinstance(value, list) or len(value) < 2:
            raise ValueError(f"{place}: must be a list of at least two texts, got {value!r}.")
        choices.append(texts_of(value, place))
    indices = [answer_index(a, c, place) for a, c, place in zip(answers, choices, places, strict=True)]
    continuations = [[options.separator + choice for choice in of] for of in choices]
    return Choice(name, prompts, continuations, indices, chat=options.chat, source=origin)


__all__ = ["DEFAULT_NUM", "KINDS", "MetricOptions", "build_metric", "own_task", "split_spec"]
