"""A `generation_config.json` that is there and cannot be read is no absent one: its decoder is not the default's."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM
from transformers.utils import hub as transformers_hub

import hf_latent
from hf_latent.generation.arguments import generation_file
from hf_latent.generation.arguments.generation_file import find_optional_file, load_generation_config
from hf_latent.generation.mixin import DiffusionGenerationConfig

PROMPT = torch.tensor([[1, 2, 3]])
DAMAGED = {
    "cut short": '{"decoding": "entr',
    "empty": "",
    "no JSON": "decoding: entropy",
    "another object": "[1, 2]",
    "null": "null",
    "a value out of range": '{"decoding": "entropie"}',
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("kind", ["llada", "any", "left_to_right"])
def test_a_damaged_file_raises_and_is_named(
    make_model: Callable, make_latent_token: Callable[..., Any], tmp_path: Path, kind: str, case: str
) -> None:
    """It read as none, and the model wrote by another rule than it was published with."""
    model = make_model("llada") if kind == "llada" else make_latent_token(kind)
    model.generation_config.max_new_tokens = 4
    model.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    assert type(model).from_pretrained(tmp_path).generation_config.max_new_tokens == 4
    file.write_text(DAMAGED[case])
    if case == "a value out of range" and kind == "left_to_right":
        return  # no knob of transformers' own
    for load in (type(model).from_pretrained, AutoModelForCausalLM.from_pretrained):
        with pytest.raises(ValueError, match=r"generation_config.json"):
            load(tmp_path)
    file.write_bytes(b"\xff\xfe{}")
    with pytest.raises(ValueError, match=r"generation_config.json is damaged"):
        type(model).from_pretrained(tmp_path)


def test_latent_diffusion_says_it_too(tmp_path: Path) -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    bart = BartForConditionalGeneration(
        BartConfig(vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                   decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_position_embeddings=32)
    )  # fmt: skip
    model = hf_latent.LatentDiffusionForConditionalGeneration.from_encoder_decoder(
        bart, latent_length=2, latent_dim=4, denoiser_hidden_size=8, denoiser_num_layers=1, denoiser_num_heads=2
    )
    model.generation_config.sampler = "ddim"
    model.save_pretrained(tmp_path)
    assert type(model).from_pretrained(tmp_path).generation_config.sampler == "ddim"
    (tmp_path / "generation_config.json").write_text('{"sampler": "dd')
    with pytest.raises(ValueError, match=r"generation_config.json is damaged"):
        type(model).from_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    assert type(model).from_pretrained(tmp_path).generation_config.sampler == "ddpm"


def test_an_absent_file_is_absent(make_model: Callable, tmp_path: Path) -> None:
    model = make_model("dream")
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    loaded = type(model).from_pretrained(tmp_path)
    assert loaded.generation_config.decoding == "entropy" and loaded.generation_config.eos_token_id == 45
    assert torch.equal(loaded.generate(PROMPT, max_new_tokens=4), model.generate(PROMPT, max_new_tokens=4))
    (tmp_path / "generation_config.json").symlink_to(tmp_path / "gone")
    with pytest.raises(OSError, match=r"generation_config.json cannot be read"):
        type(model).from_pretrained(tmp_path)


def test_a_configuration_that_is_given_goes_before_the_file(make_model: Callable, tmp_path: Path) -> None:
    model = make_model("llada")
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text("{")
    given = DiffusionGenerationConfig(decoding="margin")
    loaded = type(model).from_pretrained(tmp_path, generation_config=given)
    assert loaded.generation_config.decoding == "margin"


def test_what_is_unknown_to_the_class_stays_in_the_file(tmp_path: Path) -> None:
    """Checkpoints of others carry names of their own."""
    (tmp_path / "generation_config.json").write_text(json.dumps({"alg": "origin", "max_new_tokens": 3}))
    config = load_generation_config(DiffusionGenerationConfig, tmp_path, {})
    assert config is not None and config.max_new_tokens == 3 and config.alg == "origin"


@pytest.mark.parametrize(
    ("error", "offline", "is_absent"),
    [
        (EntryNotFoundError("404"), False, True),
        (LocalEntryNotFoundError("no connection"), False, False),
        (LocalEntryNotFoundError("not in the cache"), True, True),
        (ConnectionError("reset by peer"), False, False),
        (TimeoutError("timed out"), False, False),
    ],
)
def test_a_lost_connection_is_no_absence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, offline: bool, is_absent: bool
) -> None:
    """The Hub's answers, as huggingface_hub gives them to transformers."""

    def download(*args: object, **kwargs: object) -> str:
        raise error

    monkeypatch.setattr(transformers_hub, "hf_hub_download", download)
    monkeypatch.setattr(transformers_hub, "is_offline_mode", lambda: offline)
    monkeypatch.setattr(generation_file, "is_offline_mode", lambda: offline)
    if is_absent:
        assert find_optional_file("someone/model", "generation_config.json", {}) is None
    else:
        with pytest.raises((OSError, type(error))):
            find_optional_file("someone/model", "generation_config.json", {})
