"""Configuration of latent diffusion on an encoder-decoder: language autoencoder, denoiser, noise schedule."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from hf_latent.modeling.travel import TravellingConfigMixin

REPRESENTATIONS = ("last", "first_last")
CONDITIONINGS = ("in_context", "cross_attention", "adaln_zero")
BETA_SCHEDULES = ("squaredcos_cap_v2", "linear", "scaled_linear")
LARGEST_BETA = 0.999
SPECIAL_TOKENS = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
SIZES = (
    "latent_length",
    "latent_dim",
    "reconstruction_length",
    "autoencoder_num_layers",
    "autoencoder_num_heads",
    "diffusion_length",
    "denoiser_hidden_size",
    "denoiser_num_layers",
    "denoiser_num_heads",
    "denoiser_intermediate_size",
    "num_train_timesteps",
)


@strict
class LatentDiffusionConfig(TravellingConfigMixin, PreTrainedConfig):
    r"""
    Configuration of [`LatentAutoencoder`], [`LatentDenoiser`] and [`LatentDiffusionForConditionalGeneration`]. The
    defaults are those of "Latent diffusion with LLMs for reasoning", sections 3 and A.

    Args:
        text_config (`PreTrainedConfig` or `dict`, *optional*):
            The encoder-decoder, BART or T5; BART-base's shape if not given.
        latent_length, latent_dim (`int`, *optional*, defaults to 16 and 256):
            Vectors of a latent and their width.
        representation (`str`, *optional*, defaults to `"last"`):
            What is compressed: the encoder's last states, or `"first_last"`, those concatenated to what its first
            layer reads (the paper's choice for BART-large, whose last states alone do not reconstruct).
        latent_layer_norm (`bool`, *optional*, defaults to `True`):
            Every vector of a latent leaves the compressor with mean 0 and variance 1, so that noise of a given size
            means the same to every latent.
        reconstruction_length (`int`, *optional*):
            States that the decoder attends to; `latent_length` if not given.
        autoencoder_num_layers, autoencoder_num_heads (`int`, *optional*):
            Cross-attention blocks of compressor and reconstructor (2 each) and their heads (the encoder's).
        autoencoder_dropout (`float`, *optional*, defaults to 0.0): in those blocks.
        decoder_reads_input (`bool`, *optional*, defaults to `False`):
            The decoder attends to the encoder's states of the *input* too (section 3.3).
        diffusion_length (`int`, *optional*):
            Positions that the latent is projected and reshaped to; `latent_length` if not given.
        denoiser_hidden_size, denoiser_num_layers, denoiser_num_heads (`int`, *optional*, defaults to 768, 12, 12):
            Shape of the transformer.
        denoiser_intermediate_size (`int`, *optional*): of its MLPs; four times the width if not given.
        denoiser_dropout (`float`, *optional*, defaults to 0.0): in attention and MLPs.
        conditioning (`str`, *optional*, defaults to `"in_context"`):
            How the input's latent conditions the denoiser: `"in_context"`, `"cross_attention"` or `"adaln_zero"`.
        self_conditioning (`bool`, *optional*, defaults to `False`):
            The denoiser also reads its previous estimate (arXiv 2208.04202).
        learned_variance (`bool`, *optional*, defaults to `True`):
            It also predicts the variance of the reverse step (arXiv 2102.09672).
        num_train_timesteps (`int`, *optional*, defaults to 1000): T.
        beta_schedule (`str`, *optional*, defaults to `"squaredcos_cap_v2"`): noise schedule, by diffusers' name.
        beta_start, beta_end (`float`, *optional*, defaults to 1e-4 and 0.02):
            Ends of the schedules `"linear"` and `"scaled_linear"` at T = 1000; others are scaled by 1000 / T, so that
            T says how finely the same schedule is cut (arXiv 2102.09672).
        initializer_range (`float`, *optional*, defaults to 0.02): of everything but the encoder-decoder.

    Raises:
        ValueError: naming the field, its value and what is allowed.
    """

    model_type = "latent_diffusion"
    travels_with = ("hf_latent.modeling.latent_diffusion.modeling_latent_diffusion",)
    auto_classes = {
        "AutoModel": "LatentDiffusionForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "LatentDiffusionForConditionalGeneration",
    }
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="bart")}
    is_encoder_decoder: bool | None = True

    text_config: Any = None  # a mapping at first, a configuration from `__post_init__` on

    latent_length: int = 16
    latent_dim: int = 256
    representation: str = "last"
    latent_layer_norm: bool = True
    reconstruction_length: int | None = None
    autoencoder_num_layers: int = 2
    autoencoder_num_heads: int | None = None
    autoencoder_dropout: float | int = 0.0
    decoder_reads_input: bool = False

    diffusion_length: int | None = None
    denoiser_hidden_size: int = 768
    denoiser_num_layers: int = 12
    denoiser_num_heads: int = 12
    denoiser_intermediate_size: int | None = None
    denoiser_dropout: float | int = 0.0
    conditioning: str = "in_context"
    self_conditioning: bool = False
    learned_variance: bool = True

    num_train_timesteps: int = 1000
    beta_schedule: str = "squaredcos_cap_v2"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    initializer_range: float = 0.02

    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    decoder_start_token_id: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in SPECIAL_TOKENS:
            if getattr(self, name) is None:
                setattr(self, name, getattr(self.text_config, name, None))
        # transformers ties the weights of a model inside another by what the outer configuration says.
        self.tie_word_embeddings = self.text_config.tie_word_embeddings
        if self.autoencoder_num_heads is None:
            self.autoencoder_num_heads = self.text_config.num_attention_heads
        if self.reconstruction_length is None:
            self.reconstruction_length = self.latent_length
        if self.diffusion_length is None:
            self.diffusion_length = self.latent_length
        if self.denoiser_intermediate_size is None:
            self.denoiser_intermediate_size = 4 * self.denoiser_hidden_size
        # Also run by `@strict`, which hides the ValueError in an error type of its own.
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Refuse impossible shapes and unknown names."""
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        for name, allowed in {
            "representation": REPRESENTATIONS,
            "conditioning": CONDITIONINGS,
            "beta_schedule": BETA_SCHEDULES,
        }.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {getattr(self, name)!r}."
                )
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"`beta_start` and `beta_end` must be rising within (0, 1), got {self.beta_start} and {self.beta_end}."
            )
        for name in ("autoencoder_dropout", "denoiser_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1), got {getattr(self, name)}.")
        if not self.text_config.is_encoder_decoder:
            raise ValueError(
                f"`text_config` must be of an encoder-decoder such as BART or T5, got {self.text_config.model_type!r}."
            )
        if self.text_config.hidden_size % self.autoencoder_num_heads:
            raise ValueError(
                f"`autoencoder_num_heads` must divide the encoder's width ({self.text_config.hidden_size}), got "
                f"{self.autoencoder_num_heads}."
            )
        if self.denoiser_hidden_size % self.denoiser_num_heads or self.denoiser_hidden_size % 2:
            raise ValueError(
                f"`denoiser_hidden_size` must be even and a multiple of `denoiser_num_heads` "
                f"({self.denoiser_num_heads}), got {self.denoiser_hidden_size}."
            )
        if self.diffusion_length * self.denoiser_hidden_size % self.latent_length:
            raise ValueError(
                f"`diffusion_length` times `denoiser_hidden_size` ({self.diffusion_length} x "
                f"{self.denoiser_hidden_size}) must be a multiple of `latent_length` ({self.latent_length})."
            )

    @property
    def scheduler_arguments(self) -> dict[str, Any]:
        """The noise schedule, as arguments of a scheduler of diffusers."""
        arguments = {"num_train_timesteps": self.num_train_timesteps, "beta_schedule": self.beta_schedule}
        if self.beta_schedule == "squaredcos_cap_v2":
            return arguments
        finer = 1000 / self.num_train_timesteps
        return arguments | {
            "beta_start": min(self.beta_start * finer, LARGEST_BETA),
            "beta_end": min(self.beta_end * finer, LARGEST_BETA),
        }

    @property
    def projection_size(self) -> int:
        """d_proj: what each vector of a latent is projected to, so that all together fill `diffusion_length`."""
        return self.diffusion_length * self.denoiser_hidden_size // self.latent_length


__all__ = ["BETA_SCHEDULES", "CONDITIONINGS", "REPRESENTATIONS", "LatentDiffusionConfig"]
