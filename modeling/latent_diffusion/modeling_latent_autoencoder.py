"""
The language autoencoder: a frozen encoder and a decoder around a latent of fixed size ("Latent diffusion with LLMs for
reasoning", section 3.1). `B` rows, `S` tokens of a text, `Z` vectors of a latent, `C` their width, `D` the encoder's.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForSeq2SeqLM
from transformers.loss.loss_utils import ForMaskedLMLoss
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput
from transformers.utils import can_return_tuple

from hf_latent.modeling.latent_diffusion.configuration_latent_diffusion import LatentDiffusionConfig
from hf_latent.modeling.latent_diffusion.modeling_latent_base import (
    CrossAttentionBlock,
    LatentDiffusionPreTrainedModel,
)


class LatentCompressor(nn.Module):
    """E_ae: learned queries read the encoder's states; what they hold is the latent."""

    normal_parameters = ("queries",)

    def __init__(self, config: LatentDiffusionConfig) -> None:
        super().__init__()
        self.config = config
        width = config.text_config.hidden_size
        num_states = 2 if config.representation == "first_last" else 1
        self.queries = nn.Parameter(torch.empty(config.latent_length, width))
        self.input_norm = nn.LayerNorm(num_states * width)
        self.input_projection = nn.Linear(num_states * width, width)
        self.blocks = nn.ModuleList(CrossAttentionBlock(config) for _ in range(config.autoencoder_num_layers))
        self.output_norm = nn.LayerNorm(width)
        self.output_projection = nn.Linear(width, config.latent_dim)
        self.latent_norm = (
            nn.LayerNorm(config.latent_dim, elementwise_affine=False) if config.latent_layer_norm else nn.Identity()
        )

    def forward(self, states: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Latents `[B, Z, C]` of states `[B, S, D]` (2 D for "first_last"); mask `[B, S]`, 0 for padding."""
        states = self.input_projection(self.input_norm(states))
        queries = self.queries.expand(states.shape[0], -1, -1)
        mask = create_bidirectional_mask(self.config, queries, attention_mask, encoder_hidden_states=states)
        for block in self.blocks:
            queries = block(queries, states, mask)
        return self.latent_norm(self.output_projection(self.output_norm(queries)))


class LatentReconstructor(nn.Module):
    """D_ae: learned queries read the latent; what they hold is what the decoder attends to."""

    normal_parameters = ("queries", "positions")

    def __init__(self, config: LatentDiffusionConfig) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.queries = nn.Parameter(torch.empty(config.reconstruction_length, width))
        # Attention reads a set: without them the vectors of a latent could not be told apart.
        self.positions = nn.Parameter(torch.empty(config.latent_length, width))
        self.input_projection = nn.Linear(config.latent_dim, width)
        self.blocks = nn.ModuleList(CrossAttentionBlock(config) for _ in range(config.autoencoder_num_layers))
        self.output_norm = nn.LayerNorm(width)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """States `[B, reconstruction_length, D]` of latents `[B, Z, C]`."""
        states = self.input_projection(latents) + self.positions
        queries = self.queries.expand(latents.shape[0], -1, -1)
        for block in self.blocks:
            queries = block(queries, states)
        return self.output_norm(queries)


@dataclass
class LatentAutoencoderOutput(Seq2SeqLMOutput):
    """[`~transformers.modeling_outputs.Seq2SeqLMOutput`] with `latents` `[B, Z, C]`, as they left the compressor."""

    latents: torch.FloatTensor | None = None


class LatentAutoencoder(LatentDiffusionPreTrainedModel):
    """
    `x ~ D_lm(D_ae(E_ae(E_lm(x))))`. The encoder E_lm and the embeddings that it shares with the decoder are frozen and
    stay in evaluation mode; compressor, reconstructor and the decoder's layers are trained.

    Buffers: `latent_mean` and `latent_std` `[Z, C]`, which `normalize` uses; 0 and 1 until `set_statistics`.
    """

    # Of a checkpoint of the whole model.
    _keys_to_ignore_on_load_unexpected = [r"^denoiser\."]

    def __init__(self, config: LatentDiffusionConfig) -> None:
        super().__init__(config)
        self.language_model = AutoModelForSeq2SeqLM.from_config(config.text_config)
        self.compressor = LatentCompressor(config)
        self.reconstructor = LatentReconstructor(config)
        # Persistent: a checkpoint without its statistics decodes noise.
        self.register_buffer("latent_mean", torch.zeros(config.latent_length, config.latent_dim))
        self.register_buffer("latent_std", torch.ones(config.latent_length, config.latent_dim))
        self.loss_function = ForMaskedLMLoss  # labels are not shifted; the class name would not say so
        self.post_init()
        self.freeze_encoder()

    # What is frozen

    def freeze_encoder(self) -> None:
        """No gradients for the encoder and for every embedding or head that shares its weights."""
        self.language_model.get_encoder().requires_grad_(False)
        self.language_model.get_input_embeddings().requires_grad_(False)

    def train(self, mode: bool = True) -> "LatentAutoencoder":
        """As in torch; the encoder stays frozen and in evaluation mode: latents do not depend on dropout."""
        super().train(mode)
        self.language_model.get_encoder().eval()
        self.freeze_encoder()  # `from_pretrained` makes new parameters, which want gradients, and then calls `eval`
        return self

    def get_input_embeddings(self) -> nn.Module:
        """Embeddings of the tokens, shared by encoder and decoder."""
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace them."""
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The decoder's head."""
        return self.language_model.get_output_embeddings()

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """As in transformers; the encoder-decoder knows what else has the size of the vocabulary."""
        embeddings = self.language_model.resize_token_embeddings(*args, **kwargs)
        self.freeze_encoder()
        return embeddings

    # The four parts

    @torch.no_grad()
    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """E_lm: states `[B, S, D]`, or `[B, S, 2 D]` for "first_last" (first the last states)."""
        wants_first = self.config.representation == "first_last"
        outputs = self.language_model.get_encoder()(
            input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=wants_first
        )
        if not wants_first:
            return outputs.last_hidden_state
        return torch.cat([outputs.last_hidden_state, outputs.hidden_states[0]], dim=-1)

    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, *, normalized: bool = True
    ) -> torch.Tensor:
        """
        E_ae(E_lm(x)): the latents of texts.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`): tokens; padding on the right.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*): 0 for padding.
            normalized: give every component mean 0 and variance 1 over the training data.

        Returns:
            `torch.FloatTensor` of shape `(B, Z, C)`.
        """
        latents = self.compressor(self.encode_text(input_ids, attention_mask), attention_mask)
        return self.normalize(latents) if normalized else latents

    def normalize(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents in the scale of the diffusion."""
        return (latents - self.latent_mean) / self.latent_std

    def denormalize(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents in the scale of the reconstructor."""
        return latents * self.latent_std + self.latent_mean

    def set_statistics(self, mean: torch.Tensor, std: torch.Tensor) -> None:
        """Keep mean and standard deviation of unnormalized latents; anything that broadcasts to `[Z, C]`."""
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all() and (std > 0).all()):
            raise ValueError(f"`mean` and `std` must be finite and `std` positive, got std in [{std.min()}, ...].")
        self.latent_mean.copy_(mean.expand_as(self.latent_mean))
        self.latent_std.copy_(std.expand_as(self.latent_std))

    def reconstruct(
        self,
        latents: torch.Tensor,
        context_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        D_ae: what the decoder attends to, states `[B, R, D]` and their mask `[B, R]`, of unnormalized latents.

        With `decoder_reads_input` the encoder's last states of `context_ids` follow the reconstructed ones.
        """
        states = self.reconstructor(latents)
        mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        if self.config.decoder_reads_input:
            if context_ids is None:
                raise ValueError("`context_ids` must be the input's tokens with `decoder_reads_input`, got None.")
            context_mask = torch.ones_like(context_ids) if context_mask is None else context_mask
            context = self.encode_text(context_ids, context_mask)[..., : states.shape[-1]]
            states = torch.cat([states, context], dim=1)
            mask = torch.cat([mask, context_mask.to(mask.dtype)], dim=1)
        elif context_ids is not None:
            raise ValueError("`context_ids` was given, but the configuration says `decoder_reads_input=False`.")
        return states, mask

    @torch.no_grad()
    def decode(
        self,
        latents: torch.Tensor,
        context_ids: torch.Tensor | None = None,
        context_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        D_lm(D_ae(z)): the texts of normalized latents `(B, Z, C)`.

        Args:
            context_ids, context_mask: the input, with `decoder_reads_input`.
            kwargs: of the encoder-decoder's `generate` (`max_new_tokens`, `num_beams`, ...).

        Returns:
            What that `generate` returns: ids of shape `(B, length)`.
        """
        latents = self.denormalize(latents.to(self.latent_mean.dtype))
        states, mask = self.reconstruct(latents, context_ids, context_mask)
        # Ids that nobody reads, as transformers makes them: it would make them where the first weight is, which of an
        # offloaded model is nowhere.
        ids = torch.full(states.shape[:2], -100, device=states.device)
        return self.language_model.generate(
            ids, encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask, **kwargs
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        decoder_input_ids: torch.LongTensor | None = None,
        context_ids: torch.LongTensor | None = None,
        context_mask: torch.Tensor | None = None,
        latents: torch.FloatTensor | None = None,
        latent_noise: torch.FloatTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> LatentAutoencoderOutput:
        r"""
        Reconstruct texts, with teacher forcing.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, S)`):
                Texts to encode.
            attention_mask (`torch.Tensor` of shape `(B, S)`, *optional*):
                0 for padding.
            labels (`torch.LongTensor` of shape `(B, S')`, *optional*):
                Tokens to predict, not shifted; -100 is ignored. Gives `loss`, nats per token.
            decoder_input_ids (`torch.LongTensor` of shape `(B, S')`, *optional*):
                What the decoder reads; the labels, shifted, if not given.
            context_ids, context_mask (*optional*):
                The input, with `decoder_reads_input`.
            latents (`torch.FloatTensor` of shape `(B, Z, C)`, *optional*):
                Unnormalized, instead of `input_ids`.
            latent_noise (`torch.FloatTensor` of shape `(B, Z, C)`, *optional*):
                Added to the unnormalized latents before they are decoded.
            num_items_in_batch (*optional*):
                Divisor of the summed loss; the number of labels if not given.
        """
        if (input_ids is None) == (latents is None):
            raise ValueError("Give exactly one of `input_ids` and `latents`.")
        if latents is None:
            latents = self.encode(input_ids, attention_mask, normalized=False)
        noisy = latents if latent_noise is None else latents + latent_noise
        states, mask = self.reconstruct(noisy, context_ids, context_mask)
        if decoder_input_ids is None:
            if labels is None:
                raise ValueError("Give `labels` or `decoder_input_ids`: the decoder has nothing to read.")
            decoder_input_ids = self.language_model.prepare_decoder_input_ids_from_labels(labels=labels)
        outputs = self.language_model(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        )
        loss = None
        if labels is not None:
            size = outputs.logits.shape[-1]
            loss = self.loss_function(outputs.logits, labels, size, num_items_in_batch=num_items_in_batch)
        return LatentAutoencoderOutput(
            loss=loss, logits=outputs.logits, encoder_last_hidden_state=states, latents=latents
        )


__all__ = ["LatentAutoencoder", "LatentAutoencoderOutput", "LatentCompressor", "LatentReconstructor"]
