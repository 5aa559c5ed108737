"""
Block caches of decoders whose layers see windows: what transformers builds from columns, a window that is read again
stands elsewhere in. The keys and values of a single layer depend on their own token alone, so its cache is exact.
"""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING, AutoModel

from hf_latent import LatentTokenConfig, LatentTokenForMaskedDiffusion
from hf_latent.generation.arguments.cache_argument import CACHE_NAME
from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.model_calls.block_cache import BLOCK_CACHES, BlockCache
from hf_latent.generation.model_calls.predictor import Predictor, PredictorSettings
from hf_latent.generation.model_calls.sliding_windows import SlidingWindowMasks

PAD, MASK, WINDOW = 46, 47, 3
SIZES = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4, "head_dim": 8}
SIZES |= {"num_key_value_heads": 2, "max_position_embeddings": 64, "sliding_window": WINDOW, "initializer_range": 0.3}
SIZES |= {"eos_token_id": None, "pad_token_id": PAD, "query_pre_attn_scalar": 8, "bos_token_id": None}
KINDS = {
    "full": ["full_attention"],
    "windows": ["sliding_attention"],
    "mixed": ["sliding_attention", "full_attention", "sliding_attention"],
}
# Family, kinds of layers (None: the family has one for all), attention implementations.
BOTH = ("sdpa", "eager")
FAMILIES: dict[str, tuple[str, str | None, tuple[str, ...]]] = {
    "llama": ("llama", None, BOTH),
    "mistral": ("mistral", None, BOTH),
    "phi3": ("phi3", None, ("sdpa",)),
    "starcoder2": ("starcoder2", None, ("sdpa",)),
    "qwen2-full": ("qwen2", "full", ("sdpa",)),
    "qwen2-windows": ("qwen2", "windows", BOTH),
    "qwen3-windows": ("qwen3", "windows", ("sdpa",)),
    "gemma2-windows": ("gemma2", "windows", ("eager",)),
    "gemma3-windows": ("gemma3_text", "windows", BOTH),
    "cohere2-windows": ("cohere2", "windows", ("sdpa",)),
    "olmo3-windows": ("olmo3", "windows", ("sdpa",)),
}
ONE_LAYER = [(name, attention) for name, (_, _, attentions) in FAMILIES.items() for attention in attentions]
MIXED = [("qwen2", "sdpa"), ("gemma2", "eager"), ("gemma3_text", "sdpa"), ("olmo3", "eager"), ("mistral", "eager")]


def build(family: str, kinds: list[str] | None, attention: str, num_layers: int = 1, **fields: Any) -> Any:
    """A random model, in float64 and with wide weights, so that no comparison is a tie but for rounding."""
    torch.manual_seed(0)
    if kinds is not None:
        fields |= {"layer_types": kinds, "use_sliding_window": True}
    text = CONFIG_MAPPING[family](num_hidden_layers=num_layers, **SIZES | fields)
    config = LatentTokenConfig(text_config=text, mask_token_id=MASK, shift_logits=family != "phi3")
    config._attn_implementation = attention
    model = LatentTokenForMaskedDiffusion(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0, 0.4)
    return model.double()


@pytest.fixture(scope="module", params=ONE_LAYER, ids="-".join)
def one_layer(request: pytest.FixtureRequest) -> Any:
    name, attention = request.param
    family, kinds, _ = FAMILIES[name]
    return build(family, None if kinds is None else KINDS[kinds], attention)


def pad(rows: list[list[int]], side: str) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    fill = [[PAD] * (width - len(row)) for row in rows]
    left = side == "left"
    ids = [f + r if left else r + f for f, r in zip(fill, rows, strict=True)]
    mask = [
        [0] * len(f) + [1] * len(r) if left else [1] * len(r) + [0] * len(f) for f, r in zip(fill, rows, strict=True)
    ]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@pytest.mark.parametrize("cache", BLOCK_CACHES)
@given(data=st.data())
@settings(max_examples=5)
def test_the_cache_of_a_single_layer_changes_nothing(one_layer: Any, cache: str, data: st.DataObject) -> None:
    """With any rule, padding, guidance, appended blocks, refinement, rows in blocks of their own: the same ids."""
    rows = data.draw(st.lists(st.lists(st.integers(0, 45), min_size=1, max_size=9), min_size=1, max_size=3), "rows")
    inputs = pad(rows, data.draw(st.sampled_from(["left", "right"]), "side"))
    knobs = {
        "decoding": data.draw(st.sampled_from(list(RULES)), "decoding"),
        "max_new_tokens": data.draw(st.integers(1, 10), "max_new_tokens"),
        "block_length": data.draw(st.none() | st.integers(1, 5), "block_length"),
        "cfg_scale": data.draw(st.sampled_from([0.0, 1.0]), "cfg_scale"),
        "temperature": data.draw(st.sampled_from([0.0, 0.8]), "temperature"),
        "latent_refinement": data.draw(st.booleans(), "latent_refinement"),
        "seed": 1,
        "refinement_steps": 2,
        "entropy_threshold": 0.8,
        "confidence_threshold": 0.5,
    }
    knobs["append_blocks"] = knobs["block_length"] is not None and data.draw(st.booleans(), "append_blocks")
    interval = data.draw(st.none() | st.integers(1, 3), "cache_refresh_interval")
    found = one_layer.generate(**inputs, block_cache=cache, cache_refresh_interval=interval, **knobs)
    assert found.tolist() == one_layer.generate(**inputs, **knobs).tolist()


@pytest.mark.parametrize("cache", BLOCK_CACHES)
@given(data=st.data())
@settings(max_examples=3)
def test_infilling_with_the_cache_of_a_single_layer_changes_nothing(
    one_layer: Any, cache: str, data: st.DataObject
) -> None:
    """Where what is read again has gaps."""
    text = st.lists(st.one_of(st.just(MASK), st.integers(0, 45)), min_size=2, max_size=14).filter(lambda x: MASK in x)
    inputs = pad(
        data.draw(st.lists(text, min_size=1, max_size=3), "rows"),
        data.draw(st.sampled_from(["left", "right"]), "side"),
    )
    block_length = data.draw(st.integers(1, 5), "block_length")
    found = one_layer.infill(**inputs, block_length=block_length, block_cache=cache, decoding="entropy")
    assert found.tolist() == one_layer.infill(**inputs, block_length=block_length, decoding="entropy").tolist()


@pytest.mark.parametrize(("family", "attention"), MIXED, ids=lambda x: str(x))
@torch.no_grad()
def test_what_has_not_changed_is_read_again_as_it_was(family: str, attention: str) -> None:
    """With as many layers as you like, of both kinds; windows anywhere, with gaps, padded on the left."""
    kinds = None if family == "mistral" else KINDS["mixed"]
    model = build(family, kinds, attention, num_layers=3)
    ids = torch.randint(0, 46, (2, 14), generator=torch.Generator().manual_seed(1))
    exists = torch.ones_like(ids).bool()
    exists[1, :3] = False
    places = (exists.long().cumsum(-1) - 1).clamp(min=0)
    whole = model.model(ids, attention_mask=exists.long(), position_ids=places).last_hidden_state
    cache, masks = BlockCache(), SlidingWindowMasks(model.base_model)
    model.model(
        ids,
        attention_mask=exists.long(),
        position_ids=places,
        **{CACHE_NAME: cache.set_target(None, None, 14)},
    )
    columns = torch.tensor([[7, 8, 9, 12], [3, 4, 5, 6]])
    at = places.gather(1, columns)
    assert masks.needed(14)
    states = model.model(
        ids.gather(1, columns),
        attention_mask=masks(at, places, exists, model.dtype),
        position_ids=at,
        **{CACHE_NAME: cache.set_target(None, columns, 14)},
    ).last_hidden_state
    expected = whole.gather(1, columns[..., None].expand_as(states))
    torch.testing.assert_close(states, expected, atol=1e-9, rtol=0)


def test_a_window_wider_than_the_canvas_needs_no_mask() -> None:
    """Mistral's is 4096: what transformers does without a mask stays as quick as it is."""
    masks = SlidingWindowMasks(build("mistral", None, "sdpa").base_model)
    assert not masks.needed(WINDOW + 1)  # the farthest is WINDOW away, which transformers' band includes
    assert masks.needed(WINDOW + 2)


def test_a_window_that_the_decoder_does_not_look_at_is_none() -> None:
    """Llama's configuration keeps the one of a Mistral that it was made of; its semi-causal masks took it for real."""
    model = build("llama", None, "sdpa")
    assert model.config.text_config.sliding_window == WINDOW
    assert SlidingWindowMasks(model.base_model).windows is None
    assert model.semi_causal_masks().windows is None
    assert build("mistral", None, "sdpa").semi_causal_masks().windows == WINDOW


def test_kinds_of_layers_that_the_decoder_does_not_ask_for_change_nothing() -> None:
    """Mistral's code gives every layer the window; a configuration that calls its layers full was believed."""
    model = build("mistral", KINDS["full"], "sdpa")
    assert model.config.text_config.layer_types == KINDS["full"]
    assert SlidingWindowMasks(model.base_model).windows == WINDOW
    rows = {"input_ids": torch.tensor([[5, 6, 7, 8, 9, 10]])}
    knobs = {"max_new_tokens": 9, "block_length": 3, "decoding": "entropy"}
    found = model.generate(**rows, block_cache="dual", **knobs)
    assert found.tolist() == model.generate(**rows, **knobs).tolist()


def test_an_attention_without_masks_of_ours_is_refused_before_any_forward() -> None:
    model = build("mistral", None, "sdpa")
    model.model.config._attn_implementation = "flash_attention_2"
    model.register_forward_pre_hook(lambda *_: pytest.fail("a forward was run"))
    with pytest.raises(
        ValueError, match=r"`attn_implementation` must be one of .* a sliding window of 3, got 'flash_"
    ):
        model.generate(torch.tensor([[1, 2]]), max_new_tokens=9, block_cache="dual")


@pytest.mark.parametrize(
    ("family", "fields", "reason"),
    [
        ("llama4_text", {"attention_chunk_size": 4}, r"`layer_types` must be among .*'chunked_attention'"),
        ("qwen3_next", {"linear_num_value_heads": 4}, "has recurrent layers"),
        pytest.param(
            "dory",
            {"layer_types": ["full_attention"] * 4},
            "run through each layer once, it loops through Dory",
            marks=pytest.mark.skipif("dory" not in CONFIG_MAPPING, reason="transformers has Dory from 5.24 on"),
        ),
    ],
)
def test_layers_that_remember_more_than_keys_and_values_are_refused(
    family: str, fields: dict[str, Any], reason: str
) -> None:
    """A state that runs along the columns is not to be had of a window; chunks are counted from columns."""
    with torch.device("meta"):
        decoder = AutoModel.from_config(CONFIG_MAPPING[family](**SIZES, num_hidden_layers=4, **fields))
    model = build("llama", None, "sdpa")
    model.model = decoder
    with pytest.raises(ValueError, match=f"`block_cache`='dual' needs a decoder .*{reason}"):
        Predictor(model, PredictorSettings(mask_token_id=MASK, block_cache="dual"))
