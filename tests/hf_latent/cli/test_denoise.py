"""`hf-latent denoise`: what a latent diffusion model writes, and what its latent says on the way."""

from pathlib import Path

import pytest
import torch
from transformers import BartConfig, BartForConditionalGeneration
from typer.testing import CliRunner, Result

from hf_latent import LatentDiffusionForConditionalGeneration
from hf_latent.cli import app
from hf_latent.tasks import answer_first_tokenizer
from hf_latent.viz import texts_over_steps

INPUT = "3 + 5 + 7"


@pytest.fixture(scope="module")
def model() -> LatentDiffusionForConditionalGeneration:
    """Random weights large enough that noise decides what is decoded."""
    torch.manual_seed(0)
    tokenizer = answer_first_tokenizer()
    special = {"pad_token_id": tokenizer.pad_token_id, "bos_token_id": tokenizer.bos_token_id}
    special |= {"eos_token_id": tokenizer.eos_token_id, "decoder_start_token_id": tokenizer.eos_token_id}
    sizes = {"d_model": 16, "max_position_embeddings": 32}
    for part in ("encoder", "decoder"):
        sizes |= {f"{part}_layers": 1, f"{part}_attention_heads": 2, f"{part}_ffn_dim": 16}
    config = BartConfig(vocab_size=len(tokenizer), forced_eos_token_id=None, **sizes, **special)
    latent = {"latent_length": 2, "latent_dim": 4, "num_train_timesteps": 12}
    denoiser = {"denoiser_hidden_size": 16, "denoiser_num_layers": 1, "denoiser_num_heads": 2}
    made = LatentDiffusionForConditionalGeneration.from_encoder_decoder(
        BartForConditionalGeneration(config), **latent, **denoiser
    )
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.3)
        made.autoencoder.set_statistics(torch.zeros(2, 4), torch.full((2, 4), 5.0))
    made.generation_config.max_new_tokens = 6
    return made.eval()


@pytest.fixture(scope="module")
def folder(model: LatentDiffusionForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("denoiser")
    model.save_pretrained(path)
    model.autoencoder.save_pretrained(path / "autoencoder")
    answer_first_tokenizer().save_pretrained(path)
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["denoise", *map(str, arguments)])


def test_the_output_is_that_of_generate(model: LatentDiffusionForConditionalGeneration, folder: Path) -> None:
    tokenizer = answer_first_tokenizer()
    knobs = {"sampler": "ddim", "num_inference_steps": 4, "guidance_scale": 2.0, "max_new_tokens": 5}
    words = [w for name, value in knobs.items() for w in (f"--{name.replace('_', '-')}", value)]
    found = set()
    for seed in range(4):
        ids = model.generate(**tokenizer([INPUT], return_tensors="pt"), seed=seed, **knobs)
        result = run(folder, INPUT, *words, "--seed", seed)
        assert result.exit_code == 0, result.exception
        assert result.stdout == tokenizer.decode(ids[0], skip_special_tokens=True).strip() + "\n"
        assert result.stderr.startswith("4 forwards of the denoiser")
        found.add(result.stdout)
    assert len(found) > 1, "the noise is to matter, or the test shows nothing"


def test_the_steps_that_are_shown_are_those_of_the_run(folder: Path) -> None:
    lines = run(folder, INPUT, "--sampler", "ddim", "--num-inference-steps", 6, "--show", 3).stdout.splitlines()
    assert [line.split()[:3] for line in lines[:3]] == [["t", "=", "11"], ["t", "=", "7"], ["t", "=", "1"]]
    assert lines[2].partition("  1  ")[2] == lines[3], "the last estimate of ddim is what is decoded"
    two = run(folder, INPUT, "--set", "num_return_sequences=2", "--num-inference-steps", 2).stdout
    assert len(two.splitlines()) == 2


def test_steps_are_decoded_as_the_autoencoder_decodes_them(model: LatentDiffusionForConditionalGeneration) -> None:
    tokenizer = answer_first_tokenizer()
    inputs = tokenizer([INPUT, "1 + 1 + 2"], return_tensors="pt")
    output = model.generate(**inputs, seed=0, output_history=True, return_dict_in_generate=True)
    shown = texts_over_steps(model, tokenizer, output, num_shown=99, row=1)
    assert [row["step"] for row in shown] == list(range(1, 13))
    assert [row["timestep"] for row in shown] == list(range(11, -1, -1))
    alone = [model.autoencoder.decode(estimate[1:2], max_new_tokens=6)[0] for estimate in output.history]
    assert [row["text"] for row in shown] == [tokenizer.decode(x, skip_special_tokens=True).strip() for x in alone]
    assert [row["step"] for row in texts_over_steps(model, tokenizer, output, num_shown=1)] == [12]


def test_what_cannot_be_denoised_is_said(model: LatentDiffusionForConditionalGeneration, folder: Path) -> None:
    assert "not a latent diffusion model" in str(run(folder / "autoencoder", INPUT).exception)
    assert "`--show` must not be negative, got -1" in str(run(folder, INPUT, "--show", -1).exception)
    other = CliRunner().invoke(app, ["generate", str(folder), INPUT])
    assert f"`hf-latent denoise {folder}` runs it" in str(other.exception)
    output = model.generate(answer_first_tokenizer()([INPUT], return_tensors="pt")["input_ids"], seed=0)
    tokenizer = answer_first_tokenizer()
    plain = model.generate(**tokenizer([INPUT], return_tensors="pt"), seed=0, return_dict_in_generate=True)
    assert (plain.sequences == output).all()
    with pytest.raises(ValueError, match="output_history=True"):
        texts_over_steps(model, tokenizer, plain)
    plain.history = plain.latents[None]
    with pytest.raises(ValueError, match="`num_shown` must be at least 1, got 0"):
        texts_over_steps(model, tokenizer, plain, num_shown=0)
