"""`max_denoising_steps` is the most forwards of a row, whatever else is on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_latent.generation.commit.rules import RULES

MASK = 47
PAIR = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
RESTLESS = {"latent_refinement": True, "refinement_ratio": 0.9, "refinement_kl": 0.0, "stop_kl": 0.0}
EXTRAS: dict[str, dict[str, Any]] = {
    "alone": {},
    "refined": RESTLESS,
    "refined twice a block": RESTLESS | {"refinement_steps": 2},
    "refined, prefix": RESTLESS | {"block_cache": "prefix"},
    "dual": {"block_cache": "dual", "cache_refresh_interval": 1},
    "appended": {"append_blocks": True},
    "refined, appended": RESTLESS | {"append_blocks": True},
    "guided, deferring": {"cfg_scale": 1.0, "deferred_tokens": [3, 4, 5]},
    "refined, by Dream's schedule": RESTLESS | {"denoising_schedule": "dream"},
}


@pytest.mark.parametrize("extra", EXTRAS)
@given(data=st.data())
@settings(max_examples=12)
def test_no_row_takes_more_forwards(llada: Any, extra: str, data: st.DataObject) -> None:
    """Up to 20 forwards a block that only refine came on top of them; and all that is to be written is written."""
    decoding = data.draw(st.sampled_from(list(RULES)), "decoding")
    block_length = data.draw(st.integers(2, 6), "block_length")
    steps = data.draw(st.integers(-(-12 // block_length), 14), "steps")
    out = llada.generate(
        PAIR,
        max_new_tokens=12,
        block_length=block_length,
        max_denoising_steps=steps,
        decoding=decoding,
        eos_token_id=None,
        temperature=data.draw(st.sampled_from([0.0, 1.0]), "temperature"),
        max_tokens_per_step=data.draw(st.none() | st.integers(1, 2), "max_tokens_per_step"),
        seed=0,
        return_dict_in_generate=True,
        **EXTRAS[extra],
    )
    assert out.num_forward_passes.max() <= steps
    assert MASK not in out.sequences


@pytest.mark.parametrize("steps", [2, 3, 5])
def test_an_answer_and_an_early_exit_stay_within_it(llada: Any, steps: int) -> None:
    ids = torch.tensor([[1, MASK, MASK, MASK, 2, MASK, MASK]])
    answer = torch.tensor([[0, 0, 0, 0, 0, 1, 1]])
    for threshold in (None, 1e-9):
        out = llada.generate(
            ids,
            answer_mask=answer,
            early_exit_threshold=threshold,
            max_denoising_steps=steps,
            return_dict_in_generate=True,
            **RESTLESS,
        )
        assert out.num_forward_passes.item() <= steps and MASK not in out.sequences


@pytest.mark.parametrize("decoding", RULES)
@pytest.mark.parametrize("extra", [{}, RESTLESS])
def test_few_candidates_are_no_reason_for_more(
    make_latent_token: Callable[..., Any], decoding: str, extra: dict[str, Any]
) -> None:
    """A quota above the number of candidates left masks behind the schedule's end, which took further forwards."""
    model = make_latent_token("any")
    for steps in (2, 3, 7):
        knobs = {"num_candidates": 1, "max_denoising_steps": steps, "decoding": decoding, "seed": 1, **extra}
        out = model.generate(
            PAIR, max_new_tokens=9, block_length=5, eos_token_id=None, return_dict_in_generate=True, **knobs
        )
        assert out.num_forward_passes.max() <= steps and 63 not in out.sequences


def test_what_refines_is_taken_from_the_schedule(llada: Any) -> None:
    """Of 6 forwards for 8 tokens 2 refine: the tokens come 2 at each of the 4 others."""
    knobs = RESTLESS | {"refinement_steps": 2, "decoding": "low_confidence", "eos_token_id": None}
    out = llada.generate(PAIR, max_new_tokens=8, max_denoising_steps=6, return_dict_in_generate=True, **knobs)
    assert out.num_forward_passes.tolist() == [6, 6] and out.num_refinement_passes.tolist() == [2, 2]
    assert out.commit_step[:, 4:].sort().values.tolist() == [[2, 2, 3, 3, 4, 4, 5, 5]] * 2


def test_a_single_forward_commits(llada: Any) -> None:
    out = llada.generate(PAIR, max_new_tokens=8, max_denoising_steps=1, return_dict_in_generate=True, **RESTLESS)
    assert out.num_forward_passes.tolist() == [1, 1] and out.num_refinement_passes is not None
    assert out.num_refinement_passes.tolist() == [0, 0]
