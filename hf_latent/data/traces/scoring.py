"""
How well reasoning leads to an answer: log p(answer | question, first t tokens of the trace), arXiv 2510.19990.

No rollouts and no reward model: the answer block is read while the rest of the reasoning is masked. `B` traces, `C`
cuts, `N` positions read in a forward.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch

from hf_latent.data.embeddings import check_pair
from hf_latent.data.numbers import takes_numbers
from hf_latent.data.template import ReasoningTemplate
from hf_latent.data.traces.filled_templates import FilledTemplate, check_lengths, fill_template
from hf_latent.generation.arguments.devices import find_device
from hf_latent.generation.arguments.inputs import check_length
from hf_latent.generation.model_calls.predictor import ForwardRequest, Predictor, PredictorSettings
from hf_latent.generation.preparation import find_mask_token_id, position_limit, resolve_config
from hf_latent.generation.state.canvas import build_canvas
from hf_latent.modeling.mode import in_evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Estimator = Literal["left_to_right", "marginals"]
ESTIMATORS: tuple[Estimator, ...] = ("left_to_right", "marginals")


class TraceScore(NamedTuple):
    """
    Score of one trace.

    Args:
        score: log p(answer | question, whole trace) in nats.
        scores: the same for the prefixes of `cuts` tokens, in order; the last is `score`.
        cuts: tokens of the trace that each score has seen.
    """

    score: float
    scores: list[float]
    cuts: list[int]


@takes_numbers
def score_traces(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Any],
    traces: Sequence[str],
    answers: Sequence[str],
    template: ReasoningTemplate,
    *,
    estimator: Estimator = "left_to_right",
    num_cuts: int = 4,
    every: int | None = None,
    hide_answer: bool = False,
    batch_size: int = 32,
    chat: bool | None = None,
    chat_template_kwargs: dict[str, Any] | None = None,
    on_batch: Callable[[int], None] | None = None,
) -> list[TraceScore]:
    """
    Score reasoning by the probability of the known answer behind it.

    The answer is its `n` tokens and, where the block has room, the end-of-sequence token that ends it; what fills the
    block behind that stays masked and is not counted. The trace's first `t` tokens are given, the rest of the
    reasoning is masked; the last score has the whole reasoning block, with what fills it up.

    Args:
        questions, traces, answers: one each; see [`fill_template`] for what fits.
        estimator: `"left_to_right"`: sum over j of log p(a_j | question, trace, a_<j), the exact log-probability
            under the model's conditionals in that order; `n` canvases a score. `"marginals"`: sum over j of
            log p(a_j | question, trace), with the whole answer masked; one canvas a score. It ignores what the
            tokens of an answer say about each other: minus its expectation over the model's own answers is the sum of
            entropies that early exit reads, an upper bound of the joint entropy.
        num_cuts: equal parts the trace is divided into: scores at their `num_cuts` + 1 ends, the first without any
            reasoning.
        every: instead, a score every this many tokens, and one for the whole trace.
        hide_answer: whether places of the trace that state the answer are masked, too, as [`sample_posterior_traces`]
            does. A trace that ends in "so it is 65" has a score near 0 whatever comes before; without those places
            the score asks whether the rest leads there.
        batch_size: canvases of a forward.
        on_batch: called with the number of traces done since the last call.

    Returns:
        One [`TraceScore`] a trace. Probabilities are those of decoding at temperature 1: the mask token has none.

    Raises:
        ValueError: naming the argument, before any forward.
    """
    check_pair(model, tokenizer)
    check_scoring(estimator, num_cuts, every, batch_size)
    mask_token_id = mask_token_of(model)
    options: dict[str, Any] = {"mask_token_id": mask_token_id, "chat": chat, **(chat_template_kwargs or {})}
    check_lengths(questions, answers=answers, traces=traces)
    filled = [
        fill_template(tokenizer, questions[rows], answers[rows], template, traces=traces[rows], **options)
        for rows in chunks(len(questions), batch_size)
    ]
    check_room(model, filled)
    scores: list[TraceScore] = []
    for part in filled:
        scores += score_filled(
            model,
            part,
            estimator=estimator,
            num_cuts=num_cuts,
            every=every,
            hide_answer=hide_answer,
            batch_size=batch_size,
        )
        if on_batch is not None:
            on_batch(len(part.input_ids))
    return scores


@in_evaluation_mode
@torch.no_grad()
def score_filled(
    model: PreTrainedModel,
    filled: FilledTemplate,
    *,
    estimator: Estimator = "left_to_right",
    num_cuts: int = 4,
    every: int | None = None,
    hide_answer: bool = False,
    batch_size: int = 32,
) -> list[TraceScore]:
    """[`score_traces`] of templates that are filled in already, as ids."""
    mask_token_id = mask_token_of(model)
    predictor = Predictor(model, PredictorSettings(mask_token_id))
    device = find_device(model)
    filled = filled.to(device)
    if not hide_answer:
        filled = replace(filled, stated=torch.zeros_like(filled.stated))
    lengths = filled.num_reasoning.tolist()
    cuts = [find_cuts(length, num_cuts, every) for length in lengths]
    # An item is one canvas: row, tokens of reasoning it sees, tokens of the answer it sees.
    block = int(filled.reasoning[0].sum())
    items = []
    for row, (ends, num_answer) in enumerate(zip(cuts, filled.num_answer.tolist(), strict=True)):
        for number, end in enumerate(ends):
            seen = block if number == len(ends) - 1 else end  # the last sees what fills the block, too
            depth = range(num_answer) if estimator == "left_to_right" else range(1)
            items += [(row, number, seen, known) for known in depth]
    table = torch.tensor(items, device=device)  # [items, 4]
    totals = torch.zeros(len(cuts), max(map(len, cuts)), device=device)  # [B, C]
    for part in table.split(batch_size):
        row, number, seen, known = part.unbind(-1)
        value = _read_answers(predictor, filled, row, seen, known, estimator, mask_token_id)
        totals.index_put_((row, number), value, accumulate=True)
    broken = (~totals.isfinite()).any(-1).tolist()
    if True in broken:
        raise ValueError(
            f"`model` gives the answer of row {broken.index(True)} no finite score: its logits hold NaN or infinity. "
            "Look at its weights, or load it in another `dtype`."
        )
    found = [values[: len(ends)] for values, ends in zip(totals.tolist(), cuts, strict=True)]
    return [TraceScore(values[-1], values, ends) for values, ends in zip(found, cuts, strict=True)]


def _read_answers(
    predictor: Predictor,
    filled: FilledTemplate,
    row: torch.Tensor,
    seen: torch.Tensor,
    known: torch.Tensor,
    estimator: Estimator,
    mask_token_id: int,
) -> torch.Tensor:
    """Nats `(items,)` of the answer tokens that each canvas is asked for, in one forward."""
    ids, valid, reasoning, answer = (x[row] for x in (filled.input_ids, filled.valid, filled.reasoning, filled.answer))
    place_r, place_a = reasoning.cumsum(-1) - 1, answer.cumsum(-1) - 1  # within the block
    hidden = filled.stated[row] | (reasoning & (place_r >= seen[:, None])) | (answer & (place_a >= known[:, None]))
    if estimator == "left_to_right":
        read = answer & (place_a == known[:, None])
    else:
        read = answer & (place_a < filled.num_answer[row][:, None])
    canvas = build_canvas(ids.masked_fill(hidden, mask_token_id), valid, hidden, row, None)
    at = torch.nonzero(read, as_tuple=True)
    request = ForwardRequest(at, read, [0] * len(row), read.sum(-1).tolist())
    logits = predictor(canvas, request).float()
    logits[:, mask_token_id] = float("-inf")
    target = ids[at]
    nats = logits.gather(-1, target[:, None]).squeeze(-1) - logits.logsumexp(-1)
    return torch.zeros(len(row), device=nats.device).index_add(0, at[0], nats)


def find_cuts(length: int, num_cuts: int, every: int | None) -> list[int]:
    """Tokens of a trace of `length` that each of its scores sees, ascending; the last is all of it."""
    if every is not None:
        return [*range(0, length, every), length]
    return [round(length * part / num_cuts) for part in range(num_cuts + 1)]


def check_scoring(estimator: str, num_cuts: int, every: int | None, batch_size: int) -> None:
    """Raise `ValueError` for what cannot be scored."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"`estimator` must be one of {ESTIMATORS}, got {estimator!r}.")
    for name, value in (("num_cuts", num_cuts), ("every", every), ("batch_size", batch_size)):
        if (value is not None or name != "every") and (not isinstance(value, int) or value < 1):
            raise ValueError(f"`{name}` must be an integer of at least 1, got {value!r}.")


def mask_token_of(model: PreTrainedModel) -> int:
    """The model's mask token."""
    config, _ = resolve_config(model, None, {})
    return find_mask_token_id(model, config)


def check_room(model: PreTrainedModel, filled: Sequence[FilledTemplate]) -> None:
    """Raise `ValueError` if a row is longer than the model's positions."""
    longest = max(int(part.valid.sum(-1).max()) for part in filled)
    check_length(longest, position_limit(model), "The longest question with its template")


def chunks(num: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` of the `num` questions."""
    if not num:
        raise ValueError("`questions` must hold at least one question, got none.")
    for first in range(0, num, size):
        yield slice(first, min(first + size, num))


__all__ = ["ESTIMATORS", "Estimator", "TraceScore", "score_filled", "score_traces"]
