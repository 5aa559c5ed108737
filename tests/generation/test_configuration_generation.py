"""The configuration: what it refuses, by name, and what it takes."""

import ast
import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

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
    ("min_tokens_per_step", 0, "at least 1, got 0"),
    ("steps_per_block", 0, "at least 1, got 0"),
    ("sub_block_length", 2.0, "got 2.0"),
    ("editing_threshold", 1.5, r"in \[0.0, 1.0\], got 1.5"),
    ("max_post_steps", None, "integer of at least 0, got None"),
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
# Name and default of every knob, as the class documents them; None where it names no default.
ENTRY = r"^ +(\w+) \(`[^`]+`, \*optional\*(?:, defaults to `?([^`)]+)`?)?\):"
DOCUMENTED = {
    name: ast.literal_eval(default) if default else None
    for name, default in re.findall(ENTRY, DiffusionGenerationConfig.__doc__ or "", re.MULTILINE)
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
    "editing_threshold": (None, 0, 1.0),
    "max_post_steps": (0, 16),
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
    """A default is what the manual says it is; what is allowed is kept as it was given."""
    own = DreamGenerationConfig.own_defaults.items() - DiffusionGenerationConfig.own_defaults.items()
    expected = DOCUMENTED | (dict(own) if config_class is DreamGenerationConfig else {})
    config = config_class()
    assert {name: getattr(config, name) for name in expected} == expected
    assert DiffusionGenerationConfig.own_defaults.keys() <= DOCUMENTED.keys()
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


NUMBERS: dict[str, Any] = {
    "max_new_tokens": np.int64(5),
    "block_length": np.int32(2),
    "max_denoising_steps": np.uint8(5),
    "max_tokens_per_step": torch.tensor(2),
    "min_tokens_per_step": np.int64(2),
    "steps_per_block": np.int64(2),
    "editing_threshold": np.float32(0.5),
    "max_post_steps": np.int64(1),
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
