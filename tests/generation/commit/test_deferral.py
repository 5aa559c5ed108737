"""What counts as nothing, for every rule: deferred tokens come last and never along, suppressed ones not at all."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_latent.generation.commit.rules import RULES, RuleInputs, choose_eligible, defer

MASK, EOS = 47, 45
INF = float("inf")
PROMPTS = torch.tensor([[1, 2, 3], [9, 8, 7]])
HOLES = torch.tensor([[MASK, MASK, 3, MASK, MASK, 5], [MASK, 2, MASK, MASK, 5, MASK]])
UNBOUNDED = {"confidence_threshold": 0.0, "entropy_bound": INF, "entropy_threshold": INF}


@pytest.mark.parametrize("masked", [[True, True, True], [False, True, True]])
def test_an_infinite_entropy_is_in_no_prefix(masked: list[bool]) -> None:
    """It was, as the first of the infinite ones, unless a written position stood to its left."""
    inputs = RuleInputs(torch.tensor([masked]), torch.tensor([[0.1, 0.2, INF]]), 9.0)
    score, eligible = RULES["entropy_bound"].decide(inputs)
    chosen = choose_eligible(score, eligible, inputs.masked)[0].tolist()
    assert chosen == [masked[0], True, False]


@pytest.mark.parametrize("decoding", RULES)
def test_what_is_deferred_comes_last_and_alone(decoding: str) -> None:
    masked = torch.ones(1, 4, dtype=torch.bool)
    deferred = torch.tensor([[True, False, True, False]])
    statistic = torch.tensor([[0.1, 0.2, 0.1, 0.3]])
    threshold = UNBOUNDED.get(RULES[decoding].knob or "")
    score, eligible = defer(*RULES[decoding].decide(RuleInputs(masked, statistic, threshold, masked)), deferred)
    assert not (eligible & deferred).any()
    assert choose_eligible(score, eligible, deferred).tolist() == [[True, False, False, False]]
    one = choose_eligible(score, torch.zeros_like(eligible), masked)
    assert one.sum() == 1 and not (one & deferred).any()


def check_steps(out: Any, deferred: set[int], before: torch.Tensor) -> None:
    """Of a run with one token a forward by schedule; rows that are done propose nothing any more."""
    for canvas, candidates in zip(out.history, out.candidate_history, strict=True):
        for row in range(len(canvas)):
            opened = [i for i in range(canvas.shape[1]) if before[row, i] == MASK and candidates[row, i] >= 0]
            written = [i for i in opened if canvas[row, i] != MASK]
            is_deferred = {i: int(candidates[row, i]) in deferred for i in opened}
            if any(is_deferred[i] for i in written):
                assert written == [i for i in opened if is_deferred[i]][:1], "alone, the left-most of its equals"
                assert all(is_deferred.values()), "when nothing else is open"
        before = canvas


@pytest.mark.parametrize("decoding", RULES)
@given(data=st.data())
@settings(max_examples=12)
def test_no_rule_commits_a_deferred_token_along(llada: Any, decoding: str, data: st.DataObject) -> None:
    """In place and behind prompts, sampled and greedy, with everything else that makes a token count as nothing."""
    likely = llada.generate(PROMPTS, max_new_tokens=8, eos_token_id=None)[:, 3:].flatten().tolist()
    deferred = data.draw(st.sets(st.sampled_from(sorted({*likely, EOS})), min_size=1), "deferred_tokens")
    suppressed = data.draw(st.sets(st.integers(0, 44), max_size=20), "suppress_tokens")
    infilling = data.draw(st.booleans(), "infilling")
    least = 0 if infilling else data.draw(st.integers(0, 6), "min_new_tokens")
    knobs: dict[str, Any] = {
        "decoding": decoding,
        "deferred_tokens": sorted(deferred),
        "suppress_tokens": sorted(suppressed) or None,
        "block_length": data.draw(st.none() | st.integers(2, 5), "block_length"),
        "temperature": data.draw(st.sampled_from([0.0, 1.0, 3.0]), "temperature"),
        "top_k": data.draw(st.none() | st.integers(1, 5), "top_k"),
        "eos_token_id": data.draw(st.sampled_from([None, EOS]), "eos_token_id"),
        "seed": data.draw(st.integers(0, 9), "seed"),
        "output_history": True,
        "return_dict_in_generate": True,
    } | (UNBOUNDED if data.draw(st.booleans(), "unbounded") else {})
    if infilling:
        before, out = HOLES, llada.infill(HOLES, **knobs)
    else:
        out = llada.generate(PROMPTS, max_new_tokens=8, min_new_tokens=least, **knobs)
        before = torch.cat([PROMPTS, torch.full((2, 8), MASK)], dim=1)
    check_steps(out, deferred, before)
    written = out.sequences[before == MASK].tolist()
    fills = {46, EOS}  # behind a row's end
    assert not suppressed & (set(written) - fills) and MASK not in written
    if least:
        assert not (out.sequences[:, 3 : 3 + least] == EOS).any()


def test_a_schedule_commits_them_only_when_it_has_to(llada: Any) -> None:
    """Its quota is met, first by all others."""
    first = int(llada.generate(PROMPTS[:1], max_new_tokens=1)[0, 3])
    out = llada.generate(
        PROMPTS[:1],
        max_new_tokens=8,
        max_denoising_steps=4,
        deferred_tokens=[first],
        decoding="random",
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    assert out.commit_step[0, 3:].sort().values.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
