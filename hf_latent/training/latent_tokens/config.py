"""Configuration of [`LatentTokenTrainer`]: that of masked diffusion plus how far ahead a model learns to look."""

from dataclasses import dataclass, field

from hf_latent.training.masked_diffusion.config import MaskedDiffusionConfig


@dataclass
class LatentTokenTrainingConfig(MaskedDiffusionConfig):
    r"""
    Arguments of [`LatentTokenTrainer`]: those of [`MaskedDiffusionConfig`], and

    Parameters:
        num_latent_tokens (`list[int]`, *optional*, defaults to `[0, 1, 2, 4, 8]`):
            Numbers of latent tokens, of which every optimizer step draws one: the checkpoint serves them all. One
            number trains for that alone. Evaluation takes the largest.
        latent_loss_weight (`float`, *optional*, defaults to 1.0):
            Lambda, the weight of the latent tokens' mean cross-entropy beside that of the next token. Left to right.
        text_loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of the next token's cross-entropy as the text alone predicts it, which `num_latent_tokens=0` and
            self-speculative decoding use and which costs nothing more; 0 trains the looking-ahead prediction alone
            (a step that draws 0 latent tokens always trains on it). Left to right.
        num_states (`int`, *optional*):
            Tokens of a row behind which the model looks ahead in a step, drawn at random; all of them if not given,
            which makes rows `num_latent_tokens + 2` times as long. Left to right.

    `mask_schedule`, `loss_weighting`, `time_sampling`, `time_epsilon` and `prompt_dropout` are of models that write in
    any order. `packing`, `attention_annealing_steps`, `complementary_masks`, `time_per` and `block_sizes` cannot be
    used.
    """

    num_latent_tokens: list[int] = field(
        default_factory=lambda: [0, 1, 2, 4, 8],
        metadata={"help": "Numbers of latent tokens, of which every optimizer step draws one."},
    )
    latent_loss_weight: float = field(
        default=1.0, metadata={"help": "Weight of the latent tokens' cross-entropy beside the next token's."}
    )
    text_loss_weight: float = field(
        default=1.0, metadata={"help": "Weight of the next token's cross-entropy without latent tokens."}
    )
    num_states: int | None = field(
        default=None, metadata={"help": "Tokens of a row behind which the model looks ahead in a step. Unset: all."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.num_latent_tokens or any(number < 0 for number in self.num_latent_tokens):
            raise ValueError(f"`num_latent_tokens` must be numbers of at least 0, got {self.num_latent_tokens}")
        for name in ("latent_loss_weight", "text_loss_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)}")
        if self.num_states is not None and self.num_states < 1:
            raise ValueError(f"`num_states` must be at least 1, got {self.num_states}")
        for name in ("packing", "attention_annealing_steps", "complementary_masks", "time_per", "block_sizes"):
            if getattr(self, name):
                raise ValueError(f"`{name}` cannot be used with latent tokens, got {getattr(self, name)}")


__all__ = ["LatentTokenTrainingConfig"]
