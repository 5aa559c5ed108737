"""KLASS (arXiv 2511.05664): against a sampler in plain Python, and what it promises."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_latent.generation.commit.rules import RULES, RuleInputs, choose_eligible

MASK, PAD = 47, 46
PLAIN: dict[str, Any] = {"decoding": "klass", "eos_token_id": None, "return_dict_in_generate": True}


def decode_plainly(
    model: torch.nn.Module,
    prompt: list[int],
    num_blocks: int,
    block_length: int,
    threshold: float,
    limit: float,
    num_stable: int,
    most: int,
) -> tuple[list[int], list[int], float]:
    """Ids, the forward that wrote each, the smallest gap of a decision; one row, one position at a time."""
    ids, gap, calls = prompt + [MASK] * (num_blocks * block_length), math.inf, 0
    commit_step = [-1] * len(ids)
    for block in range(num_blocks):
        first = len(prompt) + block * block_length
        beliefs: dict[int, list[torch.Tensor]] = {i: [] for i in range(first, first + block_length)}
        while left := [i for i in beliefs if ids[i] == MASK]:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].double()
            logits[:, MASK] = -math.inf
            p, token, ready = {}, {}, []
            for i in left:
                beliefs[i].append(logits[i].softmax(-1))
                best = beliefs[i][-1].topk(2)
                p[i], token[i] = float(best[0][0]), int(best[1][0])
                gap = min(gap, float(best[0][0] - best[0][1]), abs(p[i] - threshold))
                history = beliefs[i][-num_stable - 1 :]
                moves = [
                    float(sum(x * math.log(x / y) for x, y in zip(new.tolist(), old.tolist(), strict=True) if x > 0))
                    for old, new in pairwise(history)
                ]
                gap = min([gap, *(abs(move - limit) for move in moves)])
                if p[i] > threshold and len(moves) == num_stable and all(move < limit for move in moves):
                    ready.append(i)
            order = sorted(ready or left, key=lambda i: (-p[i], i))
            gap = min([gap, *(p[a] - p[b] for a, b in pairwise(order))])
            for i in order[:most] if ready else order[:1]:
                ids[i], commit_step[i] = token[i], calls
            calls += 1
    return ids, commit_step, gap


@given(
    prompt=st.lists(st.integers(0, 44), min_size=1, max_size=5),
    shape=st.sampled_from([(1, 8), (2, 4), (3, 3)]),
    threshold=st.sampled_from([0.0, 0.3, 0.6]),
    limit=st.sampled_from([0.05, 0.5, 3.0]),
    num_stable=st.integers(1, 3),
    most=st.sampled_from([2, 99]),
)
@settings(max_examples=25)
def test_agrees_with_a_sampler_in_plain_python(
    model: torch.nn.Module,
    write_blocks: Callable,
    prompt: list[int],
    shape: tuple[int, int],
    threshold: float,
    limit: float,
    num_stable: int,
    most: int,
) -> None:
    """Ids, order and forwards; beliefs of an earlier block are no history of the next."""
    ids, commit_step, gap = decode_plainly(model, prompt, *shape, threshold, limit, num_stable, most)
    assume(gap > 1e-5)  # float32 statistics against float64
    rule = {
        "decoding": "klass",
        "confidence_threshold": threshold,
        "stability_kl": limit,
        "stability_steps": num_stable,
    }
    out = write_blocks(model, prompt, shape, **rule, max_tokens_per_step=most)
    assert out.sequences[0].tolist() == ids
    assert out.commit_step[0].tolist() == commit_step
    assert out.num_forward_passes.tolist() == [max(commit_step) + 1]


def test_the_settings_above_write_several_and_not_all(model: torch.nn.Module) -> None:
    """Else the property would prove little."""
    kinds = set()
    for limit, threshold in ((0.05, 0.6), (0.5, 0.3), (3.0, 0.0)):
        knobs = {"stability_kl": limit, "stability_steps": 1, "confidence_threshold": threshold}
        out = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=12, **knobs, **PLAIN)
        kinds.add(int(out.num_forward_passes))
    assert len(kinds) > 1 and 1 < min(kinds) < max(kinds) < 12


@pytest.mark.parametrize("off", [{"stability_kl": 0.0}, {"confidence_threshold": 1.0}, {"stability_steps": 99}])
def test_what_nothing_meets_is_one_token_a_forward(model: torch.nn.Module, off: dict) -> None:
    """To the bit what `low_confidence` writes, with its entropies."""
    knobs = {"max_new_tokens": 9, "block_length": 4, "confidence_threshold": 0.0, "stability_kl": math.inf} | off
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    plain = {"max_new_tokens": 9, "block_length": 4, "denoising_schedule": "uniform"}
    one = model.generate(ids, **PLAIN | plain | {"decoding": "low_confidence"})
    out = model.generate(ids, **knobs, **PLAIN)
    for name in ("sequences", "commit_step", "num_forward_passes"):
        assert torch.equal(getattr(out, name), getattr(one, name))
    assert torch.equal(out.commit_entropy.nan_to_num(-1), one.commit_entropy.nan_to_num(-1))


def test_a_sure_position_that_still_moves_waits_for_one_that_is_ready() -> None:
    """The most confident one goes only where nothing is ready, and behind a ready one under a ceiling and a floor."""
    statistic = torch.tensor([[0.5, 3.0, 1.0, -1.0]] * 2)
    stable = torch.tensor([[True, False, True, True], [False, False, False, True]])
    masked = torch.ones(2, 4, dtype=torch.bool)
    score, eligible = RULES["klass"].decide(RuleInputs(masked, statistic, 0.5, stable))
    assert choose_eligible(score, eligible, masked).int().tolist() == [[1, 0, 1, 0], [0, 1, 0, 0]]
    assert score.argsort(-1, descending=True).tolist() == [[2, 0, 1, 3], [1, 2, 0, 3]]


@pytest.mark.parametrize(
    "extra",
    [
        {"latent_refinement": True, "refinement_steps": 2, "refinement_kl": 0.0},
        {"temperature": 1.0, "top_k": 5, "seed": 2},
        {"block_cache": "dual"},
        {"editing_threshold": 0.4, "max_post_steps": 2},
    ],
)
def test_rows_are_what_they_are_alone(
    model: torch.nn.Module, check_rows_alone: Callable, extra: dict[str, Any]
) -> None:
    knobs = PLAIN | extra | {"max_new_tokens": 6, "block_length": 3, "confidence_threshold": 0.3}
    check_rows_alone(
        model, [[1, 2, 3], [4], [5, 6, 7, 8]], PAD, stability_kl=0.5, stability_steps=1, denoising_schedule="uniform",
        **knobs,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [("stability_kl", -0.1), ("stability_kl", "x"), ("stability_steps", 0)])
def test_an_impossible_knob_is_refused_by_name(llada: torch.nn.Module, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be .*{value}"):
        llada.generate(torch.tensor([[1]]), max_new_tokens=2, **{name: value})
