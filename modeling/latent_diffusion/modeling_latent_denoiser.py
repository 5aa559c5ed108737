"""
The denoiser: a diffusion transformer (DiT, arXiv 2212.09748) over latents, conditioned on the input's latent in one of
three ways ("Latent diffusion with LLMs for reasoning", sections 3.2 and 4.3).

`B` rows, `Z` vectors of a latent, `C` their width, `L` = `diffusion_length`, `D` = `denoiser_hidden_size`.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bart.modeling_bart import BartAttention
from transformers.utils import ModelOutput, can_return_tuple

from hf_latent.modeling.latent_diffusion.configuration_latent_diffusion import LatentDiffusionConfig
from hf_latent.modeling.latent_diffusion.modeling_latent_base import LatentDiffusionPreTrainedModel, ZeroLinear

LONGEST_PERIOD = 10_000.0


def timestep_features(timesteps: torch.Tensor, size: int, num_train_timesteps: int) -> torch.Tensor:
    """
    Cosines and sines `[B, size]` of integer timesteps `[B]` in `[0, T)`, which are scaled to `[0, 1000)` first: what a
    noise level looks like does not depend on how finely T cuts the schedule.
    """
    half = size // 2
    frequencies = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, device=timesteps.device) / half)
    angles = timesteps.float()[:, None] * (1000.0 / num_train_timesteps) * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class LatentProjection(nn.Module):
    """Latents `[B, Z, C]` projected to d_proj and reshaped to `[B, L, D]`, with learned positions."""

    normal_parameters = ("positions",)

    def __init__(self, config: LatentDiffusionConfig, num_latents: int = 1) -> None:
        super().__init__()
        self.config = config
        self.projection = nn.Linear(num_latents * config.latent_dim, config.projection_size)
        self.positions = nn.Parameter(torch.empty(config.diffusion_length, config.denoiser_hidden_size))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Positions `[B, L, D]` of `[B, Z, num_latents * C]`."""
        projected = self.projection(latents)
        return projected.view(len(latents), *self.positions.shape) + self.positions


class DenoiserLayer(GradientCheckpointingLayer):
    """
    A DiT block: self-attention, cross-attention where the condition is read so, MLP. Shift, scale and gate of each are
    regressed from the timestep by a layer that starts at zero: the block starts as the identity.
    """

    def __init__(self, config: LatentDiffusionConfig) -> None:
        super().__init__()
        width, heads, dropout = config.denoiser_hidden_size, config.denoiser_num_heads, config.denoiser_dropout
        self.num_parts = 3 if config.conditioning == "cross_attention" else 2
        # Scale and shift come from the modulation.
        self.norms = nn.ModuleList(
            nn.LayerNorm(width, eps=1e-6, elementwise_affine=False) for _ in range(self.num_parts)
        )
        self.self_attention = BartAttention(width, heads, dropout=dropout, config=config)
        if config.conditioning == "cross_attention":
            self.cross_attention = BartAttention(width, heads, dropout=dropout, config=config)
        self.fc1 = nn.Linear(width, config.denoiser_intermediate_size)
        self.activation = ACT2FN["gelu_pytorch_tanh"]
        self.fc2 = nn.Linear(config.denoiser_intermediate_size, width)
        self.dropout = nn.Dropout(dropout)
        self.modulation = ZeroLinear(width, 3 * self.num_parts * width)

    def forward(
        self, hidden_states: torch.Tensor, time_states: torch.Tensor, condition_states: torch.Tensor | None = None
    ) -> torch.Tensor:
        """`hidden_states` `[B, L, D]` (2 L in context), `time_states` `[B, D]`, `condition_states` `[B, L, D]`."""
        parts = self.modulation(time_states)[:, None].chunk(self.num_parts, dim=-1)
        modulations = [part.chunk(3, dim=-1) for part in parts]  # shift, scale, gate, each [B, 1, D]

        shift, scale, gate = modulations[0]
        read, _ = self.self_attention(modulate(self.norms[0](hidden_states), shift, scale))
        hidden_states = hidden_states + gate * self.dropout(read)
        if condition_states is not None:
            shift, scale, gate = modulations[1]
            queries = modulate(self.norms[1](hidden_states), shift, scale)
            read, _ = self.cross_attention(queries, key_value_states=condition_states)
            hidden_states = hidden_states + gate * self.dropout(read)
        shift, scale, gate = modulations[-1]
        inner = self.activation(self.fc1(modulate(self.norms[-1](hidden_states), shift, scale)))
        return hidden_states + gate * self.dropout(self.fc2(inner))


def modulate(states: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Adaptive layer norm: what the timestep makes of normalised states."""
    return states * (1 + scale) + shift


@dataclass
class LatentDenoiserOutput(ModelOutput):
    """
    Args:
        sample (`torch.FloatTensor` of shape `(B, Z, C)`): estimate of the clean latents x0.
        variance (`torch.FloatTensor` of shape `(B, Z, C)`, *optional*):
            v of the reverse step's variance `exp(f log beta_t + (1 - f) log beta~_t)`, `f = (v + 1) / 2`.
        hidden_states (`torch.FloatTensor` of shape `(B, L, D)`): of the last block; `(B, 2 L, D)` in context.
    """

    sample: torch.FloatTensor | None = None
    variance: torch.FloatTensor | None = None
    hidden_states: torch.FloatTensor | None = None


class LatentDenoiser(LatentDiffusionPreTrainedModel):
    """Estimate of the clean latents, and of the reverse step's variance, from noisy ones and the input's latent."""

    base_model_prefix = "denoiser"
    main_input_name = "latents"
    normal_parameters = ("null_condition",)

    def __init__(self, config: LatentDiffusionConfig) -> None:
        super().__init__(config)
        width = config.denoiser_hidden_size
        self.input_projection = LatentProjection(config, 2 if config.self_conditioning else 1)
        # What stands for the input's latent where there is none.
        self.null_condition = nn.Parameter(torch.empty(config.latent_length, config.latent_dim))
        if config.conditioning == "adaln_zero":
            self.condition_projection = nn.Linear(config.latent_length * config.latent_dim, width)
        else:
            self.condition_projection = LatentProjection(config)
        self.time_embedding = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(DenoiserLayer(config) for _ in range(config.denoiser_num_layers))
        self.output_norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.output_modulation = ZeroLinear(width, 2 * width)
        self.sample_projection = ZeroLinear(config.projection_size, config.latent_dim)
        if config.learned_variance:
            # Reads the condition's positions in context, otherwise the same as the sample.
            self.variance_projection = ZeroLinear(config.projection_size, config.latent_dim)
        self.loss_function = nn.functional.mse_loss
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        latents: torch.FloatTensor,
        timesteps: torch.LongTensor,
        condition: torch.FloatTensor | None = None,
        drop_condition: torch.BoolTensor | None = None,
        self_condition: torch.FloatTensor | None = None,
    ) -> LatentDenoiserOutput:
        r"""
        Args:
            latents (`torch.FloatTensor` of shape `(B, Z, C)`):
                Noisy latents x_t, normalized.
            timesteps (`torch.LongTensor` of shape `(B,)`):
                t, in [0, T).
            condition (`torch.FloatTensor` of shape `(B, Z, C)`, *optional*):
                The input's latents, normalized; without them the estimate is unconditional.
            drop_condition (`torch.BoolTensor` of shape `(B,)`, *optional*):
                Rows that are estimated without their condition.
            self_condition (`torch.FloatTensor` of shape `(B, Z, C)`, *optional*):
                Estimate of a step before, with `self_conditioning`; zeros if not given.
        """
        if self_condition is not None and not self.config.self_conditioning:
            raise ValueError("`self_condition` was given, but the configuration says `self_conditioning=False`.")
        num_rows, conditioning = len(latents), self.config.conditioning
        time_states = self.embed_time(timesteps).to(latents.dtype)
        condition = self.resolve_condition(condition, drop_condition, num_rows)

        if self.config.self_conditioning:
            self_condition = torch.zeros_like(latents) if self_condition is None else self_condition
            latents = torch.cat([latents, self_condition], dim=-1)
        hidden_states = self.input_projection(latents)  # [B, L, D]
        condition_states = None
        if conditioning == "adaln_zero":
            time_states = time_states + self.condition_projection(condition.flatten(1))
        elif conditioning == "in_context":
            hidden_states = torch.cat([hidden_states, self.condition_projection(condition)], dim=1)
        else:
            condition_states = self.condition_projection(condition)

        time_states = nn.functional.silu(time_states)
        for layer in self.layers:
            hidden_states = layer(hidden_states, time_states, condition_states)

        shift, scale = self.output_modulation(time_states)[:, None].chunk(2, dim=-1)
        states = modulate(self.output_norm(hidden_states), shift, scale)
        states = states.unflatten(1, (-1, self.config.diffusion_length))  # [B, 1 or 2, L, D]
        states = states.reshape(num_rows, -1, self.config.latent_length, self.config.projection_size)
        return LatentDenoiserOutput(
            sample=self.sample_projection(states[:, 0]),
            variance=self.variance_projection(states[:, -1]) if self.config.learned_variance else None,
            hidden_states=hidden_states,
        )

    def embed_time(self, timesteps: torch.Tensor) -> torch.Tensor:
        """`[B, D]` of integer timesteps `[B]`."""
        size, dtype = self.config.denoiser_hidden_size, self.time_embedding[0].weight.dtype
        return self.time_embedding(timestep_features(timesteps, size, self.config.num_train_timesteps).to(dtype))

    def resolve_condition(
        self, condition: torch.Tensor | None, drop: torch.Tensor | None, num_rows: int
    ) -> torch.Tensor:
        """The condition `[B, Z, C]`, with the learned one in rows that have none."""
        if condition is None:
            return self.null_condition.expand(num_rows, -1, -1)
        if drop is None:
            return condition
        return torch.where(drop[:, None, None], self.null_condition.to(condition.dtype), condition)


__all__ = ["LatentDenoiser", "LatentDenoiserOutput", "timestep_features"]
