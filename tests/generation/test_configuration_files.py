"""`generation_config.json`: what a file of ours says to us and to others, and what becomes of one that is not ours."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from hf_latent import DiffusionGenerationConfig
from hf_latent.generation.configuration_generation import DreamGenerationConfig

CLASSES = [DiffusionGenerationConfig, DreamGenerationConfig]

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
