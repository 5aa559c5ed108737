"""Latent diffusion on an encoder-decoder: the language autoencoder and the denoiser of its latents, together."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.utils import ModelOutput, can_return_tuple

from hf_latent.modeling.latent_diffusion.configuration_latent_diffusion import LatentDiffusionConfig
from hf_latent.modeling.latent_diffusion.configuration_latent_sampling import LatentDiffusionGenerationConfig
from hf_latent.modeling.latent_diffusion.modeling_latent_autoencoder import LatentAutoencoder
from hf_latent.modeling.latent_diffusion.modeling_latent_base import LatentDiffusionPreTrainedModel, check_fields
from hf_latent.modeling.latent_diffusion.modeling_latent_denoiser import LatentDenoiser
from hf_latent.modeling.latent_diffusion.modeling_latent_sampling import (
    LatentDiffusionGenerationMixin,
    build_scheduler,
)


@dataclass
class LatentDiffusionOutput(ModelOutput):
    """
    Args:
        loss (`torch.FloatTensor`, scalar, *optional*): mean squared error of `sample`.
        sample (`torch.FloatTensor` of shape `(B, Z, C)`): estimate of the clean latents.
        variance (`torch.FloatTensor` of shape `(B, Z, C)`, *optional*): v of the reverse step's variance.
        condition (`torch.FloatTensor` of shape `(B, Z, C)`): latents of the inputs.
        latents (`torch.FloatTensor` of shape `(B, Z, C)`): the noisy latents that were denoised.
    """

    loss: torch.FloatTensor | None = None
    sample: torch.FloatTensor | None = None
    variance: torch.FloatTensor | None = None
    condition: torch.FloatTensor | None = None
    latents: torch.FloatTensor | None = None


class LatentDiffusionForConditionalGeneration(LatentDiffusionGenerationMixin, LatentDiffusionPreTrainedModel):
    """
    Text from text by denoising the latent of the output under the latent of the input. The denoiser is what is
    trained; the autoencoder comes from a stage before and is frozen as a whole.
    """

    def __init__(self, config: LatentDiffusionConfig) -> None:
        super().__init__(config)
        self.autoencoder = LatentAutoencoder(config)
        self.denoiser = LatentDenoiser(config)
        self.loss_function = nn.functional.mse_loss
        self.post_init()
        self.autoencoder.requires_grad_(False)

    @classmethod
    def from_autoencoder(
        cls, autoencoder: str | LatentAutoencoder, **kwargs: Any
    ) -> "LatentDiffusionForConditionalGeneration":
        """
        A model with a random denoiser around a trained autoencoder.

        Args:
            autoencoder: the model, a folder or a name on the Hub.
            kwargs: fields of [`LatentDiffusionConfig`] that say something about denoiser or noise schedule.
        """
        check_fields(kwargs)
        source: Any = autoencoder
        if isinstance(autoencoder, str):
            source = LatentAutoencoder.from_pretrained(autoencoder)
        stored = {key: value for key, value in source.config.to_dict().items() if key not in DERIVED}
        model = cls(LatentDiffusionConfig.from_dict({**stored, **kwargs})).to(source.dtype)
        model.autoencoder.load_state_dict(source.state_dict())
        model.adopt_generation_config(source.language_model.generation_config)
        return model.eval()

    def adopt_generation_config(self, generation_config: GenerationConfig) -> None:
        """Decode as the encoder-decoder was told to."""
        self.generation_config = LatentDiffusionGenerationConfig.from_dict(generation_config.to_dict())

    def train(self, mode: bool = True) -> "LatentDiffusionForConditionalGeneration":
        """As in torch; the autoencoder stays frozen, also after `from_pretrained`, and in evaluation mode."""
        super().train(mode)
        self.autoencoder.eval()
        self.autoencoder.requires_grad_(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Embeddings of the tokens."""
        return self.autoencoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The decoder's head."""
        return self.autoencoder.get_output_embeddings()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As in transformers."""
        embeddings = self.autoencoder.resize_token_embeddings(*args, **kwargs)
        self.autoencoder.requires_grad_(False)
        return embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        latents: torch.FloatTensor | None = None,
        timesteps: torch.LongTensor | None = None,
        noise: torch.FloatTensor | None = None,
        condition: torch.FloatTensor | None = None,
        drop_condition: torch.BoolTensor | None = None,
        self_condition: torch.FloatTensor | None = None,
        **kwargs: Any,
    ) -> LatentDiffusionOutput:
        r"""
        Denoise latents of the outputs once.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`):
                Inputs, padded on the right.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*):
                0 for padding.
            labels (`torch.LongTensor` of shape `(B, S')`, *optional*):
                Outputs, -100 for padding. They are encoded and noised, and `loss` is the plain squared error; the
                trainer's objective, with its weights and the variance, is in `hf_latent.training`.
            latents (`torch.FloatTensor` of shape `(B, Z, C)`, *optional*):
                Noisy latents, instead of `labels`.
            timesteps (`torch.LongTensor` of shape `(B,)`, *optional*):
                Noise levels; needed with `latents`, drawn from torch's global generator otherwise.
            noise (`torch.FloatTensor` of shape `(B, Z, C)`, *optional*):
                For `labels`; drawn if not given.
            condition (`torch.FloatTensor` of shape `(B, Z, C)`, *optional*):
                Normalized latents of the inputs, instead of `input_ids`.
            drop_condition, self_condition (*optional*):
                See [`LatentDenoiser`].
        """
        if (labels is None) == (latents is None):
            raise ValueError("Give exactly one of `labels` and `latents`.")
        if latents is not None and timesteps is None:
            raise ValueError("`timesteps` must say how noisy the `latents` are, got None.")
        if condition is None:
            condition = self.autoencoder.encode(input_ids, attention_mask)
        target = None
        if labels is not None:
            mask = labels != -100
            target = self.autoencoder.encode(labels.masked_fill(~mask, self.config.pad_token_id), mask.long())
            if timesteps is None:
                timesteps = torch.randint(self.config.num_train_timesteps, (len(target),), device=target.device)
            noise = torch.randn_like(target) if noise is None else noise
            latents = build_scheduler(self.config).add_noise(target, noise, timesteps)
        output = self.denoiser(latents, timesteps, condition, drop_condition, self_condition)
        return LatentDiffusionOutput(
            loss=None if target is None else self.loss_function(output.sample, target),
            sample=output.sample,
            variance=output.variance,
            condition=condition,
            latents=latents,
        )


# Filled in by the configuration where they are not given: they follow from what may be replaced.
DERIVED = ("diffusion_length", "denoiser_intermediate_size")

__all__ = ["LatentDiffusionForConditionalGeneration", "LatentDiffusionOutput"]
