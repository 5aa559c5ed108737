"""
Latent diffusion objectives as pure functions of tensors: *noise* latents, *weigh* timesteps, *score* estimates.

Notation: `B` rows, `Z` vectors of a latent, `C` their width, `T` timesteps; t is in 0..T-1 and
`x_t = sqrt(a_t) x0 + sqrt(1 - a_t) e` with `a_t = alphas_cumprod[t]` (DDPM, arXiv 2006.11239). The model predicts x0
and `v`, which interpolates the variance of the reverse step (improved DDPM, arXiv 2102.09672, eq. 15):

    loss = mean_rows [ min(SNR(t), gamma) mean (x0 - x0_hat)^2  +  lambda T L_t ],     SNR(t) = a_t / (1 - a_t),
    L_t = KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)),   L_0 = -log p(x0 | x_1)        (nats per component)

The first weight is Min-SNR's for x0 (arXiv 2303.09556). In L_t the estimate of x0 is detached: it trains v alone.
All randomness is a hash of (seed, epoch, example): the same example meets the same noise alone or in a batch, on one
device or on many, before and after a resume.
"""

import math
from typing import NamedTuple

import torch

from hf_latent.generation.state.noise import GOLDEN, mix
from hf_latent.modeling.latent_diffusion.configuration_latent_diffusion import LatentDiffusionConfig
from hf_latent.training.common.objectives import sample_times

_NOISE_STREAM, _DROP_STREAM = 11, 12


def noise_schedule(config: LatentDiffusionConfig) -> torch.Tensor:
    """`alphas_cumprod` `[T]`, float32, as diffusers computes them and the samplers use them."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**config.scheduler_arguments).alphas_cumprod


# Randomness


def _keys(stream: int, seed: int, epoch: int, example_ids: torch.Tensor) -> torch.Tensor:
    """int64 hash `[B]` of (stream, seed, epoch, example)."""
    state = torch.zeros((), dtype=torch.int64, device=example_ids.device)
    for word in (stream, seed, epoch, example_ids):
        word = torch.as_tensor(word, dtype=torch.int64, device=example_ids.device)
        state = mix(state ^ mix(word + GOLDEN))
    return state


def _to_uniform(state: torch.Tensor, shift: int) -> torch.Tensor:
    """24 bits of an int64, from bit `shift` on, as a float32 in (0, 1)."""
    return ((state >> shift & 0xFFFFFF).float() + 0.5).clamp(max=2**24 - 1) * 2**-24


def sample_timesteps(
    example_ids: torch.Tensor,
    *,
    seed: int,
    epoch: int,
    num_train_timesteps: int,
    sampling: str = "low_discrepancy",
) -> torch.Tensor:
    """
    Timestep of each example in one epoch, uniform on 0..T-1; see [`~hf_latent.data.corruption.sample_times`].

    Args:
        example_ids (`torch.LongTensor` of shape `(B,)`): identity of each example in its dataset.
        seed (`int`): of the whole run.
        epoch (`int`): passes over the data so far; evaluation uses numbers below 0.

    Returns:
        `torch.LongTensor` of shape `(B,)`.
    """
    times = sample_times(example_ids.cpu(), seed=seed, epoch=epoch, sampling=sampling)
    return (times.double() * num_train_timesteps).long().clamp(max=num_train_timesteps - 1).to(example_ids.device)


def sample_gaussian(
    example_ids: torch.Tensor, shape: tuple[int, ...], *, seed: int, epoch: int, stream: int = _NOISE_STREAM
) -> torch.Tensor:
    """Standard normal numbers `[B, *shape]`, float32, by Box and Muller; `stream` separates independent uses."""
    counters = torch.arange(math.prod(shape), device=example_ids.device)
    state = mix(_keys(stream, seed, epoch, example_ids)[:, None] + (counters + 1) * GOLDEN)  # [B, prod(shape)]
    radius = torch.sqrt(-2 * torch.log(_to_uniform(state, 40)))
    return (radius * torch.cos(2 * math.pi * _to_uniform(state, 16))).view(-1, *shape)


def sample_uniform(example_ids: torch.Tensor, *, seed: int, epoch: int, stream: int = _DROP_STREAM) -> torch.Tensor:
    """Uniform number in (0, 1) of each row, `[B]`: what has a rate (dropping the condition, ...) is done below it."""
    return _to_uniform(_keys(stream, seed, epoch, example_ids), 40)


# Diffusion


def add_noise(clean: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """`q(x_t | x0)`: `sqrt(a) x0 + sqrt(1 - a) e`, with `alphas` `[B]` the rows' cumulative products."""
    alphas = alphas.view(-1, *[1] * (clean.ndim - 1))
    return alphas.sqrt() * clean + (1 - alphas).sqrt() * noise


def min_snr_weights(alphas: torch.Tensor, gamma: float | None) -> torch.Tensor:
    """`min(SNR, gamma)` of rows with cumulative products `alphas` `[B]`; 1 everywhere with `gamma=None`."""
    if gamma is None:
        return torch.ones_like(alphas)
    return (alphas / (1 - alphas)).clamp(max=gamma)


class Posterior(NamedTuple):
    """`q(x_{t-1} | x_t, x0)`: its mean as coefficients of x0 and x_t, and both ends of the reverse log-variance."""

    clean_coefficient: torch.Tensor
    noisy_coefficient: torch.Tensor
    smallest_log_variance: torch.Tensor  # of the posterior; at t = 0, where it is 0, that of t = 1
    largest_log_variance: torch.Tensor  # beta_t


def posterior(timesteps: torch.Tensor, alphas_cumprod: torch.Tensor) -> Posterior:
    """The posterior at `timesteps` `[B]` of the schedule `alphas_cumprod` `[T]` (DDPM, eq. 7), in float64."""
    alphas_cumprod = alphas_cumprod.to(timesteps.device, torch.float64)
    before = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    betas = 1 - alphas_cumprod / before
    variance = betas * (1 - before) / (1 - alphas_cumprod)
    variance = torch.cat([variance[1:2] if len(variance) > 1 else betas[:1], variance[1:]])
    clean = before.sqrt() * betas / (1 - alphas_cumprod)
    noisy = (1 - betas).sqrt() * (1 - before) / (1 - alphas_cumprod)
    return Posterior(*(values[timesteps] for values in (clean, noisy, variance.log(), betas.log())))


def variational_bound(
    estimate: torch.Tensor,
    variance: torch.Tensor,
    clean: torch.Tensor,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
) -> torch.Tensor:
    """
    L_t of each row: nats per component of a latent (improved DDPM, section 2.1; the likelihood at t = 0 is that of a
    density, since latents are continuous).

    Args:
        estimate (`torch.FloatTensor` of shape `(B, Z, C)`): x0 as the model has it.
        variance (`torch.FloatTensor` of shape `(B, Z, C)`): v; -1 is the smallest, 1 the largest log-variance.
        clean, noisy (`torch.FloatTensor` of shape `(B, Z, C)`): x0 and x_t.
        timesteps (`torch.LongTensor` of shape `(B,)`): t.
        alphas_cumprod (`torch.FloatTensor` of shape `(T,)`): the schedule.

    Returns:
        `torch.FloatTensor` of shape `(B,)`.
    """
    shape = (-1, *[1] * (clean.ndim - 1))
    parts = Posterior(*(part.float().view(shape) for part in posterior(timesteps, alphas_cumprod)))
    fraction = (variance.float() + 1) / 2
    log_variance = fraction * parts.largest_log_variance + (1 - fraction) * parts.smallest_log_variance
    # Both means are the same combination, of the true x0 and of the estimate.
    squared_distance = (parts.clean_coefficient * (clean - estimate).float()) ** 2
    true_log_variance = parts.smallest_log_variance
    divergence = 0.5 * (
        log_variance
        - true_log_variance
        + torch.exp(true_log_variance - log_variance)
        + squared_distance * torch.exp(-log_variance)
        - 1
    )
    surprise = 0.5 * (math.log(2 * math.pi) + log_variance + squared_distance * torch.exp(-log_variance))
    return torch.where(timesteps.view(shape) == 0, surprise, divergence).flatten(1).mean(-1)


class LatentDiffusionLoss(NamedTuple):
    """The loss and, detached, its parts for the log."""

    loss: torch.Tensor  # scalar: what is differentiated
    weighted: torch.Tensor  # [B] Min-SNR-weighted squared error, mean over components
    squared_error: torch.Tensor  # [B] unweighted
    bound: torch.Tensor  # [B] L_t, nats per component; 0 without a learned variance


def latent_diffusion_loss(
    estimate: torch.Tensor,
    variance: torch.Tensor | None,
    clean: torch.Tensor,
    noisy: torch.Tensor,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    *,
    gamma: float | None = 5.0,
    variance_weight: float = 1e-3,
    num_items: int | torch.Tensor,
) -> LatentDiffusionLoss:
    """
    The hybrid loss above, summed over rows and divided by `num_items`, in float32.

    Args:
        estimate, variance, clean, noisy, timesteps, alphas_cumprod: as in [`variational_bound`]; without `variance`
            the first term alone.
        gamma (`float`, *optional*): of the Min-SNR weights.
        variance_weight (`float`): lambda; 1e-3 is improved DDPM's.
        num_items (`int` or scalar tensor): rows of the whole optimizer step, over accumulated batches and devices.
    """
    alphas_cumprod = alphas_cumprod.to(clean.device)
    squared_error = ((estimate - clean).float() ** 2).flatten(1).mean(-1)
    weighted = min_snr_weights(alphas_cumprod[timesteps], gamma) * squared_error
    bound = torch.zeros_like(weighted)
    if variance is not None:
        bound = variational_bound(estimate.detach(), variance, clean, noisy, timesteps, alphas_cumprod)
    total = weighted + variance_weight * len(alphas_cumprod) * bound
    loss = total.sum() / torch.as_tensor(num_items, device=total.device).clamp(min=1)
    return LatentDiffusionLoss(loss, weighted.detach(), squared_error.detach(), bound.detach())


__all__ = [
    "LatentDiffusionLoss",
    "Posterior",
    "add_noise",
    "latent_diffusion_loss",
    "min_snr_weights",
    "noise_schedule",
    "posterior",
    "sample_gaussian",
    "sample_timesteps",
    "sample_uniform",
    "variational_bound",
]
