"""
Scores of which no token can be chosen are told by row, position and cause: by every decoder, before they are text.

A token that is nan's argmax is as good as any, so the text of a model with a broken weight, of a float16 overflow or
of settings that contradict each other looked like text.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from hf_latent.generation.beliefs.score_check import FiniteScoresLogitsProcessor, StopAtInvalidScores
from hf_latent.generation.commit.rules import RULES

MASK = 47
PAIR = torch.tensor([[1, 2, 3], [4, 5, 6]])
GIVEN = torch.tensor([[1, MASK, MASK, 2, MASK, MASK], [1, MASK, MASK, 2, MASK, MASK]])
ANSWER = torch.tensor([[0, 0, 0, 0, 1, 1], [0, 0, 0, 0, 1, 1]])
EXTRAS: dict[str, dict[str, Any]] = {
    "alone": {},
    "refined": {"latent_refinement": True},
    "guided": {"cfg_scale": 1.0},
    "prefix": {"block_cache": "prefix"},
    "dual": {"block_cache": "dual"},
    "appended": {"append_blocks": True},
    "filtered": {"top_k": 5, "top_p": 0.9},
    "penalized": {"repetition_penalty": 1.3},
    "deferring": {"deferred_tokens": [3, 5]},
    "with statistics": {"return_dict_in_generate": True, "output_history": True},
}


class ForbidBehind(LogitsProcessor):
    """Leaves nothing in row 1, whose first token is 4, at its last position."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        last = (input_ids[:, 0] == 4) & ((input_ids == MASK).sum(-1) == 1)
        return scores.masked_fill(last[:, None], float("-inf"))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("decoding", RULES)
def test_every_rule_names_the_row_and_the_position(llada: Any, decoding: str, temperature: float) -> None:
    """Row 1 has one position left, whichever the rule leaves: the message names it."""
    knobs = {"decoding": decoding, "temperature": temperature, "max_new_tokens": 4, "eos_token_id": None, "seed": 3}
    one_by_one = {"max_tokens_per_step": 1} if RULES[decoding].adaptive else {}
    out = llada.generate(PAIR, return_dict_in_generate=True, **knobs, **one_by_one)
    last = int(out.commit_step[1].argmax())
    with pytest.raises(ValueError, match=rf"at row 1, position {last}: .*no token is left to write"):
        llada.generate(PAIR, logits_processor=LogitsProcessorList([ForbidBehind()]), **knobs, **one_by_one)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_weight_becomes_no_text(make_model: Callable, value: float, extra: str, temperature: float) -> None:
    model = make_model("llada")
    with torch.no_grad():
        model.lm_head.weight[3, 0] = value
    knobs = {"max_new_tokens": 4, "block_length": 2, "temperature": temperature, **EXTRAS[extra]}
    with pytest.raises(ValueError, match=r"No token has a finite score at row \d, position \d: the model"):
        model.generate(PAIR, **knobs)


def test_infill_and_early_exit_say_it_too(make_model: Callable) -> None:
    model = make_model("dream")
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(ValueError, match="at row 0, position 1: the model or a logits processor gives nan"):
        model.infill(GIVEN)
    with pytest.raises(ValueError, match="No token has a finite score at row 0"):
        model.generate(GIVEN, answer_mask=ANSWER, early_exit_threshold=0.5)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_semi_causal_model_says_it(make_latent_token: Callable[..., Any], temperature: float) -> None:
    model = make_latent_token("any")
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(ValueError, match="No token has a finite score at row 0"):
        model.generate(PAIR, max_new_tokens=4, num_candidates=2, temperature=temperature)


def test_half_precision_that_overflows_is_named(make_model: Callable) -> None:
    model = make_model("llada")
    with torch.no_grad():
        model.lm_head.weight.mul_(1e5)
    with pytest.raises(ValueError, match="overflow of the dtype"):
        model.half().generate(PAIR, max_new_tokens=4)


def test_a_nan_that_is_suppressed_changes_nothing(make_model: Callable) -> None:
    """What cannot be written may have any score."""
    model = make_model("llada")
    knobs = {"max_new_tokens": 4, "suppress_tokens": [3]}
    expected = model.generate(PAIR, **knobs)
    with torch.no_grad():
        model.lm_head.weight[3] = model.lm_head.weight[MASK] = float("nan")
    assert torch.equal(model.generate(PAIR, **knobs), expected)


def test_settings_that_contradict_each_other_are_refused_before_any_forward(
    llada: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llada, "forward", lambda *args, **kwargs: pytest.fail("a forward was run"))
    words = [token for token in range(47) if token != 45]
    with pytest.raises(ValueError, match=r"`suppress_tokens` leaves no .* `min_new_tokens`=2 forbids"):
        llada.generate(PAIR, max_new_tokens=4, suppress_tokens=words, min_new_tokens=2)


class Collect(BaseStreamer):
    def __init__(self) -> None:
        self.ids: list[int] = []

    def put(self, value: torch.Tensor) -> None:
        self.ids += value.flatten().tolist()

    def put_draft(self, value: torch.Tensor) -> None:
        assert set(value.flatten().tolist()) <= {MASK}

    def end(self) -> None:
        pass


def test_a_streamer_gets_nothing_of_it(make_model: Callable, make_latent_token: Callable[..., Any]) -> None:
    for model in (make_model("llada"), make_latent_token("left_to_right")):
        with torch.no_grad():
            model.lm_head.weight[3] = float("nan")
        streamer = Collect()
        with pytest.raises(ValueError, match="No token has a finite score at row 0, position 3"):
            model.generate(PAIR[:1], max_new_tokens=4, streamer=streamer)
        assert streamer.ids == [1, 2, 3]


# Models that write by transformers' own `generate`

CAUSAL: dict[str, dict[str, Any]] = {
    "plain": {"num_latent_tokens": 0},
    "looking ahead": {"num_latent_tokens": 2},
    "self-speculative": {"num_latent_tokens": 2, "self_speculative": True},
}


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("case", CAUSAL)
def test_a_causal_model_names_nan(make_latent_token: Callable[..., Any], case: str, do_sample: bool) -> None:
    """transformers takes nan's argmax; sampled, it dies of a RuntimeError or takes the device with it."""
    model = make_latent_token("left_to_right")
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(ValueError, match="No token has a finite score at row 0, position 3"):
        model.generate(PAIR, max_new_tokens=4, do_sample=do_sample, **CAUSAL[case])


class ForbidFrom(LogitsProcessor):
    """Leaves nothing in row 1 from text of 5 tokens on."""

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        if input_ids.shape[1] < 5:
            return scores
        return scores.masked_fill((input_ids[:, 0] == 4)[:, None], float("-inf"))


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("case", CAUSAL)
def test_a_causal_model_names_what_forbids(make_latent_token: Callable[..., Any], case: str, do_sample: bool) -> None:
    model = make_latent_token("left_to_right")
    knobs = {"max_new_tokens": 6, "eos_token_id": None, "pad_token_id": 62, "do_sample": do_sample} | CAUSAL[case]
    processors = LogitsProcessorList([ForbidFrom()])
    with pytest.raises(ValueError, match=r"at row 1, position 5: .*no token is left to write"):
        model.generate(PAIR, logits_processor=processors, **knobs)
    with pytest.raises(ValueError, match=r"at row 1, position 5: .*no token is left to write"):
        model.generate(PAIR, None, processors, **knobs)  # by position, as in transformers
    torch.manual_seed(0)
    expected = model.generate(PAIR[:1], **knobs)
    torch.manual_seed(0)
    assert torch.equal(model.generate(PAIR[:1], logits_processor=processors, **knobs), expected)


def test_a_row_that_is_over_may_have_no_score(make_latent_token: Callable[..., Any]) -> None:
    """A grammar leaves nothing behind the end of its text."""
    model = make_latent_token("left_to_right")
    free = model.generate(PAIR, max_new_tokens=6, eos_token_id=None, pad_token_id=62)
    end = int(free[1, 4])
    assert end != free[1, 3]
    knobs = {"max_new_tokens": 6, "eos_token_id": end, "pad_token_id": 62}
    out = model.generate(PAIR, logits_processor=LogitsProcessorList([ForbidFrom()]), **knobs)
    assert torch.equal(out, model.generate(PAIR, **knobs))


def test_beams_write_what_they_wrote(make_latent_token: Callable[..., Any]) -> None:
    model = make_latent_token("left_to_right")
    knobs = {"max_new_tokens": 4, "num_beams": 3, "suppress_tokens": list(range(10, 61))}
    assert model.generate(PAIR, **knobs).shape == (2, 7)
    with torch.no_grad():
        model.lm_head.weight[3] = float("nan")
    with pytest.raises(ValueError, match="No token has a finite score"):
        model.generate(PAIR, **knobs)


def test_on_a_device_the_run_ends_with_the_step() -> None:
    """There a look would be a sync of its own: the stopping criteria's end the run."""
    check = FiniteScoresLogitsProcessor()
    stop = StopAtInvalidScores(check)
    assert stop(PAIR, None).tolist() == [False, False]
    scores = torch.tensor([[0.0, 1.0], [float("nan"), 0.0]], device="cpu")
    with pytest.raises(ValueError, match="at row 1, position 3: the model or a logits processor gives nan"):
        check(PAIR, scores)
    assert stop(PAIR, None).tolist() == [True, True]
