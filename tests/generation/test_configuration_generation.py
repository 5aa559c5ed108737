"""The configuration: what it refuses, what a file of it says to others, and who goes before whom in a call."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from hf_latent import DiffusionGenerationConfig
from hf_latent.generation.arguments.stock_arguments import UNSUPPORTED, neutral_values
from hf_latent.generation.configuration_generation import DreamGenerationConfig

CLASSES = [DiffusionGenerationConfig, DreamGenerationConfig]

# Knob, value, what the message says besides the knob's name.
BAD_VALUES = [
    ("decoding", "low_confidense", "got 'low_confidense'. Did you mean 'low_confidence'"),
    ("decoding", None, "got None"),
    ("denoising_schedule", "linear", "'uniform', 'dream', got 'linear'"),
    ("max_new_tokens", 0, "at least 1, got 0"),
    ("max_new_tokens", 8.0, "integer of at least 1, got 8.0"),
    ("max_new_tokens", True, "got True"),
    ("max_length", 0, "at least 1, got 0"),
    ("block_length", 0, "at least 1, got 0"),
    ("block_length", -4, "got -4"),
    ("max_denoising_steps", 0, "at least 1, got 0"),
    ("max_denoising_steps", "64", "got '64'"),
    ("max_tokens_per_step", 0, "at least 1, got 0"),
    ("num_return_sequences", 0, "at least 1, got 0"),
    ("top_k", -1, "at least 0, got -1"),
    ("top_k", 2.5, "got 2.5"),
    ("top_p", 1.5, r"in \[0.0, 1.0\], got 1.5"),
    ("min_p", -0.1, "got -0.1"),
    ("temperature", -1.0, "got -1.0"),
    ("temperature", float("nan"), "got nan"),
    ("temperature", float("inf"), "got inf"),
    ("temperature", "warm", "got 'warm'"),
    ("repetition_penalty", 0.0, "got 0.0"),
    ("confidence_threshold", 1.1, r"in \[0.0, 1.0\], got 1.1"),
    ("confidence_threshold", None, "got None"),
    ("entropy_threshold", -0.5, "at least 0.0, got -0.5"),
    ("entropy_bound", -1, "got -1"),
    ("schedule_epsilon", 2.0, "got 2.0"),
    ("cfg_scale", -1.0, "got -1.0"),
    ("cfg_scale", float("inf"), "got inf"),
    ("seed", -1, "got -1"),
    ("seed", 2**63, f"got {2**63}"),
    ("seed", 1.0, "got 1.0"),
    ("mask_token_id", -1, "got -1"),
    ("mask_token_id", "<mask>", "got '<mask>'"),
    ("eos_token_id", "</s>", "got '</s>'"),
    ("eos_token_id", 2.5, "got 2.5"),
    ("eos_token_id", [2, None], r"got \[2, None\]"),
    ("pad_token_id", "<pad>", "got '<pad>'"),
    ("suppress_tokens", 5, "list of token ids, got 5"),
    ("suppress_tokens", [1.5], r"got \[1.5\]"),
    ("deferred_tokens", [-2], r"got \[-2\]"),
    ("latent_refinement", 1, "True or False, got 1"),
    ("latent_refinement", None, "True or False, got None"),
    ("refinement_top_p", 1.1, r"in \[0.0, 1.0\], got 1.1"),
    ("refinement_top_p", None, "got None"),
    ("refinement_ratio", -0.1, r"in \[0.0, 1.0\], got -0.1"),
    ("refinement_ratio", float("nan"), "got nan"),
    ("refinement_steps", None, "integer of at least 0, got None"),
    ("refinement_steps", -1, "integer of at least 0, got -1"),
    ("refinement_steps", 2.0, "got 2.0"),
    ("refinement_kl", -0.1, "at least 0.0, got -0.1"),
    ("refinement_kl", None, "got None"),
    ("stop_kl", "0.1", "at least 0.0, got '0.1'"),
    ("stop_kl", None, "got None"),
    ("early_exit_threshold", -0.1, "at least 0.0, got -0.1"),
    ("early_exit_threshold", "sure", "got 'sure'"),
    ("early_exit_threshold", True, "got True"),
    ("answer_entropy_reduction", "mean", "'sum', 'max', got 'mean'"),
    ("answer_entropy_reduction", None, "got None"),
    ("block_cache", "duall", "'prefix', 'dual', got 'duall'. Did you mean 'dual'"),
    ("block_cache", True, "'prefix', 'dual', got True"),
    ("cache_refresh_interval", 0, "integer of at least 1, got 0"),
    ("cache_refresh_interval", 1.5, "got 1.5"),
    ("append_blocks", "yes", "True or False, got 'yes'"),
    ("min_new_tokens", -1, "integer of at least 0, got -1"),
    ("min_new_tokens", 2.0, "got 2.0"),
    ("pace_to_schedule", 1, "True or False, got 1"),
    ("output_history", "yes", "got 'yes'"),
    ("do_sample", 0, "True or False, got 0"),
    ("return_dict_in_generate", "yes", "got 'yes'"),
]
# What the newer decoders do where nothing is said.
DEFAULTS = {
    "latent_refinement": False,
    "refinement_top_p": 0.9,
    "refinement_ratio": 0.15,
    "refinement_steps": 20,
    "refinement_kl": 0.1,
    "stop_kl": 0.1,
    "early_exit_threshold": None,
    "answer_entropy_reduction": "sum",
    "block_cache": None,
    "cache_refresh_interval": None,
    "append_blocks": False,
    "min_new_tokens": None,
}
# At the edge of what is allowed.
GOOD_VALUES = {
    "refinement_top_p": (0, 0.0, 1),
    "refinement_ratio": (0, 1.0),
    "refinement_steps": (0, 1000),
    "refinement_kl": (0, float("inf")),
    "stop_kl": (0.0, float("inf")),
    "early_exit_threshold": (None, 0, float("inf")),
    "answer_entropy_reduction": ("sum", "max"),
    "block_cache": (None, "prefix", "dual"),
    "cache_refresh_interval": (None, 1),
    "append_blocks": (True, False),
    "min_new_tokens": (None, 0, 3),
}
# Misspelt, or of other libraries: the name, and the nearest one that the message gives.
UNKNOWN_NAMES = [
    ("entropy_treshold", "entropy_threshold"),
    ("max_new_token", "max_new_tokens"),
    ("temprature", "temperature"),
    ("refinement_step", "refinement_steps"),
    ("early_exit_treshold", "early_exit_threshold"),
    ("append_block", "append_blocks"),
    ("cache_refresh_intervall", "cache_refresh_interval"),
    ("block_size", None),
    ("steps", None),
    ("gen_length", None),
    ("_private", None),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_VALUES)
@pytest.mark.parametrize("config_class", CLASSES)
def test_a_bad_value_is_refused_by_name(config_class: type, name: str, value: object, message: str) -> None:
    """Built, updated, or read from a file."""
    with pytest.raises(ValueError, match=f"`{name}` must be .*{message}"):
        config_class(**{name: value})
    with pytest.raises(ValueError, match=f"`{name}` must be .*{message}"):
        config_class().update(**{name: value})
    with pytest.raises(ValueError, match=f"`{name}` must be .*{message}"):
        config_class.from_dict({name: value})


@pytest.mark.parametrize("config_class", CLASSES)
def test_defaults_and_values_at_the_edge(config_class: type) -> None:
    """Nothing new is on unasked; what is allowed is kept as it was given."""
    config = config_class()
    assert {name: getattr(config, name) for name in DEFAULTS} == DEFAULTS
    for name, values in GOOD_VALUES.items():
        for value in values:
            assert getattr(config_class(**{name: value}), name) == value


@pytest.mark.parametrize(("name", "near"), UNKNOWN_NAMES)
def test_an_unknown_name_is_refused_with_the_nearest_known_one(name: str, near: str | None) -> None:
    """A dLLM sampler takes `step=4` for nothing and runs its default."""
    hint = f" Did you mean `{near}`" if near else ""
    with pytest.raises(ValueError, match=f"Unknown argument `{name}` .*{hint}"):
        DiffusionGenerationConfig(**{name: 1})


def test_update_refuses_typos_and_returns_what_is_not_its_own() -> None:
    """transformers hands model inputs through `update` and expects them back."""
    config = DiffusionGenerationConfig()
    with pytest.raises(ValueError, match=r"`entropy_treshold` .* Did you mean `entropy_threshold`"):
        config.update(entropy_treshold=0.3)
    assert config.update(entropy_threshold=0.3, attention_mask=None, input_ids=None) == {
        "attention_mask": None,
        "input_ids": None,
    }
    assert config.entropy_threshold == 0.3


def test_every_unsupported_knob_exists_and_is_refused_when_set() -> None:
    """A name that transformers drops would go unnoticed in the table."""
    known = GenerationConfig().to_dict()
    for name, allowed in UNSUPPORTED.items():
        assert name in known, name
        for value in allowed:
            config = DiffusionGenerationConfig()
            setattr(config, name, value)
            config.refuse_unsupported()
        setattr(config, name, 7)
        with pytest.raises(ValueError, match=f"`{name}`=7 is not supported"):
            config.refuse_unsupported()


def test_every_knob_of_the_installed_transformers_is_read_or_refused() -> None:
    """One that is added there, or that nobody thought of, was dropped in silence."""
    assert not neutral_values().keys() & set(DiffusionGenerationConfig.own_defaults)
    for name, neutral in neutral_values().items():
        config = DiffusionGenerationConfig()
        assert getattr(config, name) in neutral
        config.refuse_unsupported()
        setattr(config, name, 0.625)
        with pytest.raises(ValueError, match=f"`{name}`=0.625 is not supported by diffusion decoding"):
            config.refuse_unsupported()


@pytest.mark.parametrize(
    ("knobs", "temperature"),
    [
        ({}, 0.0),
        ({"temperature": 0.0}, 0.0),
        ({"temperature": 0.7}, 0.7),
        ({"do_sample": True}, 1.0),
        ({"do_sample": True, "temperature": 0.3}, 0.3),
        ({"do_sample": False, "temperature": 0.7}, 0.0),
        ({"do_sample": True, "temperature": 0}, 0.0),
        ({"temperature": 1e-40}, 0.0),  # float32 logits over it are inf and nan
    ],
)
def test_do_sample_and_temperature_agree_on_one_temperature(knobs: dict, temperature: float) -> None:
    assert DiffusionGenerationConfig(**knobs).effective_temperature == temperature


SET = {
    "decoding": "med",
    "block_length": 4,
    "entropy_threshold": 0.3,
    "temperature": 0.0,
    "top_p": 0.9,
    "eos_token_id": [2, 3],
    "max_new_tokens": 12,
    "do_sample": False,
    "latent_refinement": True,
    "refinement_top_p": 0.5,
    "refinement_ratio": 0.3,
    "refinement_steps": 7,
    "refinement_kl": 0.0,
    "stop_kl": 0.4,
    "early_exit_threshold": 0.6,
    "answer_entropy_reduction": "max",
    "block_cache": "dual",
    "cache_refresh_interval": 5,
    "append_blocks": True,
    "min_new_tokens": 2,
}


@pytest.mark.parametrize("config_class", CLASSES)
def test_copies_and_files_hold_every_knob(config_class: type, tmp_path: Path) -> None:
    """`temperature=0.0` alone keeps transformers from saving."""
    config = config_class(**SET)
    config.save_pretrained(tmp_path)
    for again in (
        copy.deepcopy(config),
        config_class.from_dict(config.to_dict()),
        config_class.from_pretrained(tmp_path),
        config_class(**config.to_diff_dict()),
    ):
        assert type(again) is config_class
        assert again.to_dict() == config.to_dict()
        assert again == config
    assert {name: getattr(config, name) for name in SET} == SET
    assert repr(config)


@pytest.mark.parametrize("config_class", CLASSES)
def test_stock_generation_config_reads_our_file(config_class: type, tmp_path: Path) -> None:
    """Servers and tools read generation_config.json with transformers' own class; some values make it raise."""
    config_class(**SET).save_pretrained(tmp_path)
    stock = GenerationConfig.from_pretrained(tmp_path)
    assert type(stock) is GenerationConfig
    assert {name: getattr(stock, name) for name in SET} == SET


def test_a_file_with_foreign_names_is_read(tmp_path: Path) -> None:
    """Published files carry knobs of the original code; they are kept, and are no typo of the user."""
    (tmp_path / "generation_config.json").write_text(
        '{"alg": "origin", "eos_token_id": 3, "_from_model_config": true}'
    )
    config = DiffusionGenerationConfig.from_pretrained(tmp_path)
    assert config.alg == "origin"
    assert config.eos_token_id == 3
    assert json.loads(config.to_json_string())["alg"] == "origin"


def test_a_file_marked_as_made_from_a_model_config_keeps_its_knobs() -> None:
    """transformers' constructor drops all names it does not know behind that marker: `block_length` was lost."""
    config = DiffusionGenerationConfig.from_dict({"_from_model_config": True, "block_length": 8})
    assert config.block_length == 8


def test_dream_decodes_as_dream_does_by_default(make_model: Callable, tmp_path: Path) -> None:
    """Also where a folder has no generation_config.json, or one that says nothing of decoding."""
    model = make_model("dream").float()
    model.save_pretrained(tmp_path)
    for content in (None, '{"eos_token_id": 45}', '{"_from_model_config": true, "pad_token_id": 46}'):
        (tmp_path / "generation_config.json").unlink()
        if content:
            (tmp_path / "generation_config.json").write_text(content)
        config = AutoModelForCausalLM.from_pretrained(tmp_path).generation_config
        assert type(config) is DreamGenerationConfig
        assert (config.decoding, config.denoising_schedule) == ("entropy", "dream")
        (tmp_path / "generation_config.json").touch()


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_knobs_of_a_model_survive_its_folder(make_model: Callable, tmp_path: Path, family: str) -> None:
    """transformers loads its own class from the file: every knob of ours was gone."""
    model = make_model(family).float()
    model.generation_config.update(**SET)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(again.generation_config) is type(model.generation_config)
    assert again.generation_config == model.generation_config
    again.save_pretrained(tmp_path / "again")
    texts = [(folder / "generation_config.json").read_text() for folder in (tmp_path, tmp_path / "again")]
    assert texts[0] == texts[1]


def test_a_model_without_a_file_takes_special_tokens_from_its_config(llada: torch.nn.Module) -> None:
    config = llada.generation_config
    assert type(config) is DiffusionGenerationConfig
    assert (config.eos_token_id, config.pad_token_id) == (45, 46)
    assert (config.max_length, config.max_new_tokens, config.do_sample) == (None, None, None)


# Who goes before whom: a keyword, the configuration of the call, the model's.

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


NUMBERS: dict[str, Any] = {
    "max_new_tokens": np.int64(5),
    "block_length": np.int32(2),
    "max_denoising_steps": np.uint8(5),
    "max_tokens_per_step": torch.tensor(2),
    "entropy_threshold": np.float32(0.5),
    "confidence_threshold": np.float16(0.5),
    "entropy_bound": torch.tensor(0.25),
    "temperature": np.float32(0.5),
    "top_k": np.int64(3),
    "top_p": np.float32(0.5),
    "min_p": np.float64(0.125),
    "repetition_penalty": np.float32(1.5),
    "cfg_scale": np.float32(1.0),
    "min_new_tokens": np.int64(1),
    "suppress_tokens": np.array([3, 4]),
    "deferred_tokens": [np.int64(5), np.int64(6)],
    "eos_token_id": torch.tensor([45]),
    "pad_token_id": np.int64(46),
    "mask_token_id": np.int64(47),
    "seed": np.int64(3),
    "latent_refinement": np.bool_(True),
    "refinement_steps": np.int64(1),
    "refinement_kl": np.float32(0.5),
    "stop_kl": np.float32(0.25),
    "refinement_top_p": np.float32(0.5),
    "refinement_ratio": np.float32(0.25),
    "schedule_epsilon": np.float32(0.125),
    "append_blocks": np.bool_(False),
    "do_sample": np.bool_(True),
    "return_dict_in_generate": np.bool_(False),
    "num_return_sequences": np.int64(2),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_and_tensors_are_numbers(llada: Any, name: str) -> None:
    """A sweep by `np.linspace` was told that its thresholds are none."""
    value = NUMBERS[name]
    python = [int(each) for each in value] if name in ("suppress_tokens", "deferred_tokens") else value.tolist()
    knobs = {"max_new_tokens": 4, "block_length": 4, "decoding": "med", "temperature": 1.0, "seed": 0}
    prompt = torch.tensor([[1, 2, 3]])
    expected = llada.generate(prompt, **(knobs | {name: python}))
    assert torch.equal(llada.generate(prompt, **(knobs | {name: value})), expected)
    config = DiffusionGenerationConfig(**{name: value})
    assert type(getattr(config, name)) is type(python) and getattr(config, name) == python
    config = DiffusionGenerationConfig()
    setattr(config, name, value)
    assert DiffusionGenerationConfig.from_dict(json.loads(config.to_json_string())).to_dict()[name] == python
