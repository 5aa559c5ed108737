"""
Reasoning traces from the posterior p(reasoning | question, answer), arXiv 2510.19990.

The known answer is written in the answer block of a template, and the model fills in the reasoning before it: what
next-token models cannot do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hf_latent.data.embeddings import check_pair
from hf_latent.data.numbers import takes_numbers
from hf_latent.data.template import ReasoningTemplate
from hf_latent.data.traces.filled_templates import FilledTemplate, check_lengths, fill_template
from hf_latent.data.traces.scoring import (
    Estimator,
    TraceScore,
    check_room,
    check_scoring,
    chunks,
    mask_token_of,
    score_filled,
)
from hf_latent.generation.arguments.devices import find_device
from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.generate import run_infill
from hf_latent.generation.preparation import resolve_config
from hf_latent.modeling.mode import in_evaluation_mode

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# A sample's number in the noise: that of its question, and which sample of the question it is.
SAMPLE_STRIDE = 2**40
# What of `generate` is decided here.
TAKEN = (
    "inputs",
    "input_ids",
    "attention_mask",
    "answer_mask",
    "row_indices",
    "streamer",
    "num_return_sequences",
    "return_dict_in_generate",
    "output_history",
    "early_exit_threshold",
)
INSTEAD = {"num_return_sequences": "num_traces"}


@takes_numbers
def sample_posterior_traces(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Any],
    answers: Sequence[str],
    template: ReasoningTemplate,
    *,
    num_traces: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
    question_ids: Sequence[int] | None = None,
    estimator: Estimator | None = "left_to_right",
    num_cuts: int = 4,
    every: int | None = None,
    hide_answer: bool = True,
    batch_size: int = 32,
    chat: bool | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    on_batch: Callable[[int], None] | None = None,
    **generation_kwargs: Any,
) -> Dataset:
    """
    Sample reasoning for questions whose answers are known, and score it.

    ```python
    template = ReasoningTemplate(reasoning_length=64, answer_length=10, delimiter="\\nThe answer is ")
    traces = sample_posterior_traces(model, tokenizer, questions, answers, template, decoding="med")
    good = keep_top_share(traces, 0.5)
    ```

    Args:
        questions: texts, or conversations (lists of messages), as in `ReasoningTemplate.apply`.
        answers: one a question; see [`fill_template`] for what fits.
        num_traces: samples of each question.
        temperature: of the tokens; 1 samples from the model's conditionals, 0 takes the most likely token, which
            gives one trace a question.
        seed: of all noise. A trace is a function of the seed, its question's id and its number among the question's
            samples: not of the batch, nor of `num_traces`.
        question_ids: numbers of the questions in the noise, by default 0, 1, ...; for a part of a larger set.
        estimator, num_cuts, every, hide_answer: see [`score_traces`]; None leaves the traces unscored.
        batch_size: traces of a forward.
        on_batch: called with the number of traces done since the last call.
        generation_kwargs: any knob of `generate`: `decoding`, `block_length`, caches, ...

    Returns:
        `datasets.Dataset`, question by question, with the columns `question`, `answer`, `trace` (text up to its end),
        `question_id`, `sample`, `num_trace_tokens`, `num_forward_passes` (of the sampling), `score` (nats), `scores`
        and `cuts` (see [`TraceScore`]; these three only if scored), `estimator`, `hide_answer`, `seed`, `model` and
        `revision`.

    Raises:
        ValueError: naming the argument, before any forward.
    """
    from datasets import Dataset

    rows = iterate_traces(
        model,
        tokenizer,
        questions,
        answers,
        template,
        num_traces=num_traces,
        temperature=temperature,
        seed=seed,
        question_ids=question_ids,
        estimator=estimator,
        num_cuts=num_cuts,
        every=every,
        hide_answer=hide_answer,
        batch_size=batch_size,
        chat=chat,
        chat_template_kwargs=chat_template_kwargs,
        **generation_kwargs,
    )
    found = []
    for batch in rows:
        found += batch
        if on_batch is not None:
            on_batch(len(batch))
    return Dataset.from_list(found)


@takes_numbers
def iterate_traces(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Any],
    answers: Sequence[str],
    template: ReasoningTemplate,
    *,
    num_traces: int,
    temperature: float,
    seed: int,
    question_ids: Sequence[int] | None,
    estimator: Estimator | None,
    num_cuts: int,
    every: int | None,
    hide_answer: bool,
    batch_size: int,
    chat: bool | None,
    chat_template_kwargs: dict[str, Any] | None,
    **generation_kwargs: Any,
) -> Iterator[list[dict[str, Any]]]:
    """The rows of [`sample_posterior_traces`], a batch at a time; everything is checked before the first."""
    check_pair(model, tokenizer)
    check_scoring(estimator or "left_to_right", num_cuts, every, batch_size)
    check_lengths(questions, answers=answers)
    ids = _check_ids(question_ids, len(questions))
    knobs = _check_knobs(model, {**generation_kwargs, "temperature": temperature, "seed": seed}, num_traces)
    options: dict[str, Any] = {"mask_token_id": mask_token_of(model), "chat": chat, **(chat_template_kwargs or {})}
    picks = [(question, sample) for question in range(len(questions)) for sample in range(num_traces)]
    batches: list[tuple[list[tuple[int, int]], FilledTemplate]] = []
    for part in chunks(len(picks), batch_size):
        chosen = picks[part]
        texts, known = ([values[i] for i, _ in chosen] for values in (questions, answers))
        batches.append((chosen, fill_template(tokenizer, texts, known, template, **options)))
    check_room(model, [filled for _, filled in batches])
    check_answer_is_seen(model, [filled for _, filled in batches], generation_kwargs.get("block_length"))
    origin = {
        "estimator": estimator,
        "hide_answer": hide_answer,
        "seed": seed,
        "model": model.config.name_or_path,
        "revision": getattr(model.config, "_commit_hash", None),
    }

    def rows_of(chosen: list[tuple[int, int]], filled: FilledTemplate) -> list[dict[str, Any]]:
        numbers = [ids[i] + sample * SAMPLE_STRIDE for i, sample in chosen]
        tokens, forwards = _sample(model, filled, numbers, options["mask_token_id"], knobs)
        written = filled.with_reasoning(tokens, tokenizer, [answers[i] for i, _ in chosen])
        scores: list[TraceScore] | None = None
        if estimator is not None:
            scoring: dict[str, Any] = {
                "num_cuts": num_cuts,
                "every": every,
                "hide_answer": hide_answer,
                "batch_size": batch_size,
            }
            scores = score_filled(model, written, estimator=estimator, **scoring)
        rows = []
        for at, (i, sample) in enumerate(chosen):
            trace = written.input_ids[at][written.reasoning[at]][: int(written.num_reasoning[at])]
            row = {
                "question": questions[i],
                "answer": answers[i],
                "trace": tokenizer.decode(trace, skip_special_tokens=True),
                "question_id": ids[i],
                "sample": sample,
                "num_trace_tokens": len(trace),
                "num_forward_passes": forwards[at],
            }
            rows.append(row | ({} if scores is None else scores[at]._asdict()) | origin)
        return rows

    return (rows_of(chosen, filled) for chosen, filled in batches)


def check_questions(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Any],
    answers: Sequence[str],
    template: ReasoningTemplate,
    *,
    chat: bool | None = None,
    block_length: int | None = None,
) -> None:
    """Raise what sampling would raise for one of the questions or answers: for a large set, before its first part."""
    check_lengths(questions, answers=answers)
    options: dict[str, Any] = {"mask_token_id": mask_token_of(model), "chat": chat}
    for part in chunks(len(questions), 256):
        filled = [fill_template(tokenizer, questions[part], answers[part], template, **options)]
        check_room(model, filled)
        check_answer_is_seen(model, filled, block_length)


def check_answer_is_seen(model: PreTrainedModel, filled: Sequence[FilledTemplate], block_length: int | None) -> None:
    """Raise `ValueError` where block-causal attention hides the answer from the reasoning before it."""
    if not getattr(model, "is_block_causal", False):
        return
    size = model.config.block_size if block_length is None else block_length
    for part in filled:
        position = part.valid.long().cumsum(-1) - 1
        first = position.masked_fill(~part.reasoning, position.shape[1]).amin(-1)
        last = position.masked_fill(~part.answer, 0).amax(-1)
        if (first // size != last // size).any():
            raise ValueError(
                f"`model` sees blocks of {size} positions and those before: it would write reasoning without the "
                "known answer, which stands in a later block. Use a bidirectional model, or a `block_length` whose "
                "blocks hold question, reasoning and answer"
            )


@in_evaluation_mode
def _sample(
    model: PreTrainedModel,
    filled: FilledTemplate,
    numbers: list[int],
    mask_token_id: int,
    knobs: dict[str, Any],
) -> tuple[torch.Tensor, list[int]]:
    """Tokens of the reasoning `(B, R)` and the forwards that took."""
    device = find_device(model)
    output: Any = run_infill(
        model,
        input_ids=filled.input_ids.to(device),
        attention_mask=filled.valid.long().to(device),
        row_indices=numbers,
        mask_token_id=mask_token_id,
        return_dict_in_generate=True,
        **knobs,
    )
    sequences = output.sequences.cpu()
    return sequences[filled.reasoning].view(len(sequences), -1), output.num_forward_passes.tolist()


def check_names(knobs: Mapping[str, Any]) -> None:
    """Raise `ValueError` for an argument of `generate` that is decided here."""
    for name in TAKEN:
        if name in knobs:
            instead = INSTEAD.get(name)
            advice = "" if instead is None else f" Use `{instead}`."
            raise ValueError(f"`{name}` is not an argument of posterior sampling, got {knobs[name]!r}.{advice}")


def _check_knobs(model: PreTrainedModel, knobs: dict[str, Any], num_traces: int) -> dict[str, Any]:
    check_names(knobs)
    if not isinstance(num_traces, int) or num_traces < 1:
        raise ValueError(f"`num_traces` must be an integer of at least 1, got {num_traces!r}.")
    if not isinstance(knobs["seed"], int):
        raise ValueError(f"`seed` must be an integer, got {knobs['seed']!r}.")
    config, _ = resolve_config(model, None, knobs)
    if num_traces > 1 and config.effective_temperature == 0 and RULES[config.decoding].reads != "noise":
        raise ValueError(f"`num_traces`={num_traces} gives equal traces without sampling: set `temperature` above 0.")
    return knobs


def _check_ids(question_ids: Sequence[int] | None, num_questions: int) -> list[int]:
    ids = list(range(num_questions)) if question_ids is None else [int(i) for i in question_ids]
    if len(ids) != num_questions or len(set(ids)) < len(ids):
        raise ValueError(f"`question_ids` must be {num_questions} different integers, got {question_ids!r}.")
    if ids and not 0 <= min(ids) <= max(ids) < SAMPLE_STRIDE:
        raise ValueError(f"`question_ids` must lie in [0, {SAMPLE_STRIDE}), got {min(ids)} to {max(ids)}.")
    return ids


__all__ = ["check_names", "check_questions", "iterate_traces", "sample_posterior_traces"]
