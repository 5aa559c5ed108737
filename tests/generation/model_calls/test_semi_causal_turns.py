"""Rows of a semi-causal batch are their own, and what a turn has cached is exact in the next."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from hf_latent.generation.arguments.cache_argument import CACHE_NAME
from hf_latent.generation.model_calls.semi_causal_masks import NOT_IN_STREAM, canvas_visibility

MASK, EOS, PAD = 63, 61, 62
KNOBS: dict[str, Any] = {"pad_token_id": PAD, "return_dict_in_generate": True}
RULES: list[dict[str, Any]] = [
    {"decoding": "low_confidence", "max_denoising_steps": 5},
    {"decoding": "entropy"},
    {"decoding": "margin"},
    {"decoding": "random", "max_denoising_steps": 4, "denoising_schedule": "dream"},
    {"decoding": "left_to_right"},
    {"decoding": "confidence_threshold", "confidence_threshold": 0.4},
    {"decoding": "entropy_bound", "entropy_bound": 1.0},
    {"decoding": "med", "entropy_threshold": 2.0, "max_tokens_per_step": 3},
    {"decoding": "med_left_to_right", "entropy_threshold": 2.0},
]


@pytest.fixture(scope="module")
def model(make_latent_token: Callable[..., Any]) -> Any:
    """In float64: a row computed in another batch shape differs in float32 by what may tip a rule."""
    return make_latent_token("any", num_hidden_layers=1).double()


@settings(max_examples=15)
@given(data=st.data())
def test_a_row_is_written_alike_alone_in_a_batch_and_padded(
    check_rows_alone: Callable, model: Any, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=6), min_size=2, max_size=3), "rows")
    number = data.draw(st.integers(1, 8), "new tokens")
    knobs = KNOBS | data.draw(st.sampled_from(RULES), "rule")
    knobs |= {
        "max_new_tokens": number,
        "num_latent_tokens": data.draw(st.integers(0, 4), "latent"),
        "num_candidates": data.draw(st.sampled_from([None, 1, 3]), "candidates"),
        "temperature": data.draw(st.sampled_from([0.0, 1.0]), "temperature"),
        "block_length": data.draw(st.sampled_from([None, number, 4]), "block"),
        "latent_refinement": data.draw(st.booleans(), "refinement"),
        "refinement_steps": 2,
        "seed": data.draw(st.integers(0, 3), "seed"),
    }
    if knobs["block_length"] == 4:
        knobs["max_denoising_steps"] = None
    check_rows_alone(model, rows, PAD, **knobs)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["decoding"])
@pytest.mark.parametrize("refines", [False, True])
def test_reasoning_with_an_answer_exits_early(rule: dict[str, Any], refines: bool, model: Any) -> None:
    """The answer is predicted at every forward, also where it is no candidate; rows exit by themselves."""
    rows = [[5, 6, 7, *[MASK] * 6, 9, MASK, MASK], [8, 4, 3, *[MASK] * 6, 9, MASK, MASK]]
    answer = torch.zeros(2, 12, dtype=torch.bool)
    answer[:, 10:] = True
    knobs = KNOBS | rule | {"num_latent_tokens": 2, "num_candidates": 2, "latent_refinement": refines, "seed": 1}
    if rule["decoding"] == "random":
        knobs["max_denoising_steps"] = 6
    out = model.generate(torch.tensor(rows), answer_mask=answer, early_exit_threshold=1e9, **knobs)
    assert (out.exit_step == 0).all() and (out.sequences != MASK).all() and (out.num_forward_passes == 1).all()
    full = model.generate(torch.tensor(rows), answer_mask=answer, **knobs)
    assert (full.exit_step == -1).all() and (full.commit_step[:, 3:9] >= 0).all() and full.answer_entropy is not None
    for i, row in enumerate(rows):
        alone = model.generate(torch.tensor([row]), answer_mask=answer[i : i + 1], row_indices=[i], **knobs)
        assert torch.equal(alone.sequences[0], full.sequences[i])


def test_seeds_and_copies(model: Any) -> None:
    knobs = KNOBS | {"max_new_tokens": 6, "temperature": 1.5, "num_latent_tokens": 1, "seed": 5}
    ids = torch.tensor([[5, 6, 7]])
    three = model.generate(ids, num_return_sequences=3, **knobs).sequences
    assert torch.equal(model.generate(ids, num_return_sequences=3, **knobs).sequences, three)
    assert len({tuple(row) for row in three.tolist()}) == 3
    assert torch.equal(model.generate(ids, row_indices=[2], **knobs).sequences[0], three[2])
    assert not torch.equal(model.generate(ids, **knobs | {"seed": 6}).sequences[0], three[0])


# Turns


def full_forward_states(model: Any, ids: torch.Tensor, past: Any) -> torch.Tensor:
    """Keys `(B, H, L, D)` of the first layer but one, of one forward of the text in the order of writing."""
    cached = past.order < NOT_IN_STREAM
    cache = DynamicCache()
    clean = torch.where(cached, ids, MASK)
    with torch.no_grad():
        seen = canvas_visibility(cached, ~cached, past.order, torch.zeros_like(ids), past.position_ids)
        columns = torch.arange(ids.shape[1])[None]
        model.model(
            clean,
            attention_mask=model.semi_causal_masks()(seen, seen, columns, model.dtype),
            position_ids=past.position_ids,
            **{CACHE_NAME: cache},
            use_cache=True,
        )
    return torch.cat([torch.cat([layer.keys, layer.values], -1) for layer in cache.layers], -1)


def check_past(model: Any, out: Any) -> None:
    """What is cached is what one forward of the text gives, in the order it was written in."""
    past = out.past_key_values
    assert torch.equal(past.ids, out.sequences) and past.get_seq_length() == out.sequences.shape[1]
    found = torch.cat([torch.cat([keys, values], -1) for keys, values in past.layers], -1)
    cached = past.order < NOT_IN_STREAM
    expected = full_forward_states(model, out.sequences, past)
    for row in range(len(cached)):
        index_in_window = past.order[row][cached[row]].tolist()
        assert sorted(index_in_window) == list(range(len(index_in_window)))
        torch.testing.assert_close(
            found[row][:, cached[row]], expected[row][:, cached[row]], atol=1e-5, rtol=1e-5, check_dtype=False
        )


@pytest.mark.parametrize("decoding", ["low_confidence", "random", "left_to_right"])
def test_a_second_turn_goes_on_from_the_cache_of_the_first(
    padded: Callable, decoding: str, make_latent_token: Callable[..., Any]
) -> None:
    model = make_latent_token("any").double()
    ids, mask = padded([[5, 9, 2, 30], [11, 12]], "left", PAD)
    knobs = KNOBS | {"decoding": decoding, "seed": 2, "num_latent_tokens": 1, "eos_token_id": None}
    first = model.generate(ids, attention_mask=mask, max_new_tokens=5, **knobs)
    check_past(model, first)
    # All but padding and the tokens of the last step are cached.
    assert ((first.past_key_values.order == NOT_IN_STREAM).sum(-1) == torch.tensor([1, 3])).all()
    text = torch.cat([first.sequences, torch.tensor([[3, 4], [6, 7]])], dim=1)
    mask = torch.cat([mask, torch.ones(2, 7, dtype=torch.long)], dim=1)
    before = [[x.clone() for x in states] for states in first.past_key_values.layers]
    widths: list[int] = []
    few = knobs | {"num_candidates": 1}
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    on = [
        model.generate(text, attention_mask=mask, past_key_values=first.past_key_values, max_new_tokens=4, **few)
        for _ in range(2)  # the cache is not used up
    ]
    hook.remove()
    assert widths[0] == 1 + 2 + 1, "the token of the last step, the two new ones, a candidate"
    assert torch.equal(on[0].sequences, on[1].sequences)
    check_past(model, on[0])
    for states, earlier in zip(first.past_key_values.layers, before, strict=True):
        assert all(torch.equal(mine, was) for mine, was in zip(states, earlier, strict=True))
    alone = model.generate(
        text[1:],
        attention_mask=mask[1:],
        max_new_tokens=4,
        num_candidates=1,
        row_indices=[1],
        past_key_values=model.generate(
            ids[1:], attention_mask=mask[1:, :4], max_new_tokens=5, row_indices=[1], **knobs
        ).past_key_values,
        **knobs,
    )
    assert torch.equal(alone.sequences[0], on[0].sequences[1])


@pytest.mark.parametrize("name", ["past_key_values", "cache"])  # since transformers 5.24 the second
def test_left_to_right_turns_write_what_one_prompt_does(model: Any, name: str) -> None:
    """There the order of writing is that of a prompt: with the cache or without, the text goes on alike."""
    ids = torch.tensor([[5, 9, 2], [4, 7, 8]])
    knobs = KNOBS | {"decoding": "left_to_right", "num_candidates": None, "eos_token_id": None}
    first = model.generate(ids, max_new_tokens=5, **knobs)
    on = model.generate(first.sequences, **{name: getattr(first, name)}, max_new_tokens=4, **knobs)
    assert torch.equal(on.sequences, model.generate(first.sequences, max_new_tokens=4, **knobs).sequences)


@pytest.mark.parametrize("seed", range(6))
def test_what_a_rows_end_cuts_off_is_not_in_the_cache(seed: int, model: Any) -> None:
    """Tokens behind an end-of-sequence token that were written before it are no text; what saw them is read anew."""
    ids = torch.tensor([[5, 9, 2], [4, 7, 8]])
    knobs = KNOBS | {"decoding": "random", "seed": seed, "max_new_tokens": 8}
    free = model.generate(ids, eos_token_id=None, **knobs).sequences
    eos = int(free[0, 5])
    out = model.generate(ids, eos_token_id=eos, **knobs)
    check_past(model, out)
    text = torch.cat([out.sequences, torch.tensor([[3], [6]])], dim=1)
    on = model.generate(
        text, attention_mask=torch.ones_like(text), past_key_values=out.past_key_values, eos_token_id=None, **knobs
    )
    check_past(model, on)


def test_a_row_with_nothing_to_write_leaves_an_empty_cache(model: Any) -> None:
    """It left the batch before there was a layer to keep."""
    out = model.infill(torch.tensor([[5, 6, 7], [5, MASK, 7]]), eos_token_id=None, **KNOBS)
    check_past(model, out)
    assert (out.past_key_values.order[0] == NOT_IN_STREAM).all() and (
        out.past_key_values.order[1] < NOT_IN_STREAM
    ).any()


# Refusals


def test_other_text_with_a_cache_is_refused(padded: Callable, model: Any) -> None:
    ids, mask = padded([[5, 9, 2], [11, 12]], "left", PAD)
    out = model.generate(ids, attention_mask=mask, max_new_tokens=3, eos_token_id=None, **KNOBS)
    whole = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], dim=1)
    changed = out.sequences.clone()
    changed[0, 1] += 1
    for text, attention_mask in (
        (changed, whole),
        (out.sequences, torch.ones_like(whole)),  # padding became text: every position moves
        (out.sequences[:1], whole[:1]),
        (out.sequences[:, :4], whole[:, :4]),
    ):
        with pytest.raises(ValueError, match=r"`past_key_values` must be those of the first tokens of `input_ids`"):
            model.generate(
                text, attention_mask=attention_mask, past_key_values=out.past_key_values, max_new_tokens=2, **KNOBS
            )
    with pytest.raises(ValueError, match=r"`past_key_values` must be what `generate` .* got DynamicCache"):
        model.generate(ids, attention_mask=mask, past_key_values=DynamicCache(), max_new_tokens=2)


def test_approximate_caches_and_guidance_are_refused(model: Any) -> None:
    for knobs, message in (
        ({"cfg_scale": 1.0}, "`cfg_scale` must be left out for a semi-causal model.*got 1.0"),
        ({"block_cache": "dual"}, "`block_cache` must be left out for a semi-causal model.*got 'dual'"),
        ({"num_latent_tokens": -1}, "`num_latent_tokens` must be .*got -1"),
        ({"num_candidates": 0}, "`num_candidates` must be .*got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(torch.tensor([[5, 6]]), max_new_tokens=4, **knobs)


@pytest.mark.parametrize("name", ["num_latent_tokens", "num_candidates"])
def test_models_that_read_everything_have_no_latent_tokens_to_count(name: str, llada: Any) -> None:
    with pytest.raises(ValueError, match=f"`{name}` is for semi-causal models; in LladaForMaskedDiffusion"):
        llada.generate(torch.tensor([[5, 6]]), max_new_tokens=4, **{name: 2})
