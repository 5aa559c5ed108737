"""Configuration of [`LatentDiffusionTrainer`]: transformers' `TrainingArguments` plus stage and objective."""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from hf_latent.training.common.fields import choice
from hf_latent.training.common.objectives import TIME_SAMPLINGS

STAGES = ("autoencoder", "denoiser")
RECONSTRUCTIONS = ("both", "target")
STATISTICS = ("element", "channel", "global")
# Field to the stage that reads it; set to anything but the default in the other, it raises.
READ_BY = {
    "reconstruct": "autoencoder",
    "latent_noise": "autoencoder",
    "min_snr_gamma": "denoiser",
    "variance_loss_weight": "denoiser",
    "condition_dropout": "denoiser",
    "self_condition_rate": "denoiser",
    "time_sampling": "denoiser",
    "ema_decay": "denoiser",
}


@dataclass
class LatentDiffusionTrainingConfig(TrainingArguments):
    r"""
    Arguments of [`LatentDiffusionTrainer`]. Those of [`~transformers.TrainingArguments`] keep their meaning;
    `remove_unused_columns` and `label_smoothing_factor` cannot be used.

    Parameters:
        stage (`str`, *optional*, defaults to `"autoencoder"`):
            What is trained: `"autoencoder"` (compressor, reconstructor, decoder) or `"denoiser"`.
        noise_seed (`int`, *optional*):
            Seed of all noise; defaults to `seed`.
        latent_statistics (`str`, *optional*, defaults to `"element"`):
            What shares a mean and a standard deviation when latents are normalized: nothing (`"element"`), the
            vectors of a latent (`"channel"`), or everything (`"global"`).
        encode_batch_size (`int`, *optional*, defaults to 256):
            Texts that are encoded at a time where nothing is trained: latents to cache, statistics.

        > Autoencoder

        reconstruct (`str`, *optional*, defaults to `"both"`):
            Texts to reconstruct: inputs and targets (`"both"`), both of which become latents, or targets alone.
        latent_noise (`float`, *optional*, defaults to 0.0):
            Largest standard deviation of the noise that is added to latents before they are decoded; a row's is
            uniform between 0 and that. The decoder learns to bear with imperfect latents (section 3.3 of the paper).

        > Denoiser

        min_snr_gamma (`float`, *optional*, defaults to 5.0):
            Cap of the loss weights min(SNR, gamma). 0 weighs all timesteps the same.
        variance_loss_weight (`float`, *optional*, defaults to 1e-3):
            lambda of the learned variance's term.
        condition_dropout (`float`, *optional*, defaults to 0.1):
            Share of rows that are denoised without their condition, for classifier-free guidance.
        self_condition_rate (`float`, *optional*, defaults to 0.5):
            Share of rows that read a first estimate, if the model has `self_conditioning`.
        time_sampling (`str`, *optional*, defaults to `"low_discrepancy"`):
            `"low_discrepancy"` (timesteps evenly spread over examples and epochs) or `"independent"`.
        ema_decay (`float`, *optional*):
            Keep an exponential moving average of the denoiser, which is what is evaluated and saved at the end.
    """

    stage: str = choice("autoencoder", STAGES, "What is trained.")
    noise_seed: int | None = field(default=None, metadata={"help": "Seed of all noise. Defaults to `seed`."})
    latent_statistics: str = choice("element", STATISTICS, "What shares mean and standard deviation of latents.")
    encode_batch_size: int = field(default=256, metadata={"help": "Texts encoded at a time for the cache."})
    reconstruct: str = choice("both", RECONSTRUCTIONS, "Texts the autoencoder reconstructs.")
    latent_noise: float = field(
        default=0.0, metadata={"help": "Largest standard deviation of noise on latents before they are decoded."}
    )
    min_snr_gamma: float = field(default=5.0, metadata={"help": "Cap of min(SNR, gamma). 0: no weights."})
    variance_loss_weight: float = field(default=1e-3, metadata={"help": "Weight of the learned variance's term."})
    condition_dropout: float = field(default=0.1, metadata={"help": "Share of rows denoised without condition."})
    self_condition_rate: float = field(default=0.5, metadata={"help": "Share of rows that read a first estimate."})
    time_sampling: str = choice(
        "low_discrepancy", TIME_SAMPLINGS, "How timesteps are spread over examples and epochs."
    )
    ema_decay: float | None = field(default=None, metadata={"help": "Decay of the denoiser's moving average."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must stay False."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise_seed is None:
            self.noise_seed = self.seed
        for name, allowed in (
            ("stage", STAGES),
            ("latent_statistics", STATISTICS),
            ("reconstruct", RECONSTRUCTIONS),
            ("time_sampling", TIME_SAMPLINGS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}")
        for name in ("condition_dropout", "self_condition_rate"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}")
        for name in ("latent_noise", "min_snr_gamma", "variance_loss_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be in (0, 1), got {self.ema_decay}")
        if not 0 <= self.noise_seed < 2**63:
            raise ValueError(f"`noise_seed` must be in [0, 2**63), got {self.noise_seed}")
        if self.encode_batch_size < 1:
            raise ValueError(f"`encode_batch_size` must be at least 1, got {self.encode_batch_size}")
        self._check_unread()

    def _check_unread(self) -> None:
        for name, stage in READ_BY.items():
            default = type(self).__dataclass_fields__[name].default
            if stage != self.stage and getattr(self, name) != default:
                raise ValueError(f"`{name}` is read by the stage {stage!r} only, got {getattr(self, name)!r}")
        if self.remove_unused_columns:
            raise ValueError("`remove_unused_columns` must be False, got True: noise belongs to `example_id`")
        if self.label_smoothing_factor != 0:
            raise ValueError(f"`label_smoothing_factor` must be 0, got {self.label_smoothing_factor}")


__all__ = ["RECONSTRUCTIONS", "STAGES", "STATISTICS", "LatentDiffusionTrainingConfig"]
