"""The denoiser: what it is when fresh, what it reads, how it projects."""

from typing import Any

import pytest
import torch
from torch import nn

from hf_latent import LatentDiffusionForConditionalGeneration


@pytest.mark.parametrize("case", ["in-context", "cross-attention", "adaln-zero", "longer"], indirect=True)
def test_a_fresh_denoiser_is_the_identity_and_estimates_zero(
    case: str, make_encoder_decoder: Any, make_model: Any, latents: torch.Tensor
) -> None:
    """Zero-initialised gates: the blocks hand the projected latents through, whatever timestep and condition."""
    fresh = LatentDiffusionForConditionalGeneration(make_model(case).config).denoiser.eval()
    output = fresh(latents, torch.tensor([0, 5, 11]), condition=latents.flip(0))
    expected = fresh.input_projection(latents)
    if fresh.config.conditioning == "in_context":
        expected = torch.cat([expected, fresh.condition_projection(latents.flip(0))], dim=1)
    assert torch.equal(output.hidden_states, expected)
    assert torch.equal(output.sample, torch.zeros_like(latents))
    assert torch.equal(output.variance, torch.zeros_like(latents))
    assert fresh.layers[0].fc1.weight.std() > 0.01  # only gates and outputs start at zero


def test_every_input_of_the_denoiser_counts(model: Any, latents: torch.Tensor) -> None:
    """Timestep, condition, every vector of the latent: each changes every vector of the estimate."""
    timesteps, condition = torch.tensor([2, 5, 8]), latents.roll(1, 0)
    base = model.denoiser(latents, timesteps, condition).sample
    moved = latents.clone()
    moved[:, -1] += 1
    other_condition = condition.clone()
    other_condition[:, -1] += 1
    changed = {
        "timestep": model.denoiser(latents, timesteps + 1, condition).sample,
        "condition": model.denoiser(latents, timesteps, other_condition).sample,
        "last vector": model.denoiser(moved, timesteps, condition).sample,
    }
    if model.config.self_conditioning:
        changed["self"] = model.denoiser(latents, timesteps, condition, self_condition=moved).sample
    for name, sample in changed.items():
        assert (sample - base).abs().amax(-1).min() > 1e-4, name


def test_dropped_conditions_are_those_that_are_not_given(model: Any, latents: torch.Tensor) -> None:
    timesteps, condition = torch.tensor([2, 5, 8]), latents.roll(1, 0)
    drop = torch.tensor([True, False, True])
    mixed = model.denoiser(latents, timesteps, condition, drop_condition=drop).sample
    given, missing = model.denoiser(latents, timesteps, condition).sample, model.denoiser(latents, timesteps).sample
    assert torch.allclose(mixed, torch.where(drop[:, None, None], missing, given), atol=1e-6)
    assert not torch.allclose(given, missing, atol=1e-3)


def test_latents_are_projected_and_reshaped_as_the_paper_says(make_model: Any, latents: torch.Tensor) -> None:
    """Section 3.2: each vector is projected to d_proj and cut into positions, two for each vector here."""
    denoiser = make_model("longer").denoiser
    projection = denoiser.input_projection
    for z in range(4):
        wide = nn.functional.linear(latents[:, z], projection.projection.weight, projection.projection.bias)
        expected = wide.view(3, 2, 16) + projection.positions[2 * z : 2 * z + 2]
        assert torch.allclose(projection(latents)[:, 2 * z : 2 * z + 2], expected, atol=1e-6)


def test_variance_is_read_from_the_conditions_positions_in_context(make_model: Any, latents: torch.Tensor) -> None:
    """Section 4.3: "the output is split into two sequences"."""
    denoiser = make_model("in-context").denoiser
    output = denoiser(latents, torch.tensor([2, 5, 8]), latents)
    time = nn.functional.silu(denoiser.embed_time(torch.tensor([2, 5, 8])))
    shift, scale = denoiser.output_modulation(time)[:, None].chunk(2, -1)
    states = denoiser.output_norm(output.hidden_states) * (1 + scale) + shift
    assert output.hidden_states.shape == (3, 8, 16)
    assert torch.allclose(output.sample, denoiser.sample_projection(states[:, :4]), atol=1e-5)
    assert torch.allclose(output.variance, denoiser.variance_projection(states[:, 4:]), atol=1e-5)


def test_a_noise_level_looks_the_same_however_finely_it_is_cut(make_model: Any) -> None:
    coarse, fine = make_model("in-context").denoiser, make_model("in-context", num_train_timesteps=120).denoiser
    timesteps = torch.tensor([3, 7])
    assert torch.allclose(coarse.embed_time(timesteps), fine.embed_time(10 * timesteps), atol=1e-3)
