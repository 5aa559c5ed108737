"""Scores equal what one forward a token gives, are probabilities, and do not depend on the batch."""

import math

import pytest
import torch

from hf_latent import ReasoningTemplate, score_traces
from hf_latent.data.traces.scoring import find_cuts

EOS, PAD, MASK = 9, 10, 11
QUESTIONS, TRACES, ANSWERS = ["w1 w2", "w3", "w5 w5 w0"], ["w0 w4 w1", "", "w2 w2 w2 w2"], ["w4", "w4 w5", "w2"]


def log_probability(model, ids: list[int], place: int, token: int) -> float:
    """Of `token` at `place`, by a forward of one row that computes everything; the mask is never written."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, place]
    logits[MASK] = float("-inf")
    return float(logits.log_softmax(-1)[token])


def by_hand(model, words, number: int, seen: int, estimator: str, hide: bool) -> float:
    """The definition, token by token. `seen` of the four reasoning positions are given."""
    question, trace = (words(text)["input_ids"] for text in (QUESTIONS[number], TRACES[number]))
    answer = words(ANSWERS[number])["input_ids"]
    block = [*answer, EOS][:2]
    shown = trace + [EOS] * (4 - len(trace))
    if hide and len(answer) == 1:
        shown = [MASK if token == answer[0] else token for token in shown]
    shown = shown[:seen] + [MASK] * (4 - seen)
    begin = len(question) + 4 + 2
    total = 0.0
    for j, token in enumerate(block):
        known = block[:j] if estimator == "left_to_right" else []
        ids = [*question, *shown, 7, 8, *known, *[MASK] * (2 - len(known)), 6]
        total += log_probability(model, ids, begin + j, token)
    return total


@pytest.mark.parametrize("hide", [False, True])
@pytest.mark.parametrize("estimator", ["left_to_right", "marginals"])
def test_a_score_is_its_definition(tiny, words, layout, estimator, hide):
    """Three rows of unequal length at once, any batch size, against one forward a token."""
    for batch_size in (1, 2, 7):
        scores = score_traces(
            tiny,
            words,
            QUESTIONS,
            TRACES,
            ANSWERS,
            layout,
            estimator=estimator,
            num_cuts=2,
            hide_answer=hide,
            batch_size=batch_size,
        )
        assert [score.cuts for score in scores] == [[0, 2, 3], [0, 0, 0], [0, 2, 4]]
        for number, score in enumerate(scores):
            seen = [*score.cuts[:-1], 4]  # the last sees what fills the block, too
            expected = [by_hand(tiny, words, number, t, estimator, hide) for t in seen]
            assert score.scores == pytest.approx(expected, abs=1e-5)
            assert score.score == score.scores[-1]


def test_left_to_right_is_a_distribution_over_answers(tiny, words):
    """The probabilities of all answers and of none sum to 1; an answer whose end is left out would exceed it."""
    template = ReasoningTemplate(2, 2, delimiter="w7")
    usable = [f"w{i}" for i in range(9)]
    answers = [*usable, *(f"{a} {b}" for a in usable for b in usable)]
    scores = score_traces(tiny, words, ["w1"] * 90, ["w2"] * 90, answers, template, num_cuts=1, batch_size=64)
    ids = [1, 2, EOS, 7, MASK, MASK]
    # Blocks that are no answer: those that begin with a special token, and a word before padding.
    none = sum(math.exp(log_probability(tiny, ids, 4, token)) for token in (EOS, PAD))
    none += sum(
        math.exp(log_probability(tiny, ids, 4, word) + log_probability(tiny, [1, 2, EOS, 7, word, MASK], 5, PAD))
        for word in range(9)
    )
    assert sum(math.exp(score.score) for score in scores) + none == pytest.approx(1, abs=1e-5)


def test_cuts_reach_from_nothing_to_everything():
    assert find_cuts(10, 4, None) == [0, 2, 5, 8, 10]
    assert find_cuts(10, 1, None) == [0, 10]
    assert find_cuts(10, 4, 4) == [0, 4, 8, 10]
    assert find_cuts(8, 4, 4) == [0, 4, 8]
    assert find_cuts(0, 4, 4) == [0]


def test_progress_is_told(tiny, words, layout):
    done = []
    score_traces(tiny, words, QUESTIONS, TRACES, ANSWERS, layout, batch_size=2, on_batch=done.append)
    assert done == [2, 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "sum"}, r"`estimator` must be one of .*, got 'sum'"),
        ({"num_cuts": 0}, "`num_cuts` must be an integer of at least 1, got 0"),
        ({"every": 0}, "`every` must be an integer of at least 1, got 0"),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, got 0"),
        ({"template": ReasoningTemplate(30, 2)}, r"is 3\d tokens, more than the model's `max_position_embeddings`"),
        ({"traces": ["w1"]}, "`traces` must be one a question, a list of 3, got 1"),
    ],
)
def test_misuse_is_refused_before_any_forward(tiny, words, layout, monkeypatch, changes, message):
    def forward(*args, **kwargs):
        raise AssertionError("called")

    monkeypatch.setattr(tiny, "forward", forward)
    template, traces = changes.pop("template", layout), changes.pop("traces", TRACES)
    with pytest.raises(ValueError, match=message):
        score_traces(tiny, words, QUESTIONS, traces, ANSWERS, template, **changes)
