"""What is no mistake: arguments left at None, numbers and masks of any type, padding on either side."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig, GenerationMixin

from hf_latent.generation.arguments.inputs import rename_cache

MASK = 47
PROMPT = torch.tensor([[1, 2, 3]])
HOLED = torch.tensor([[1, MASK, 3]])


def mask(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


STOCK_NAMES = [
    name
    for name in inspect.signature(GenerationMixin.generate).parameters
    if name not in ("self", "kwargs", "inputs", "custom_generate")
]


@pytest.mark.parametrize("name", [*STOCK_NAMES, "token_type_ids", "position_ids", "inputs_embeds", "custom_generate"])
def test_every_named_argument_of_transformers_may_be_none(
    llada: torch.nn.Module, make_latent_token: Callable, name: str
) -> None:
    """Wrappers pass all of them; None was an unknown argument with a guess at what was meant."""
    for model in (llada, make_latent_token("any"), make_latent_token("left_to_right")):
        expected = model.generate(PROMPT, max_new_tokens=2)
        assert torch.equal(model.generate(PROMPT, max_new_tokens=2, **{name: None}), expected)
    assert torch.equal(llada.infill(HOLED, **{name: None}), llada.infill(HOLED))


def test_every_stock_knob_may_be_none(llada: torch.nn.Module) -> None:
    names = [name for name in GenerationConfig().to_dict() if not name.startswith("_")]
    unset = dict.fromkeys(names) | {"max_new_tokens": 4, "eos_token_id": 45, "pad_token_id": 46}
    assert torch.equal(llada.generate(PROMPT, **unset), llada.generate(PROMPT, max_new_tokens=4))


FROM_FILES = {
    "num_beams": 2,
    "no_repeat_ngram_size": 3,
    "cache_implementation": "static",
    "renormalize_logits": True,
    "prefill_chunk_size": 4,
    "num_assistant_tokens": 3,
    "encoder_repetition_penalty": 1.5,
    "decoder_start_token_id": 3,
    "max_cache_len": 8,
}


@pytest.mark.parametrize("name", FROM_FILES)
def test_what_means_nothing_here_is_refused_from_wherever_it_comes(
    make_model: Callable, tmp_path: Path, name: str
) -> None:
    """By the call, by a configuration passed, and by a file: set there, it was dropped."""
    model, message = make_model("llada"), f"`{name}`={FROM_FILES[name]!r} is not supported by diffusion decoding"
    with pytest.raises(ValueError, match=message):
        model.generate(PROMPT, max_new_tokens=2, **{name: FROM_FILES[name]})
    with pytest.raises(ValueError, match=message):
        model.generate(PROMPT, GenerationConfig(**{name: FROM_FILES[name]}), max_new_tokens=2)
    model.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: FROM_FILES[name]}))
    loaded = type(model).from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        loaded.generate(PROMPT, max_new_tokens=2)
    assert loaded.generate(PROMPT, max_new_tokens=2, **{name: None}).shape == (1, 5)


def test_numbers_of_numpy_are_numbers_of_latent_tokens(make_latent_token: Callable) -> None:
    model = make_latent_token("left_to_right")
    knobs = {"num_latent_tokens": 2, "max_new_tokens": 3, "top_k": 5, "do_sample": False}
    expected = model.generate(PROMPT, **knobs)
    assert torch.equal(model.generate(PROMPT, **{k: np.asarray(v)[()] for k, v in knobs.items()}), expected)
    for value in (1.5, "2", True, np.float32(2)):
        with pytest.raises(ValueError, match="`num_latent_tokens` must be an integer of at least 0 here"):
            model.generate(PROMPT, num_latent_tokens=value)
    with pytest.raises(ValueError, match="`token_type_ids` is not supported by latent-token models"):
        model.generate(PROMPT, token_type_ids=PROMPT * 0)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int16, torch.uint8])
def test_integers_of_any_width_are_ids(llada: torch.nn.Module, dtype: torch.dtype) -> None:
    out = llada.generate(PROMPT.to(dtype), max_new_tokens=4)
    assert out.dtype == torch.int64
    assert torch.equal(out, llada.generate(PROMPT, max_new_tokens=4))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32])
def test_masks_of_any_type_are_masks(llada: torch.nn.Module, dtype: torch.dtype) -> None:
    padded = torch.tensor([[46, 1, 2, 3]])
    out = llada.generate(padded, attention_mask=mask([0, 1, 1, 1]).to(dtype), max_new_tokens=4)
    assert torch.equal(out[:, 1:], llada.generate(PROMPT, max_new_tokens=4))


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_answers_are_marked_in_any_type(llada: torch.nn.Module, dtype: torch.dtype) -> None:
    """Given tokens and padding that the mask marks are no answer."""
    ids = torch.tensor([[46, 1, MASK, 2, MASK]])
    valid = mask([0, 1, 1, 1, 1])
    out = llada.generate(ids, attention_mask=valid, answer_mask=mask([1, 0, 0, 1, 1]).to(dtype))
    expected = llada.infill(ids, attention_mask=valid, decoding="left_to_right")
    assert torch.equal(out, expected)


def test_without_a_mask_pad_tokens_are_padding(llada: torch.nn.Module) -> None:
    """As in transformers, unless the pad token is an end-of-sequence token, which a prompt may hold."""
    padded = torch.tensor([[46, 46, 1, 2, 3]])
    alone = llada.generate(PROMPT, max_new_tokens=4)
    assert torch.equal(llada.generate(padded, max_new_tokens=4)[:, 2:], alone)
    as_text = llada.generate(padded, max_new_tokens=4, eos_token_id=46, suppress_tokens=[45, 46])
    whole = llada.generate(padded, attention_mask=torch.ones_like(padded), max_new_tokens=4, suppress_tokens=[45, 46])
    assert torch.equal(as_text, whole)


def test_what_padding_holds_does_not_matter(llada: torch.nn.Module) -> None:
    """Neither a mask nor an end-of-sequence token in it."""
    expected = llada.generate(PROMPT, max_new_tokens=4)
    for token in (0, 45, 46, MASK):
        padded = torch.cat([torch.full((1, 2), token), PROMPT], dim=1)
        out = llada.generate(padded, attention_mask=mask([0, 0, 1, 1, 1]), max_new_tokens=4)
        assert torch.equal(out[:, 2:], expected)
        assert out[:, :2].tolist() == [[46, 46]]


def test_a_mask_token_that_is_also_the_pad_token_is_infilled(llada: torch.nn.Module) -> None:
    """It counted as padding, and infill complained of gaps."""
    assert torch.equal(llada.infill(HOLED, pad_token_id=MASK), llada.infill(HOLED))
    out = llada.generate(PROMPT, max_new_tokens=6, pad_token_id=MASK, eos_token_id=list(range(46)))
    assert MASK not in out


def test_negative_pad_tokens_of_old_configs_are_no_token(make_model: Callable) -> None:
    """Old Llama configs say -1; as padding behind a shorter row that is an index error."""
    model = make_model("llada")
    model.generation_config.pad_token_id = -1
    ids = torch.tensor([[1, 2, 3], [1, 2, 0]])
    out = model.generate(ids, attention_mask=mask([1, 1, 1], [1, 1, 0]), max_new_tokens=4, eos_token_id=None)
    assert (out >= 0).all()


def test_a_cache_by_both_of_its_names_is_refused() -> None:
    """transformers renamed `past_key_values` to `cache` in 5.24; of two caches neither may be lost in silence."""
    assert rename_cache({"cache": "a", "x": 1}) == rename_cache({"past_key_values": "a", "x": 1})
    assert rename_cache({"cache": None, "past_key_values": "a"}) == {"past_key_values": "a"}
    with pytest.raises(ValueError, match="`cache` and `past_key_values` are two names of one argument"):
        rename_cache({"cache": "a", "past_key_values": "b"})


@pytest.mark.parametrize("knobs", [{"max_new_tokens": 125}, {"max_length": 128}])
def test_every_position_of_the_model_may_be_used(llada: torch.nn.Module, knobs: dict) -> None:
    """Padding takes none."""
    assert llada.generate(PROMPT, decoding="med", entropy_threshold=99, **knobs).shape == (1, 128)
    padded = torch.cat([torch.full((1, 4), 46), PROMPT], dim=1)
    assert llada.generate(padded, decoding="med", entropy_threshold=99, max_new_tokens=125).shape == (1, 132)
