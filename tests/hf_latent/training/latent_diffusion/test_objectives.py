"""The latent diffusion loss and its noise against numbers worked out by hand."""

import math

import pytest
import torch
from diffusers import DDPMScheduler
from torch.distributions import Normal, kl_divergence

from hf_latent.modeling.latent_diffusion.configuration_latent_diffusion import LatentDiffusionConfig
from hf_latent.modeling.latent_diffusion.modeling_latent_sampling import build_scheduler
from hf_latent.training.latent_diffusion.objectives import (
    add_noise,
    latent_diffusion_loss,
    min_snr_weights,
    noise_schedule,
    posterior,
    sample_gaussian,
    sample_timesteps,
    sample_uniform,
    variational_bound,
)

# Three steps with round numbers: betas 0.2, 0.5, 0.75.
ALPHAS = torch.tensor([0.8, 0.4, 0.1])


def test_noise_schedule_is_the_cosine_of_improved_ddpm() -> None:
    """arXiv 2102.09672, eq. 17: a ratio of squared cosines, betas capped at 0.999."""
    steps, expected = 10, []

    def squared_cosine(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    product = 1.0
    for t in range(steps):
        product *= 1 - min(1 - squared_cosine((t + 1) / steps) / squared_cosine(t / steps), 0.999)
        expected.append(product)
    schedule = noise_schedule(LatentDiffusionConfig(num_train_timesteps=steps))
    assert torch.allclose(schedule, torch.tensor(expected), rtol=1e-4)


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
def test_the_number_of_timesteps_only_says_how_finely_a_schedule_is_cut(beta_schedule: str) -> None:
    """Unscaled, 100 steps would end with a third of the signal, and 4,000 would spend most of theirs on noise."""
    cuts = {
        steps: noise_schedule(LatentDiffusionConfig(beta_schedule=beta_schedule, num_train_timesteps=steps))
        for steps in (100, 1000, 4000)
    }
    expected = DDPMScheduler(num_train_timesteps=1000, beta_schedule=beta_schedule).alphas_cumprod
    assert torch.equal(cuts[1000], expected)
    for steps, alphas in cuts.items():
        same_times = (torch.tensor([0.25, 0.5, 0.75, 1.0]) * steps).long() - 1
        reference = expected[(torch.tensor([0.25, 0.5, 0.75, 1.0]) * 1000).long() - 1]
        assert torch.allclose(alphas[same_times].log(), reference.log(), rtol=0.12), steps
        assert 0 < alphas[-1] < 1e-3


def test_a_sampler_walks_the_schedule_of_training() -> None:
    config = LatentDiffusionConfig(beta_schedule="linear", num_train_timesteps=50, beta_end=0.03)
    assert torch.equal(build_scheduler(config).alphas_cumprod, noise_schedule(config))


def test_noisy_latents_are_the_hand_computed_mixture() -> None:
    clean, noise = torch.tensor([[[1.0, -2.0]]]), torch.tensor([[[3.0, 0.5]]])
    noisy = add_noise(clean, noise, torch.tensor([0.64]))
    assert torch.allclose(noisy, torch.tensor([[[0.8 * 1 + 0.6 * 3, 0.8 * -2 + 0.6 * 0.5]]]))


def test_weights_are_the_signal_to_noise_ratio_up_to_gamma() -> None:
    """SNR 4, 2/3, 1/9. With the epsilon weights, min(SNR, gamma) / SNR, the first would be 0.75."""
    assert torch.allclose(min_snr_weights(ALPHAS, 3.0), torch.tensor([3.0, 2 / 3, 1 / 9]))
    assert torch.equal(min_snr_weights(ALPHAS, None), torch.ones(3))


def test_posterior_is_bayes_rule_for_gaussians() -> None:
    """q(x1 | x2, x0) from its factors q(x1 | x0) q(x2 | x1): precisions add up, and so do weighted means."""
    parts = posterior(torch.tensor([1]), ALPHAS)
    precision = 1 / 0.2 + 0.5 / 0.5  # of x1 given x0: variance 1 - 0.8; of x1 given x2: alpha / beta
    assert torch.allclose(parts.smallest_log_variance.exp(), torch.tensor([1 / precision], dtype=torch.float64))
    assert torch.allclose(parts.clean_coefficient, torch.tensor(math.sqrt(0.8) / 0.2 / precision, dtype=torch.float64))
    assert torch.allclose(parts.noisy_coefficient, torch.tensor(math.sqrt(0.5) / 0.5 / precision, dtype=torch.float64))
    assert torch.allclose(parts.largest_log_variance.exp(), torch.tensor(0.5, dtype=torch.float64))


def test_posterior_at_the_first_step_is_clean_with_the_clipped_variance() -> None:
    """The true variance there is 0, its logarithm minus infinity: the loss would be nan."""
    first, second = posterior(torch.tensor([0, 1]), ALPHAS).smallest_log_variance
    assert first == second
    parts = posterior(torch.tensor([0]), ALPHAS)
    assert torch.allclose(parts.clean_coefficient, torch.ones(1, dtype=torch.float64))
    assert torch.allclose(parts.noisy_coefficient, torch.zeros(1, dtype=torch.float64))


@pytest.mark.parametrize("timestep", [1, 2])
def test_bound_is_the_divergence_of_the_two_reverse_steps(timestep: int) -> None:
    """torch.distributions computes it from the means and variances."""
    torch.manual_seed(0)
    clean, noisy, estimate, variance = torch.randn(4, 1, 2, 3).unbind()
    timesteps = torch.tensor([timestep])
    parts = [part.float() for part in posterior(timesteps, ALPHAS)]
    means = [parts[0] * x0 + parts[1] * noisy for x0 in (clean, estimate)]
    fraction = (variance + 1) / 2
    log_variance = fraction * parts[3] + (1 - fraction) * parts[2]
    true = Normal(means[0], (parts[2] / 2).exp())
    expected = kl_divergence(true, Normal(means[1], (log_variance / 2).exp())).mean()
    result = variational_bound(estimate[None], variance[None], clean[None], noisy[None], timesteps, ALPHAS)
    assert torch.allclose(result, expected, rtol=1e-5)


def test_bound_at_the_first_step_is_the_surprise_at_the_clean_latent() -> None:
    torch.manual_seed(0)
    clean, noisy, estimate = torch.randn(3, 1, 2, 3).unbind()
    timesteps = torch.tensor([0])
    parts = posterior(timesteps, ALPHAS)
    expected = -Normal(estimate, (parts.largest_log_variance.float() / 2).exp()).log_prob(clean).mean()
    result = variational_bound(estimate[None], torch.ones(1, 1, 2, 3)[0], clean[None], noisy[None], timesteps, ALPHAS)
    assert torch.allclose(result, expected, rtol=1e-5)


def test_a_perfect_estimate_with_the_smallest_variance_has_no_divergence() -> None:
    clean, noisy = torch.randn(2, 2, 4, 3, generator=torch.Generator().manual_seed(1)).unbind()
    bound = variational_bound(clean, -torch.ones_like(clean), clean, noisy, torch.tensor([1, 2]), ALPHAS)
    assert torch.allclose(bound, torch.zeros(2), atol=1e-6)


def test_loss_is_the_hand_computed_sum_and_normalised_as_told() -> None:
    """Rows at t = 1 and 2 with errors 0.5 and 2: weights 2/3 and 1/9, bound with v = -1 by its formula."""
    clean = torch.zeros(2, 1, 2)
    estimate = torch.tensor([[[0.5, 0.5]], [[2.0, 2.0]]])
    variance = -torch.ones_like(clean)
    timesteps = torch.tensor([1, 2])
    parts = posterior(timesteps, ALPHAS)
    distance = (parts.clean_coefficient * torch.tensor([0.5, 2.0])) ** 2
    bound = (0.5 * distance / parts.smallest_log_variance.exp()).float()
    score = latent_diffusion_loss(
        estimate, variance, clean, clean, timesteps, ALPHAS, gamma=5.0, variance_weight=0.1, num_items=7
    )
    assert torch.allclose(score.squared_error, torch.tensor([0.25, 4.0]))
    assert torch.allclose(score.weighted, torch.tensor([0.25 * 2 / 3, 4.0 / 9]))
    assert torch.allclose(score.bound, bound)
    expected = (score.weighted + 0.1 * 3 * bound).sum() / 7
    assert torch.allclose(score.loss, expected)


def test_the_bound_trains_the_variance_alone() -> None:
    """Otherwise its huge gradients at small t would train the estimate, which is what the hybrid loss avoids."""
    clean = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0))
    estimate, variance = torch.zeros_like(clean).requires_grad_(), torch.zeros_like(clean).requires_grad_()
    gradients = {}
    for weight in (0.0, 10.0):
        score = latent_diffusion_loss(
            estimate, variance, clean, clean, torch.arange(3), ALPHAS, variance_weight=weight, num_items=3
        )
        gradients[weight] = torch.autograd.grad(score.loss, (estimate, variance))
    assert torch.equal(gradients[0.0][0], gradients[10.0][0])
    assert gradients[10.0][1].abs().min() > 0


def test_bound_and_diffusers_sampler_mean_the_same_variance() -> None:
    """The sampler reads v through diffusers: trained with other ends, it would draw with the wrong noise."""
    scheduler = DDPMScheduler(num_train_timesteps=50, beta_schedule="squaredcos_cap_v2", variance_type="learned_range")
    alphas = noise_schedule(LatentDiffusionConfig(num_train_timesteps=50))
    timesteps = torch.arange(1, 50)
    parts = posterior(timesteps, alphas)
    for v in (-1.0, 0.3, 1.0):
        fraction = (v + 1) / 2
        ours = fraction * parts.largest_log_variance + (1 - fraction) * parts.smallest_log_variance
        theirs = [scheduler._get_variance(int(t), predicted_variance=torch.tensor(v)) for t in timesteps]
        assert torch.allclose(ours.float(), torch.stack(theirs), atol=2e-3)


def test_noise_is_standard_normal_and_belongs_to_the_example() -> None:
    """200,000 numbers: mean within 5 and fourth moment within 6 standard errors. Rows do not see their neighbours."""
    ids = torch.arange(2000)
    noise = sample_gaussian(ids, (10, 10), seed=1, epoch=0)
    assert abs(noise.mean()) < 5 / math.sqrt(noise.numel())
    assert abs((noise**2).mean() - 1) < 5 * math.sqrt(2 / noise.numel())
    assert abs((noise**4).mean() - 3) < 6 * math.sqrt(96 / noise.numel())
    correlation = torch.corrcoef(noise.flatten(1)[:100])
    assert correlation.fill_diagonal_(0).abs().max() < 0.6
    assert torch.equal(sample_gaussian(ids[[7, 3]], (10, 10), seed=1, epoch=0), noise[[7, 3]])
    for other in ({"seed": 2, "epoch": 0}, {"seed": 1, "epoch": 1}, {"seed": 1, "epoch": 0, "stream": 99}):
        assert not torch.allclose(sample_gaussian(ids[:1], (10, 10), **other), noise[:1])


def test_timesteps_are_evenly_spread_and_in_range() -> None:
    timesteps = sample_timesteps(torch.arange(4000), seed=0, epoch=0, num_train_timesteps=20)
    counts = torch.bincount(timesteps, minlength=20)
    assert len(counts) == 20
    assert counts.min() > 190
    assert counts.max() < 210


def test_rows_are_dropped_at_the_rate() -> None:
    """10,000 rows at 0.1: within 5 standard errors of 0.003."""
    dropped = sample_uniform(torch.arange(10_000), seed=0, epoch=0) < 0.1
    assert abs(dropped.float().mean() - 0.1) < 0.015
