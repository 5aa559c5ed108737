"""Who goes before whom in a call: a keyword, the configuration of the call, the model's."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from hf_latent import DiffusionGenerationConfig
from hf_latent.generation.configuration_generation import DreamGenerationConfig

CLASSES = [DiffusionGenerationConfig, DreamGenerationConfig]
PROMPT = torch.tensor([[1, 2, 3]])


def steps_of(model: torch.nn.Module, *args: object, **knobs: object) -> list:
    """Ids and commit order: what two calls have in common if they decode alike."""
    out = model.generate(PROMPT, *args, return_dict_in_generate=True, **knobs)
    return [out.sequences.tolist(), out.commit_step.tolist()]


@pytest.fixture
def tuned(make_model: Callable) -> torch.nn.Module:
    """A Dream whose file says how it decodes."""
    model = make_model("dream")
    model.generation_config.update(decoding="med", entropy_threshold=0.9, max_new_tokens=10, eos_token_id=None)
    return model


def test_the_cases_below_decode_differently(tuned: torch.nn.Module) -> None:
    """Else they would prove nothing."""
    rules = ["med", "low_confidence", "entropy", "left_to_right"]
    assert len({str(steps_of(tuned, decoding=rule)) for rule in rules}) == 4
    assert steps_of(tuned) == steps_of(tuned, decoding="med", entropy_threshold=0.9)


@pytest.mark.parametrize("config_class", [GenerationConfig, *CLASSES])
def test_what_a_given_configuration_leaves_unset_is_the_models(tuned: torch.nn.Module, config_class: type) -> None:
    """As in transformers. The defaults of our class went before the model's own values, unasked: Dream with a
    `DiffusionGenerationConfig(max_new_tokens=8)` decoded as LLaDA."""
    given = config_class(max_new_tokens=8)
    assert steps_of(tuned, given) == steps_of(tuned, max_new_tokens=8)


@pytest.mark.parametrize("config_class", [GenerationConfig, *CLASSES])
def test_what_a_given_configuration_sets_goes_before_the_models(tuned: torch.nn.Module, config_class: type) -> None:
    """Also where it sets what is the default of its class."""
    default = "low_confidence" if config_class is DiffusionGenerationConfig else "entropy"
    for decoding in ("left_to_right", default):
        expected = steps_of(tuned, decoding=decoding)
        assert steps_of(tuned, config_class(decoding=decoding)) == expected
        later = config_class()
        later.decoding = decoding
        assert steps_of(tuned, later) == expected
        assert steps_of(tuned, copy.deepcopy(later)) == expected


def test_a_configuration_from_a_file_is_taken_whole(tuned: torch.nn.Module, tmp_path: Path) -> None:
    DreamGenerationConfig(max_new_tokens=10).save_pretrained(tmp_path)
    given = GenerationConfig.from_pretrained(tmp_path)
    assert steps_of(tuned, given) == steps_of(tuned, DreamGenerationConfig.from_pretrained(tmp_path))
    assert steps_of(tuned, given) == steps_of(tuned, decoding="entropy")


def test_keywords_go_before_everything(tuned: torch.nn.Module) -> None:
    given = DiffusionGenerationConfig(decoding="left_to_right")
    assert steps_of(tuned, given, decoding="entropy") == steps_of(tuned, decoding="entropy")


def test_a_call_changes_neither_configuration(tuned: torch.nn.Module) -> None:
    given = DiffusionGenerationConfig(decoding="entropy", max_new_tokens=4)
    before = (tuned.generation_config.to_dict(), given.to_dict())
    steps_of(tuned, given, top_k=3, seed=4, temperature=0.5)
    assert (tuned.generation_config.to_dict(), given.to_dict()) == before


def test_a_stock_configuration_on_the_model_is_understood(tuned: torch.nn.Module) -> None:
    """Set by hand or by a trainer."""
    expected = steps_of(tuned, decoding="left_to_right")
    tuned.generation_config = GenerationConfig(decoding="left_to_right", max_new_tokens=10)
    assert steps_of(tuned, eos_token_id=None) == expected


@pytest.mark.parametrize("given", [None, DiffusionGenerationConfig(), GenerationConfig()])
def test_only_a_keyword_can_switch_eos_off(make_model: Callable, given: GenerationConfig | None) -> None:
    """In a configuration None means unset, as in transformers."""
    model = make_model("llada")
    model.generation_config.eos_token_id = list(range(46))
    assert steps_of(model, given, max_new_tokens=6)[0][0][4:] == [46] * 5
    assert 46 not in steps_of(model, given, max_new_tokens=6, eos_token_id=None, suppress_tokens=[46])[0][0]


def test_lengths(make_model: Callable) -> None:
    """128 new tokens by default (transformers' 20 in all does not leak in); `max_length` counts the prompt."""
    model = make_model("llada", max_position_embeddings=256)
    knobs = {"decoding": "med", "entropy_threshold": 99.0}
    assert model.generate(PROMPT, **knobs).shape == (1, 131)
    assert model.generate(PROMPT, GenerationConfig(), **knobs).shape == (1, 131)
    assert model.generate(PROMPT, max_length=9, **knobs).shape == (1, 9)
    model.generation_config.max_new_tokens = 5
    assert model.generate(PROMPT, **knobs).shape == (1, 8)
    assert model.generate(PROMPT, max_length=9, **knobs).shape == (1, 9), "the call before the configuration"
    assert model.generate(PROMPT, max_new_tokens=2, max_length=9, **knobs).shape == (1, 5)
