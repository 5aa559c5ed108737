"""Block caches: the reference's cached logits, what is read again and when, and where nothing may change."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

from hf_latent import DiffusionGenerateOutput
from hf_latent.generation.arguments.cache_argument import CACHE_NAME
from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.model_calls.block_cache import BLOCK_CACHES, BlockCache
from hf_latent.generation.model_calls.predictor import Predictor, PredictorSettings

EOS, PAD, MASK = 45, 46, 47
KNOBS = {"confidence_threshold": 0.7, "entropy_threshold": 0.8, "entropy_bound": 0.6, "seed": 2}
KNOBS |= {"eos_token_id": None, "return_dict_in_generate": True}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("folder", ["llada-tiny", "llada-tiny-gqa", "dream-tiny"])
def test_cached_logits_of_the_reference_are_reproduced(fixtures_dir: Path, folder: str, attention: str) -> None:
    """A full forward fills the cache, then one token is written and a window is read (Dream's logits unshifted)."""
    model = AutoModelForCausalLM.from_pretrained(fixtures_dir / folder, attn_implementation=attention)
    recorded = load_file(fixtures_dir / folder / "expected_logits.safetensors")
    first, second = recorded["cached.input_ids_first"], recorded["cached.input_ids_second"]
    begin, end = recorded["cached.block"].tolist()
    assert not torch.equal(first, second)
    for name, stop in (("prefix", first.shape[1]), ("dual", end)):
        cache = BlockCache()
        with torch.no_grad():
            model.model(first, **{CACHE_NAME: cache.set_target(None, None, first.shape[1])})
            columns = torch.arange(begin, stop)[None]
            states = model.model(
                second[:, begin:stop],
                position_ids=columns,
                **{CACHE_NAME: cache.set_target(None, columns, first.shape[1])},
            ).last_hidden_state
            found = model.lm_head(states)
            whole = model.lm_head(model.model(second).last_hidden_state)[:, begin:stop]
        expected = recorded[f"cached.{name}_logits"]
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-3)
        assert not torch.allclose(found, whole, atol=1e-2), "the cache is to make a difference here"


texts = st.lists(st.integers(0, 44), min_size=1, max_size=6)


def same(found: DiffusionGenerateOutput, expected: DiffusionGenerateOutput) -> None:
    assert found.sequences.tolist() == expected.sequences.tolist()
    assert found.commit_step.tolist() == expected.commit_step.tolist()
    assert found.num_forward_passes.tolist() == expected.num_forward_passes.tolist()
    if expected.belief_kl is not None:
        assert torch.allclose(found.belief_kl, expected.belief_kl, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("decoding", list(RULES))
@pytest.mark.parametrize("cache", BLOCK_CACHES)
@given(data=st.data())
@settings(max_examples=4)
def test_a_cache_refreshed_at_every_forward_changes_nothing(
    padded: Callable, model: nn.Module, cache: str, decoding: str, data: st.DataObject
) -> None:
    """With whatever else is on, padded and in batches."""
    rows = data.draw(st.lists(texts, min_size=1, max_size=3), "rows")
    ids, mask = padded(rows, data.draw(st.sampled_from(["left", "right"]), "side"), PAD)
    knobs = KNOBS | {
        "decoding": decoding,
        "max_new_tokens": data.draw(st.integers(1, 8), "max_new_tokens"),
        "block_length": data.draw(st.integers(1, 5), "block_length"),
        "temperature": data.draw(st.sampled_from([0.0, 0.8]), "temperature"),
        "cfg_scale": data.draw(st.sampled_from([0.0, 1.0]), "cfg_scale"),
        "latent_refinement": data.draw(st.booleans(), "latent_refinement"),
        "append_blocks": data.draw(st.booleans(), "append_blocks"),
        "eos_token_id": data.draw(st.sampled_from([None, list(range(0, 46, 6))]), "eos_token_id"),
        "refinement_steps": 2,
    }
    plain = model.generate(ids, attention_mask=mask, **knobs)
    same(model.generate(ids, attention_mask=mask, block_cache=cache, cache_refresh_interval=1, **knobs), plain)


@pytest.mark.parametrize("decoding", list(RULES))
@pytest.mark.parametrize("cache", BLOCK_CACHES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_window_of_everything_is_no_cache(
    padded: Callable, model: nn.Module, cache: str, decoding: str, side: str
) -> None:
    """Rows that open and, for the dual cache, end with a mask, in one block; also where padding shifts the others."""
    rows = [[MASK, 3, MASK, MASK, 5, MASK], [MASK, 4, MASK], [MASK] * 5]
    ids, mask = padded(rows, side, PAD)
    for refined in (False, True):
        knobs = KNOBS | {"decoding": decoding, "latent_refinement": refined, "refinement_steps": 1}
        plain = model.infill(ids, attention_mask=mask, **knobs)
        same(model.infill(ids, attention_mask=mask, block_cache=cache, **knobs), plain)


@pytest.mark.parametrize("cache", BLOCK_CACHES)
def test_a_cache_does_change_what_is_predicted(model: nn.Module, cache: str) -> None:
    """Else the tests around it prove nothing."""
    prompts = torch.arange(60).view(10, 6) % 44
    knobs = KNOBS | {"max_new_tokens": 12, "block_length": 4}
    cached = model.generate(prompts, block_cache=cache, **knobs)
    assert not torch.equal(cached.sequences, model.generate(prompts, **knobs).sequences)
    every_two = model.generate(prompts, block_cache=cache, cache_refresh_interval=2, **knobs)
    assert not torch.equal(cached.sequences, every_two.sequences)
    assert torch.equal(
        cached.sequences, model.generate(prompts, block_cache=cache, cache_refresh_interval=99, **knobs).sequences
    )


# What is read.


@pytest.fixture
def reads(model: nn.Module) -> Iterator[list[dict[str, list]]]:
    """Of every forward: positions read (None: all), their number, and rows in the cache afterwards."""
    seen: list[dict[str, list]] = []

    def before(module: nn.Module, args: tuple, kwargs: dict) -> None:
        position_ids = kwargs.get("position_ids")
        seen.append({"positions": None if position_ids is None else position_ids.tolist()})

    def inside(module: nn.Module, args: tuple, kwargs: dict) -> None:
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        seen[-1] |= {"rows": states.shape[0], "width": states.shape[1]}

    def after(module: nn.Module, args: tuple, kwargs: dict, output: object) -> None:
        keys = kwargs["cache"].layers[0].keys
        seen[-1] |= {"cached": tuple(keys.shape[::2]), "keys": keys[0].clone()}

    hooks = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.model.layers[0].self_attn.register_forward_pre_hook(inside, with_kwargs=True),
        model.register_forward_hook(after, with_kwargs=True),
    ]
    yield seen
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("cache", BLOCK_CACHES)
@pytest.mark.parametrize("cfg_scale", [0.0, 1.0])
def test_one_forward_of_everything_a_block_and_windows_otherwise(
    model: nn.Module, reads: list[dict], cache: str, cfg_scale: float
) -> None:
    """A block of 4 takes 4 forwards; guidance doubles the rows; Dream reads the state before the window too."""
    shifted = model.reads_previous_state
    prompts = torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    model.generate(prompts, max_new_tokens=10, block_length=4, block_cache=cache, cfg_scale=cfg_scale, **KNOBS)
    expected = []
    for begin, end in ((5, 9), (9, 13), (13, 15)):
        stop = 15 if cache == "prefix" else end
        windows = list(range(begin - shifted, stop))
        expected += [None] + [windows] * (end - begin - 1)
    rows = 2 if cfg_scale == 0 else 4
    assert [r["positions"] for r in reads] == [None if x is None else [x] * rows for x in expected]
    assert [r["width"] for r in reads] == [15 if x is None else len(x) for x in expected]
    assert {r["rows"] for r in reads} == {rows}
    assert {r["cached"] for r in reads} == {(rows, 15)}


@pytest.mark.parametrize("cache", BLOCK_CACHES)
def test_keys_outside_of_the_window_stay(model: nn.Module, reads: list[dict], cache: str) -> None:
    """Those of the prompt and of written blocks are computed once a block."""
    model.generate(torch.tensor([[1, 2, 3, 4]]), max_new_tokens=9, block_length=3, block_cache=cache, **KNOBS)
    for before, now in pairwise(reads):
        if now["positions"] is None:
            continue
        outside = [i for i in range(13) if i not in now["positions"][0]]
        inside = [i for i in range(13) if i in now["positions"][0]]
        assert {0, 1, 2} <= set(outside)
        assert torch.equal(now["keys"][:, outside], before["keys"][:, outside])
        assert not torch.equal(now["keys"][:, inside], before["keys"][:, inside])


@pytest.mark.parametrize("cache", BLOCK_CACHES)
def test_the_interval_counts_forwards_of_a_block(model: nn.Module, reads: list[dict], cache: str) -> None:
    """A full one, then at most two windows; the next block starts anew."""
    model.generate(
        torch.tensor([[1, 2, 3]]),
        max_new_tokens=9,
        block_length=5,
        block_cache=cache,
        cache_refresh_interval=3,
        **KNOBS,
    )
    assert [r["positions"] is None for r in reads] == [True, False, False, True, False, True, False, False, True]


@pytest.mark.parametrize("cache", BLOCK_CACHES)
@pytest.mark.parametrize("cfg_scale", [0.0, 1.0])
def test_rows_that_are_done_leave_the_cache(model: nn.Module, reads: list[dict], cache: str, cfg_scale: float) -> None:
    """Their keys are not held, and the others keep their own: they decode as alone."""
    rows = [[1, MASK, 2, 3, 4, 5], [6, *[MASK] * 4, 7], [8, MASK, 9, MASK, 10, MASK]]
    out = model.infill(torch.tensor(rows), block_cache=cache, cfg_scale=cfg_scale, **KNOBS)
    copies = 1 if cfg_scale == 0 else 2
    assert [r["cached"][0] // copies for r in reads] == [3, 2, 2, 1]
    assert [r["rows"] // copies for r in reads] == [3, 2, 2, 1]
    for i, row in enumerate(rows):
        alone = model.infill(torch.tensor([row]), block_cache=cache, cfg_scale=cfg_scale, **KNOBS)
        assert out.sequences[i].tolist() == alone.sequences[0].tolist()


@pytest.mark.parametrize("cache", BLOCK_CACHES)
def test_the_answer_is_in_the_window(model: nn.Module, reads: list[dict], cache: str) -> None:
    """It is read while the reasoning is written; the dual cache leaves out what lies between."""
    ids = torch.tensor([[1, 2, MASK, MASK, MASK, MASK, 3, 4, MASK, MASK, 5]])
    flags = torch.zeros_like(ids, dtype=torch.bool)
    flags[0, 8:10] = True
    model.generate(ids, answer_mask=flags, block_length=2, block_cache=cache, decoding="left_to_right", **KNOBS)
    assert len(reads) == 6
    for step, (begin, end) in ((1, (2, 4)), (3, (4, 6)), (5, (8, 10))):
        read = set(range(begin, 11 if cache == "prefix" else end)) | {8, 9}
        if model.reads_previous_state:
            read |= {i - 1 for i in read}
        assert reads[step]["positions"] == [sorted(read)]
        assert reads[step - 1]["positions"] is None


# Rows.


@pytest.mark.parametrize("decoding", ["low_confidence", "random", "confidence_threshold", "med", "left_to_right"])
@pytest.mark.parametrize("cache", BLOCK_CACHES)
@given(rows=st.lists(texts, min_size=2, max_size=4), number=st.integers(3, 9), data=st.data())
@settings(max_examples=6)
def test_rows_in_different_blocks_do_not_disturb_each_other(
    check_rows_alone: Callable,
    model: nn.Module,
    cache: str,
    decoding: str,
    rows: list[list[int]],
    number: int,
    data: st.DataObject,
) -> None:
    """Some rows refresh while others read windows of another place and width."""
    knobs = KNOBS | {
        "decoding": decoding,
        "max_new_tokens": number,
        "block_length": data.draw(st.integers(1, 4), "block_length"),
        "block_cache": cache,
        "cache_refresh_interval": data.draw(st.sampled_from([None, 2]), "cache_refresh_interval"),
        "cfg_scale": data.draw(st.sampled_from([0.0, 1.0]), "cfg_scale"),
        "latent_refinement": data.draw(st.booleans(), "latent_refinement"),
        "refinement_steps": 2,
        "append_blocks": data.draw(st.booleans(), "append_blocks"),
    }
    check_rows_alone(model, rows, PAD, **knobs)


@pytest.mark.parametrize("decoding", ["low_confidence", "med"])
def test_dream_predicts_a_blocks_first_token_from_a_fresh_state(dream: nn.Module, decoding: str) -> None:
    """
    The reference's window starts at the block, whose first token it therefore always takes from the full forward. Ours
    holds the state before it: at every forward each position of the block is open to the rule, as without a cache.
    """
    prompts = torch.arange(40).view(8, 5)
    knobs = KNOBS | {"decoding": decoding, "max_new_tokens": 12, "block_length": 4, "entropy_threshold": 0.3}
    for cache in BLOCK_CACHES:
        steps = dream.generate(prompts, block_cache=cache, **knobs).commit_step[:, 5:].unflatten(1, (3, 4))
        first = steps[..., 0] - steps.amin(-1)
        assert (first > 0).any(), "some block is not to start with its first token"
        assert (first == 0).any()


# Who may.


def test_an_unknown_cache_is_refused(llada: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"`block_cache` must be one of 'prefix', 'dual', got 'duall'.* 'dual'"):
        llada.generate(torch.tensor([[1]]), block_cache="duall")


def test_a_model_of_others_has_no_block_cache() -> None:
    """One that does not take `logits_to_keep` would not know what to do with it."""

    class Stranger(nn.Module):
        def forward(self, input_ids: torch.Tensor) -> None: ...

    with pytest.raises(ValueError, match="`block_cache`='dual' needs a model of hf-latent, got Stranger"):
        Predictor(Stranger(), PredictorSettings(mask_token_id=MASK, block_cache="dual"))
