"""
What is measured on a list of examples: exact match of what is generated, likelihood, choices.

A metric turns examples into records (plain JSON, one an example, each a function of the example and the settings
alone) and records into a summary. Who runs it, and where records are kept, is `hf_latent.evaluation.sharded_runs`.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, TypeAlias

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.evaluation.reports.records import digest
from hf_latent.evaluation.scoring.encoding import encode_example
from hf_latent.evaluation.scoring.likelihood import LikelihoodResult, LogLikelihood, log_likelihood, score_texts
from hf_latent.evaluation.solving.puzzles import DecodingResult
from hf_latent.evaluation.solving.solving import Layout, Solved, solve
from hf_latent.evaluation.solving.wordings import Wording

Record = dict[str, Any]
Settings = dict[str, Any]
Model: TypeAlias = PreTrainedModel
Tokenizer: TypeAlias = PreTrainedTokenizerBase
SAMPLE_KNOBS = ("estimator", "num_samples", "seed")


class Metric(Protocol):
    """What is measured, and on which examples."""

    @property
    def name(self) -> str:
        """Of the task, e.g. `"sudoku-4x4"`."""

    @property
    def kind(self) -> str:
        """`"exact_match"`, `"likelihood"` or `"choice"`."""

    @property
    def decodes(self) -> bool:
        """Whether it depends on the decoder."""

    @property
    def source(self) -> dict[str, Any]:
        """Where the examples come from (JSON), for the reader of results."""

    @property
    def wording(self) -> Wording | None:
        """How the questions are asked, where that is one way of several."""

    @property
    def questions(self) -> Sequence[Any]:
        """As they stand, texts or conversations."""

    @property
    def question_digest(self) -> str:
        """Of all questions and answers, however they are asked."""

    @property
    def identity(self) -> dict[str, Any]:
        """What, beside model, settings and example, a record is a function of (JSON)."""

    @property
    def examples(self) -> Sequence[Any]:
        """JSON values that are all a record depends on of each example."""

    def records(
        self, model: Model, tokenizer: Tokenizer, numbers: Sequence[int], settings: Settings, batch_size: int
    ) -> Iterator[list[Record]]:
        """Records of the examples of these numbers, in order, in lists as they come."""

    def summarize(self, settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
        """`metric`, `value`, `standard_error`, `num_examples`, `seconds` and more, as JSON without nan."""


def without_nan(record: Mapping[str, Any]) -> Record:
    """JSON has no nan: None instead."""
    return {name: None if value != value else value for name, value in record.items()}


def with_nan(record: Mapping[str, Any], names: Sequence[str]) -> Record:
    """Nan again where `names` are None."""
    return {name: float("nan") if name in names and value is None else value for name, value in record.items()}


@dataclass(frozen=True)
class _Described(ABC):
    """
    What metrics say about themselves.

    Args:
        name: of the task.
        about: of the task, what its records depend on beside the examples: version, filter (JSON).
        source: where the examples come from (JSON), for the reader of results.
        wording: how the questions are asked; as they stand if None.
    """

    name: str
    about: dict[str, Any] = field(default_factory=dict, kw_only=True)
    source: dict[str, Any] = field(default_factory=dict, kw_only=True)
    wording: Wording | None = field(default=None, kw_only=True)
    kind = ""
    decodes = False

    @abstractmethod
    def _layout(self) -> dict[str, Any]:
        """How texts are put together (JSON)."""

    @abstractmethod
    def _asked(self, ask: Callable[[Any], Any]) -> list[Any]:
        """The examples (JSON), with `ask` of each question in its place."""

    def ask(self, question: Any) -> Any:
        """A question as the model reads it."""
        return question if self.wording is None else self.wording.ask(question)

    @property
    def examples(self) -> Sequence[Any]:
        return self._asked(self.ask)

    @property
    def questions(self) -> Sequence[Any]:
        found: list[Any] = []
        self._asked(found.append)
        return found

    @property
    def question_digest(self) -> str:
        return digest(self._asked(lambda question: question))

    @property
    def identity(self) -> dict[str, Any]:
        worded = {} if self.wording is None else {"template": self.wording.template}
        return {"task": self.name, "measure": self.kind, "layout": self._layout(), **worded, **self.about}


@dataclass(frozen=True)
class ExactMatch(_Described):
    """
    Answers that are generated, and right or wrong.

    Args:
        prompts: texts or lists of messages.
        references: what the judge compares with, one a prompt (JSON).
        judge: whether the text written for the example of this number is right.
        layout: see `Layout`.
        name, about, source, wording: see `_Described`.
    """

    prompts: Sequence[Any]
    references: Sequence[Any]
    judge: Callable[[int, str], bool]
    layout: Layout
    kind = "exact_match"
    decodes = True

    def _layout(self) -> dict[str, Any]:
        return asdict(self.layout)

    def _asked(self, ask: Callable[[Any], Any]) -> list[Any]:
        return [(ask(prompt), reference) for prompt, reference in zip(self.prompts, self.references, strict=True)]

    def records(
        self, model: Model, tokenizer: Tokenizer, numbers: Sequence[int], settings: Settings, batch_size: int
    ) -> Iterator[list[Record]]:
        solved = solve(
            model,
            tokenizer,
            [self.ask(self.prompts[number]) for number in numbers],
            lambda place, text: self.judge(numbers[place], text),
            layout=self.layout,
            batch_size=batch_size,
            row_indices=numbers,
            **settings,
        )
        for batch in solved:
            yield [without_nan(asdict(example)) for example in batch]

    def summarize(self, settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
        unknown = ("leftmost_share", "leftmost_distance")
        result = DecodingResult.from_solved(settings, [Solved(**with_nan(record, unknown)) for record in records])
        values = result.to_dict()
        values.pop("settings")
        right = marks(record["correct"] for record in records)
        return {"metric": "accuracy", "value": values["accuracy"], **values, "correct": right}


@dataclass(frozen=True)
class Likelihood(_Described):
    """
    Bound, or chain, of the likelihood of completions given their prompts.

    Args:
        rows: `{"prompt", "completion"}`, `{"text"}` or `{"input_ids", "labels"}`.
        chat: whether prompts given as text go through the chat template.
        add_eos: whether completions end with the end-of-sequence token.
        name, about, source, wording: see `_Described`.
    """

    rows: Sequence[Mapping[str, Any]]
    chat: bool = False
    add_eos: bool = True
    kind = "likelihood"

    def _layout(self) -> dict[str, Any]:
        return {"chat": self.chat, "add_eos": self.add_eos}

    def _asked(self, ask: Callable[[Any], Any]) -> list[Any]:
        return [{**row, "prompt": ask(row["prompt"])} if "prompt" in row else row for row in self.rows]

    def records(
        self, model: Model, tokenizer: Tokenizer, numbers: Sequence[int], settings: Settings, batch_size: int
    ) -> Iterator[list[Record]]:
        at_once = max(1, batch_size // settings["num_samples"])
        options = {"chat": self.chat, "add_eos": self.add_eos}
        rows = self.examples
        for first in range(0, len(numbers), at_once):
            some = numbers[first : first + at_once]
            start = time.perf_counter()
            texts = [encode_example(rows[number], number, tokenizer, **options) for number in some]
            scores = score_texts(model, texts, batch_size=batch_size, **settings)
            seconds = (time.perf_counter() - start) / len(some)
            yield [without_nan(asdict(score) | {"seconds": seconds}) for score in scores]

    def summarize(self, settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
        scores = []
        for record in records:
            values = with_nan(record, ("standard_error",))
            scores.append(LogLikelihood(**{name: values[name] for name in ("value", "standard_error", "num_tokens")}))
        seconds = math.fsum(record["seconds"] for record in records)
        knobs = {name: settings[name] for name in SAMPLE_KNOBS}
        values = LikelihoodResult.from_examples(scores, seconds=seconds, **knobs).to_dict()
        return {"metric": "nats_per_token", "value": values["nats_per_token"], **values}


@dataclass(frozen=True)
class Choice(_Described):
    """
    The most likely of several continuations.

    Args:
        contexts: one a question, texts or lists of messages.
        choices: the continuations of each.
        answers: index of the right one.
        chat: whether contexts given as text go through the chat template.
        name, about, source, wording: see `_Described`.
    """

    contexts: Sequence[Any]
    choices: Sequence[Sequence[str]]
    answers: Sequence[int]
    chat: bool = False
    kind = "choice"

    def _layout(self) -> dict[str, Any]:
        return {"chat": self.chat}

    def _asked(self, ask: Callable[[Any], Any]) -> list[Any]:
        examples = zip(self.contexts, self.choices, self.answers, strict=True)
        return [(ask(context), choices, answer) for context, choices, answer in examples]

    def records(
        self, model: Model, tokenizer: Tokenizer, numbers: Sequence[int], settings: Settings, batch_size: int
    ) -> Iterator[list[Record]]:
        most = max(len(self.choices[number]) for number in numbers)
        at_once = max(1, batch_size // (settings["num_samples"] * most))
        for first in range(0, len(numbers), at_once):
            some = numbers[first : first + at_once]
            start = time.perf_counter()
            pairs = [(self.ask(self.contexts[number]), choice) for number in some for choice in self.choices[number]]
            contexts, continuations = zip(*pairs, strict=True)
            scores = iter(
                log_likelihood(
                    model, tokenizer, contexts, continuations, chat=self.chat, batch_size=batch_size, **settings
                )
            )
            found = [[next(scores) for _ in self.choices[number]] for number in some]
            seconds = (time.perf_counter() - start) / len(some)
            yield [self._record(number, of, seconds) for number, of in zip(some, found, strict=True)]

    def _record(self, number: int, scores: Sequence[LogLikelihood], seconds: float) -> Record:
        values = [score.value for score in scores]
        per_byte = [value / len(c.encode()) for value, c in zip(values, self.choices[number], strict=True)]
        errors = [None if score.standard_error != score.standard_error else score.standard_error for score in scores]
        answer = self.answers[number]
        return {
            "scores": values,
            "standard_errors": errors,
            "correct": values.index(max(values)) == answer,
            "correct_per_byte": per_byte.index(max(per_byte)) == answer,
            "seconds": seconds,
        }

    def summarize(self, settings: Settings, records: Sequence[Record]) -> dict[str, Any]:
        num = len(records)
        values: dict[str, Any] = {"metric": "accuracy", "num_examples": num}
        for suffix in ("", "_per_byte"):
            share = sum(record[f"correct{suffix}"] for record in records) / num
            values |= {f"accuracy{suffix}": share, f"standard_error{suffix}": math.sqrt(share * (1 - share) / num)}
        values |= {name: settings[name] for name in SAMPLE_KNOBS}
        values["correct"] = marks(record["correct"] for record in records)
        return values | {"value": values["accuracy"], "seconds": math.fsum(record["seconds"] for record in records)}


def marks(correct: Iterable[bool]) -> str:
    """`[True, False]` to `"10"`: which examples are right, in order, as a results file keeps it."""
    return "".join("1" if right else "0" for right in correct)


__all__ = ["Choice", "ExactMatch", "Likelihood", "Metric", "marks", "without_nan"]
