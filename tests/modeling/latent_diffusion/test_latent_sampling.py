"""The reverse process against closed forms, and what `generate` promises."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from hf_latent import LatentDiffusionGenerationConfig
from hf_latent.modeling.latent_diffusion.modeling_latent_denoiser import LatentDenoiserOutput
from hf_latent.modeling.latent_diffusion.modeling_latent_sampling import build_scheduler, row_generators

MEAN, STD = 1.5, 0.4


class GaussianDenoiser(nn.Module):
    """The best estimate, and the true reverse variance, of data that is N(MEAN, STD^2) in every component."""

    def __init__(self, alphas: torch.Tensor) -> None:
        super().__init__()
        self.alphas = alphas.double()

    def moments(self, latents: torch.Tensor, t: int) -> tuple[torch.Tensor, float]:
        """Mean and variance of x0 given x_t."""
        a = float(self.alphas[t])
        precision = a / (1 - a) + 1 / STD**2
        return (math.sqrt(a) / (1 - a) * latents + MEAN / STD**2) / precision, 1 / precision

    def reverse(self, t: int) -> tuple[float, float, float, float]:
        """Coefficients of x0 and x_t, posterior variance and beta of the step from t to t - 1."""
        a, before = float(self.alphas[t]), float(self.alphas[t - 1]) if t else 1.0
        beta = 1 - a / before
        return (
            math.sqrt(before) * beta / (1 - a),
            math.sqrt(1 - beta) * (1 - before) / (1 - a),
            beta * (1 - before) / (1 - a),
            beta,
        )

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, **_: Any) -> LatentDenoiserOutput:
        t = int(timesteps[0])
        mean, spread = self.moments(latents.double(), t)
        clean, _, smallest, beta = self.reverse(t)
        true = smallest + clean**2 * spread
        v = 2 * math.log(true / max(smallest, 1e-20)) / math.log(beta / max(smallest, 1e-20)) - 1 if t else 1.0
        return LatentDenoiserOutput(sample=mean.float(), variance=torch.full_like(latents, v))


@pytest.fixture
def gaussian(make_model: Any) -> Any:
    model = make_model("in-context", num_train_timesteps=100)
    model.denoiser = GaussianDenoiser(build_scheduler(model.config).alphas_cumprod)
    return model


def test_ddpm_through_the_model_is_the_brute_force_ancestral_sampler(gaussian: Any) -> None:
    """Step by step, with the same noise: x_{t-1} ~ N(c0 E[x0 | x_t] + ct x_t, true reverse variance)."""
    seed, rows, shape = 4, 5, (4, 6)
    config = LatentDiffusionGenerationConfig(sampler="ddpm", seed=seed)
    result = gaussian.denoise(torch.zeros(rows, *shape), config).latents

    denoiser = gaussian.denoiser
    generators = row_generators(seed, list(range(rows)), "cpu")
    x = torch.stack([torch.randn(shape, generator=g) for g in generators]).double()
    for t in reversed(range(100)):
        mean, spread = denoiser.moments(x, t)
        clean, noisy, smallest, _ = denoiser.reverse(t)
        x = clean * mean + noisy * x
        if t:
            noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
            x = x + math.sqrt(smallest + clean**2 * spread) * noise
    assert torch.allclose(result.double(), x, atol=5e-3)


def test_ddpm_samples_have_the_distribution_of_the_data(gaussian: Any) -> None:
    """48,000 components of N(1.5, 0.4^2): mean within 5 standard errors; with the true reverse variance the spread is
    that of the data within 2 %, with another it is not."""
    config = LatentDiffusionGenerationConfig(sampler="ddpm", seed=0)
    samples = gaussian.denoise(torch.zeros(2000, 4, 6), config).latents
    assert abs(samples.mean() - MEAN) < 5 * STD / math.sqrt(samples.numel())
    assert abs(samples.std() / STD - 1) < 0.02


@pytest.mark.parametrize(("sampler", "steps", "tolerance"), [("ddim", 100, 0.03), ("dpmsolver++", 25, 0.03)])
def test_fast_samplers_follow_the_probability_flow(gaussian: Any, sampler: str, steps: int, tolerance: float) -> None:
    """For Gaussian data the flow is known: every x_t keeps its place in standard deviations."""
    noise = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(0))
    config = LatentDiffusionGenerationConfig(sampler=sampler, num_inference_steps=steps)
    result = gaussian.denoise(torch.zeros(3, 4, 6), config, latents=noise).latents
    a = float(gaussian.denoiser.alphas[-1])
    place = (noise - math.sqrt(a) * MEAN) / math.sqrt(a * STD**2 + 1 - a)
    assert torch.allclose(result, MEAN + STD * place, atol=tolerance)


def test_ddim_with_eta_draws_noise_and_without_it_does_not(gaussian: Any) -> None:
    noise = torch.zeros(2, 4, 6)
    results = {}
    for eta in (0.0, 1.0):
        for seed in (0, 1):
            config = LatentDiffusionGenerationConfig(sampler="ddim", eta=eta, seed=seed, num_inference_steps=20)
            results[eta, seed] = gaussian.denoise(noise, config, latents=noise).latents
    assert torch.equal(results[0.0, 0], results[0.0, 1])
    assert not torch.allclose(results[1.0, 0], results[1.0, 1], atol=1e-2)


def test_guidance_is_the_linear_combination_of_both_estimates(make_model: Any, latents: torch.Tensor) -> None:
    model = make_model("cross-attention")
    condition, timesteps = latents.roll(1, 0), torch.full((3,), 5)
    given = model.denoiser(latents, timesteps, condition)
    missing = model.denoiser(latents, timesteps)
    for scale in (0.0, 1.0, 2.5):
        config = LatentDiffusionGenerationConfig(guidance_scale=scale)
        sample, variance = model.estimate(latents, 5, condition, config, None)
        expected = missing.sample + scale * (given.sample - missing.sample)
        assert torch.allclose(sample, expected, atol=1e-5)
        assert torch.allclose(variance, given.variance, atol=1e-5)


def test_self_conditioning_reads_the_estimate_of_the_step_before(make_model: Any, latents: torch.Tensor) -> None:
    model = make_model("self-conditioning")
    seen = []
    forward = model.denoiser.forward

    def spy(*args: Any, self_condition: Any = None, **kwargs: Any) -> Any:
        output = forward(*args, self_condition=self_condition, **kwargs)
        seen.append((self_condition, output.sample))
        return output

    model.denoiser.forward = spy
    model.denoise(latents, LatentDiffusionGenerationConfig(num_inference_steps=4, seed=0))
    assert seen[0][0] is None
    for (_, estimate), (read, _) in itertools.pairwise(seen):
        assert torch.equal(read, estimate)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++"])
def test_samplers_start_at_pure_noise_and_take_the_steps_asked_for(make_model: Any, sampler: str, batch: Any) -> None:
    output = make_model("in-context").generate(
        **batch,
        sampler=sampler,
        num_inference_steps=4,
        seed=0,
        max_new_tokens=3,
        output_history=True,
        return_dict_in_generate=True,
    )
    assert (output.num_forward_passes, len(output.timesteps), int(output.timesteps[0])) == (4, 4, 11)
    assert output.history.shape == (4, 3, 4, 6)
    if sampler != "ddpm":
        assert torch.allclose(output.latents, output.history[-1], atol=1e-5)


def test_sequences_of_an_input_have_their_own_noise_and_stand_together(make_model: Any, batch: Any) -> None:
    model = make_model("in-context")
    settings = {"seed": 2, "max_new_tokens": 4, "num_inference_steps": 3, "return_dict_in_generate": True}
    several = model.generate(**batch, num_return_sequences=2, **settings)
    assert several.sequences.shape[0] == 6
    assert not torch.allclose(several.latents[0], several.latents[1], atol=1e-2)
    second = {name: value[1:2] for name, value in batch.items()}
    one = model.generate(**second, row_indices=[3], **settings)
    assert torch.allclose(one.latents[0], several.latents[3], rtol=1e-3, atol=1e-3)


def test_noise_comes_from_seed_generator_or_latents(make_model: Any, batch: Any, latents: torch.Tensor) -> None:
    model = make_model("in-context")

    def run(**kwargs: Any) -> torch.Tensor:
        settings = {"max_new_tokens": 3, "num_inference_steps": 3, "return_dict_in_generate": True}
        return model.generate(**batch, **settings, **kwargs).latents

    assert torch.equal(run(seed=1), run(seed=1))
    assert not torch.allclose(run(seed=1), run(seed=2), atol=1e-2)
    assert torch.equal(
        run(generator=torch.Generator().manual_seed(1)), run(generator=torch.Generator().manual_seed(1))
    )
    rows = [torch.Generator().manual_seed(i) for i in range(3)]
    again = [torch.Generator().manual_seed(i) for i in range(3)]
    assert torch.equal(run(generator=rows), run(generator=again))
    torch.manual_seed(0)
    first = run()
    torch.manual_seed(0)
    assert torch.equal(run(), first)
    assert not torch.equal(run(), first)
    # Deterministic samplers are a function of the noise they start from.
    fixed = {"sampler": "ddim", "latents": latents}
    assert torch.equal(run(seed=1, **fixed), run(seed=2, **fixed))


def test_latents_that_come_out_decode_to_the_text_that_came_with_them(make_model: Any, batch: Any) -> None:
    model = make_model("in-context")
    output = model.generate(**batch, seed=0, max_new_tokens=5, num_inference_steps=3, return_dict_in_generate=True)
    assert torch.equal(model.autoencoder.decode(output.latents, max_new_tokens=5), output.sequences)
    condition = model.autoencoder.encode(**batch)
    again = model.generate(condition=condition, seed=0, max_new_tokens=5, num_inference_steps=3)
    assert torch.equal(again, output.sequences)


def test_arguments_of_the_decoder_reach_it(make_model: Any, batch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("in-context")
    seen: dict[str, Any] = {}
    generate = model.autoencoder.language_model.generate

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.update(kwargs)
        return generate(*args, **kwargs)

    monkeypatch.setattr(model.autoencoder.language_model, "generate", spy)
    settings = {"num_beams": 3, "max_new_tokens": 4, "num_return_sequences": 2, "guidance_scale": 2.0, "seed": 0}
    out = model.generate(**batch, num_inference_steps=2, **settings)
    config = seen["generation_config"]
    assert type(config) is GenerationConfig
    assert (config.num_beams, config.max_new_tokens) == (3, 4)
    # Said of the latents; the decoder would multiply sequences again, or guide its logits.
    assert (config.num_return_sequences, config.guidance_scale) == (None, None)
    assert out.shape[0] == 6
    assert out.shape[1] <= 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "euler"}, "`sampler` must be one of 'ddpm', 'ddim', .*got 'euler'"),
        ({"num_inference_steps": 13}, r"at most T \(12\), got 13"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must be an integer of at least 1, got 0"),
        ({"num_inference_steps": 5, "sampler": "ddim"}, r"must divide T \(12\) for ddim, got 5"),
        ({"guidance_scale": -1.0}, "`guidance_scale` must be a number of at least 0, got -1.0"),
        ({"eta": 2.0}, r"`eta` must be a number in \[0, 1\], got 2.0"),
        ({"seed": -1}, "`seed` must be an integer of at least 0, got -1"),
        ({"num_return_sequences": 0}, "`num_return_sequences` must be an integer of at least 1, got 0"),
        ({"num_inference_step": 3}, "Unknown argument `num_inference_step`.*Did you mean `num_inference_steps`"),
        ({"sampler_kwargs": {"colour": 1}}, "`sampler_kwargs` has 'colour', which DDPMScheduler does not know"),
        ({"sampler_kwargs": 3}, "`sampler_kwargs` must be a dict, got 3"),
        ({"output_history": 1}, "`output_history` must be True or False, got 1"),
        ({"latents": torch.zeros(2, 4, 6)}, r"`latents` must have the shape \(3, 4, 6\), got \(2, 4, 6\)"),
        ({"row_indices": [1]}, "`row_indices` must hold one for each of 3 rows"),
        ({"generator": [torch.Generator()]}, "`generator` must hold one for each of 3 rows, got 1"),
        ({"condition": torch.zeros(3, 4, 5)}, r"`condition` must have the shape \(3, 4, 6\)"),
        ({"attention_mask": torch.ones(3, 2)}, "`attention_mask` must have the shape of `inputs`"),
    ],
)
def test_bad_arguments_raise_before_any_forward(
    make_model: Any, batch: Any, arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("in-context")
    if "sampler_kwargs" not in arguments:
        monkeypatch.setattr(model.autoencoder, "encode_text", None)
    with pytest.raises(ValueError, match=message):
        model.generate(**{**batch, **arguments})


def test_nothing_to_write_about_raises(make_model: Any) -> None:
    with pytest.raises(ValueError, match="Give `inputs`"):
        make_model("in-context").generate()
    with pytest.raises(ValueError, match="`inputs` must be ids of shape"):
        make_model("in-context").generate(torch.zeros(3))


def test_a_variance_beyond_its_bounds_is_brought_back(gaussian: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """v = 3 would be the upper bound times its ratio to the lower one: at ten of 100 levels, far too much noise."""
    config = LatentDiffusionGenerationConfig(sampler="ddpm", seed=0, num_inference_steps=10)
    forward, found = gaussian.denoiser.forward, {}
    for v in (-7.0, -1.0, 0.0, 1.0, 3.0):

        def given(v: float = v, **inputs: Any) -> LatentDenoiserOutput:
            sample = forward(**inputs).sample
            return LatentDenoiserOutput(sample=sample, variance=torch.full_like(sample, v))

        monkeypatch.setattr(gaussian.denoiser, "forward", given)
        found[v] = gaussian.denoise(torch.zeros(500, 4, 6), config).latents
    assert torch.equal(found[3.0], found[1.0]) and torch.equal(found[-7.0], found[-1.0])
    spread = {v: float(found[v].std()) for v in (-1.0, 0.0, 1.0)}
    assert spread[-1.0] < spread[0.0] < spread[1.0] < 2 * STD


def test_sampler_arguments_reach_the_scheduler(make_model: Any) -> None:
    scheduler = build_scheduler(make_model("in-context").config, "dpmsolver++", {"algorithm_type": "sde-dpmsolver++"})
    assert scheduler.config.algorithm_type == "sde-dpmsolver++"
    assert scheduler.config.prediction_type == "sample"
    assert scheduler.config.beta_schedule == "squaredcos_cap_v2"
    assert build_scheduler(make_model("fixed-variance").config).config.variance_type == "fixed_small"
    assert build_scheduler(make_model("in-context").config).config.variance_type == "learned_range"
    with pytest.raises(ValueError, match="variance_type='learned_range', which this model has not learned"):
        build_scheduler(make_model("fixed-variance").config, "ddpm", {"variance_type": "learned_range"})
