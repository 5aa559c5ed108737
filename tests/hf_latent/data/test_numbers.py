"""Whoever computes a setting has numpy's number: it is that number, for templates, traces and likelihoods."""

from typing import Any

import numpy as np
import pytest
import torch

from hf_latent import ReasoningTemplate, sample_posterior_traces, score_traces
from hf_latent.data.numbers import as_number
from hf_latent.evaluation import log_likelihood


def test_numbers_of_any_library_are_numbers() -> None:
    numbers = np.int64(3), np.float32(0.5), np.array(3), torch.tensor(3), np.bool_(True)
    assert [(as_number(n), type(as_number(n))) for n in numbers] == [
        (3, int),
        (0.5, float),
        (3, int),
        (3, int),
        (True, bool),
    ]
    ids = torch.tensor([3])
    assert as_number(ids) is ids and as_number("3") == "3" and as_number(None) is None


def traces(model: Any, words: Any, one: type) -> list[dict[str, Any]]:
    template = ReasoningTemplate(reasoning_length=one(4), answer_length=one(2), delimiter="w7 w8", suffix="w6")
    knobs = {"num_traces": one(2), "seed": one(3), "num_cuts": one(2), "batch_size": one(2), "decoding": "random"}
    return sample_posterior_traces(model, words, ["w1 w2"], ["w4"], template, **knobs).to_list()


def scores(model: Any, words: Any, one: type) -> list[float]:
    template = ReasoningTemplate(one(4), one(2), delimiter="w7 w8", suffix="w6")
    options = {"num_cuts": one(2), "batch_size": one(1)}
    return score_traces(model, words, ["w1 w2"], ["w3 w3"], ["w4"], template, **options)[0].scores


def likelihoods(model: Any, words: Any, one: type) -> Any:
    return log_likelihood(model, words, ["w1 w2"], ["w3 w4"], num_samples=one(2), batch_size=one(1), seed=one(1))


@pytest.mark.parametrize("measure", [traces, scores, likelihoods])
def test_a_number_of_numpy_is_the_number_it_is(measure: Any, tiny: Any, words: Any) -> None:
    assert str(measure(tiny, words, np.int64)) == str(measure(tiny, words, int))
