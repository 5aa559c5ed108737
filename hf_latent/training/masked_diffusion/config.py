"""Configuration of [`MaskedDiffusionTrainer`]: trl's `SFTConfig` plus the objective."""

from dataclasses import dataclass, field

from transformers.utils import is_torch_bf16_gpu_available
from trl import SFTConfig

from hf_latent.training.common.fields import choice
from hf_latent.training.common.objectives import LOSS_NORMALIZATIONS, LOSS_WEIGHTINGS, MASK_SCHEDULES, TIME_SAMPLINGS

EOS_PADDINGS = ("none", "batch", "max_length")
TIMES_PER = ("sequence", "block")
BLOCK_SIZES_PER = ("step", "row")


@dataclass
class MaskedDiffusionConfig(SFTConfig):
    r"""
    Arguments of [`MaskedDiffusionTrainer`]. Those of [`~trl.SFTConfig`] keep their meaning, except:

    - `bf16` left unset means "where the accelerator has it", not always: on a CPU training is in float32;
    - `activation_checkpointing` is off unless asked for (its old name `gradient_checkpointing` is on in trl), because
      recomputing every layer costs small models a fifth of their speed for memory they do not need;
    - `packing` puts several examples of the training set in a row, best fit first, and keeps them apart by a mask;
      evaluation never packs, and `packing_strategy` has to be `"bfd"`, which cuts no example;
    - `padding_free`, `loss_type` and `label_smoothing_factor` cannot be used: see the errors.

    Parameters:
        > Objective

        mask_schedule (`str`, *optional*, defaults to `"linear"`):
            Mask probability of a time: `"linear"` (t) or `"cosine"` (sin(pi t / 2)).
        loss_weighting (`str`, *optional*, defaults to `"nelbo"`):
            Weight of a masked token: `"nelbo"` (the bound on the likelihood), `"inverse_t"` (its name under the linear
            schedule, 1 / t) or `"uniform"` (1).
        loss_normalization (`str`, *optional*, defaults to `"token"`):
            What the summed loss is averaged over: supervised tokens of the optimizer step (`"token"`), rows of nats
            per token (`"sequence"`, LLaDA's SFT), or rows of nats per row (`"batch"`).
        time_sampling (`str`, *optional*, defaults to `"low_discrepancy"`):
            `"low_discrepancy"` (times evenly spread over examples, epochs and blocks), `"antithetic"` (t and 1 - t
            for two neighbours of the data set), `"independent"`, or `"bell"` (times of density 6 t (1 - t), so that
            the loss weighs the middle more; arXiv 2605.13026 for the idea). Evaluation spreads the times of `"bell"`
            evenly, and the logged `nll` of training is the bound all the same.
        time_epsilon (`float`, *optional*, defaults to `1e-3`):
            Smallest time, in [0, 1).
        time_max (`float`, *optional*, defaults to 1.0):
            Largest time. A narrower interval lowers the gradient's variance (BD3LM, arXiv 2503.09573); LLaDA2's is
            0.3 to 0.8. The loss and `nll` then are those of the times that are left.
        time_per (`str`, *optional*):
            Whether a row has one time (`"sequence"`, as SDAR) or each of its blocks one (`"block"`, as BD3LM).
            Defaults to `"block"` for block-causal models; others have no blocks.
        complementary_masks (`bool`, *optional*, defaults to `False`):
            Whether every row comes twice in a step, with a mask and with its complement, at the times t and 1 - t, so
            that each supervised token is learnt once (Fast-dLLM v2, arXiv 2509.26328). The loss is then the mean over
            supervised tokens with `loss_weighting="uniform"`, and the mean of two bounds with `"nelbo"`.
        noise_seed (`int`, *optional*):
            Seed of times, masks and block sizes; defaults to `seed`.
        block_sizes (`list[int]`, *optional*):
            Block sizes to draw from in training, for block-causal models; the configuration's alone if not given,
            and in evaluation.
        block_size_per (`str`, *optional*, defaults to `"step"`):
            Whether an optimizer step draws one block size, or every row.

        attention_annealing_steps (`int`, *optional*, defaults to 0):
            Steps over which attention is opened: at step s each pair of a position and a later one is seen with
            probability s / this. 0: bidirectional from the start. For models that come from a causal one.
        prompt_dropout (`float`, *optional*, defaults to 0.0):
            Share of examples whose prompt is masked and not predicted: the unconditional half of `cfg_scale`.

        > Data

        random_length_share (`float`, *optional*, defaults to 0.0):
            Share of examples that are cut to a random length, 0.01 in LLaDA's pretraining.
        pad_completion_with_eos (`str`, *optional*, defaults to `"none"`):
            Whether rows are filled up with EOS tokens that are attended to, masked and predicted, as in LLaDA's SFT.
            `"none"`: no; padding is neither attended to nor predicted. `"batch"`: to the longest row of the batch, as
            LLaDA does; how much EOS a row has then depends on its neighbours. `"max_length"`: to `max_length`, so that
            every row is a full canvas.
    """

    bf16: bool | None = field(
        default=None,
        metadata={"help": "bfloat16 mixed precision. Unset: used where the accelerator supports it, never on a CPU."},
    )
    gradient_checkpointing: bool | None = field(
        default=None, metadata={"help": "Deprecated alias of `activation_checkpointing`."}
    )
    mask_schedule: str = choice("linear", MASK_SCHEDULES, "Mask probability of a time.")
    loss_weighting: str = choice("nelbo", LOSS_WEIGHTINGS, "Weight of a masked token.")
    loss_normalization: str = choice("token", LOSS_NORMALIZATIONS, "What the summed loss is averaged over.")
    time_sampling: str = choice("low_discrepancy", TIME_SAMPLINGS, "How the times of examples and epochs are spread.")
    time_epsilon: float = field(default=1e-3, metadata={"help": "Smallest time, in [0, 1)."})
    time_max: float = field(default=1.0, metadata={"help": "Largest time, above the smallest and at most 1."})
    time_per: str | None = choice(
        None, TIMES_PER, "What has a time of its own. Unset: a block of block-causal models, a row of others."
    )
    complementary_masks: bool = field(
        default=False, metadata={"help": "Every row twice in a step, with a mask and with its complement."}
    )
    noise_seed: int | None = field(
        default=None, metadata={"help": "Seed of times, masks and block sizes. Defaults to `seed`."}
    )
    block_sizes: list[int] | None = field(
        default=None, metadata={"help": "Block sizes to draw from in training. Unset: the configuration's."}
    )
    block_size_per: str = choice("step", BLOCK_SIZES_PER, "What draws one of `block_sizes`.")
    attention_annealing_steps: int = field(
        default=0, metadata={"help": "Steps over which attention is opened from causal to bidirectional. 0: open."}
    )
    prompt_dropout: float = field(
        default=0.0, metadata={"help": "Share of examples whose prompt is masked, for classifier-free guidance."}
    )
    random_length_share: float = field(
        default=0.0, metadata={"help": "Share of examples that are cut to a random length."}
    )
    pad_completion_with_eos: str = choice(
        "none",
        EOS_PADDINGS,
        "Fill rows with EOS tokens to predict: not at all, to the longest of the batch, to `max_length`.",
    )

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = not self.fp16 and not self.use_cpu and is_torch_bf16_gpu_available()
        super().__post_init__()
        if self.noise_seed is None:
            self.noise_seed = self.seed
        self._check_objective()
        self._check_inherited()

    def _check_objective(self) -> None:
        for name, allowed in (
            ("mask_schedule", tuple(MASK_SCHEDULES)),
            ("loss_weighting", LOSS_WEIGHTINGS),
            ("loss_normalization", LOSS_NORMALIZATIONS),
            ("time_sampling", TIME_SAMPLINGS),
            ("time_per", (None, *TIMES_PER)),
            ("block_size_per", BLOCK_SIZES_PER),
            ("pad_completion_with_eos", EOS_PADDINGS),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"`{name}` must be one of {allowed}, got {getattr(self, name)!r}")
        if self.loss_weighting == "inverse_t" and self.mask_schedule != "linear":
            raise ValueError(
                "`loss_weighting='inverse_t'` is the bound of `mask_schedule='linear'` only, got "
                f"{self.mask_schedule!r}; 'nelbo' is the bound of every schedule"
            )
        if not 0 <= self.time_epsilon < 1:
            raise ValueError(f"`time_epsilon` must be in [0, 1), got {self.time_epsilon}")
        if not self.time_epsilon < self.time_max <= 1:
            raise ValueError(
                f"`time_max` must be above `time_epsilon` ({self.time_epsilon}) and at most 1, got {self.time_max}"
            )
        self._check_complement()
        self._check_block_sizes()
        for name in ("prompt_dropout", "random_length_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}")
        if self.attention_annealing_steps < 0:
            raise ValueError(f"`attention_annealing_steps` must be >= 0, got {self.attention_annealing_steps}")
        if not 0 <= self.noise_seed < 2**63:
            raise ValueError(f"`noise_seed` must be in [0, 2**63), got {self.noise_seed}")
        if self.pad_completion_with_eos == "max_length" and self.max_length is None:
            raise ValueError("`pad_completion_with_eos='max_length'` needs `max_length`, got None")

    def _check_complement(self) -> None:
        if not self.complementary_masks:
            return
        if self.mask_schedule != "linear":
            raise ValueError(
                "`complementary_masks` needs `mask_schedule='linear'`, whose complement has the time 1 - t, got "
                f"{self.mask_schedule!r}"
            )
        low, high = self.time_interval
        if low >= high:
            raise ValueError(
                "`complementary_masks` needs times t such that 1 - t is one, too, which `time_epsilon` "
                f"{self.time_epsilon} and `time_max` {self.time_max} leave none of"
            )

    def _check_block_sizes(self) -> None:
        sizes = self.block_sizes
        if sizes is not None and (not sizes or any(size < 1 for size in sizes)):
            raise ValueError(f"`block_sizes` must be numbers of at least 1, got {sizes}")
        if sizes is None and self.block_size_per != "step":
            raise ValueError(f"`block_size_per` is for `block_sizes`, got {self.block_size_per!r} without")

    @property
    def time_interval(self) -> tuple[float, float]:
        """Smallest and largest time; with complementary masks of those t for which 1 - t is within both, too."""
        low, high = self.time_epsilon, self.time_max
        return (max(low, 1 - high), min(high, 1 - low)) if self.complementary_masks else (low, high)

    def _check_inherited(self) -> None:
        if self.padding_free:
            raise ValueError(
                "`padding_free` must be False, got True: with bidirectional attention the examples that share a row "
                "would see each other. `packing=True` keeps them apart"
            )
        if self.eval_packing:
            raise ValueError("`eval_packing` must be False, got True: evaluation counts example by example")
        if self.packing:
            self._check_packing()
        if self.loss_type != "nll":
            raise ValueError(f"`loss_type` must be 'nll' (the objective has its own fields), got {self.loss_type!r}")
        if self.label_smoothing_factor != 0:
            raise ValueError(f"`label_smoothing_factor` must be 0, got {self.label_smoothing_factor}")

    def _check_packing(self) -> None:
        if self.packing_strategy != "bfd":
            raise ValueError(
                f"`packing_strategy` must be 'bfd', got {self.packing_strategy!r}: the others cut examples in two"
            )
        if self.max_length is None:
            raise ValueError("`packing` needs `max_length`, got None")
        for name in ("attention_annealing_steps", "random_length_share"):
            if getattr(self, name):
                raise ValueError(f"`{name}` must be 0 with `packing`, got {getattr(self, name)}")
        if self.pad_completion_with_eos != "none":
            raise ValueError(
                f"`pad_completion_with_eos` must be 'none' with `packing`, got {self.pad_completion_with_eos!r}"
            )


__all__ = ["BLOCK_SIZES_PER", "EOS_PADDINGS", "TIMES_PER", "MaskedDiffusionConfig"]
