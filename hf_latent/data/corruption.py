"""
Noise of masked diffusion as pure functions of tensors: *when* an example is corrupted, *what* is masked then, and what
a masked token *weighs*.

Notation: `B` rows, `L` positions; `t` in [0, 1] is the time and `m(t) = 1 - alpha_t` the probability that a token is
masked then (MDLM, arXiv 2406.07524; MD4, arXiv 2406.04329). Training and likelihoods draw from here.

All randomness is a hash of (seed, epoch, example, position): the same example meets the same noise alone or in a
batch, padded left or right, on one device or on many, before and after a resume.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from hf_latent.generation.state.noise import GOLDEN, mix

# 2**64 times the fractions of the square roots of two and of three, odd; as int64.
_SQRT2 = 0x6A09E667F3BCC909
_SQRT3 = 0xBB67AE8584CAA73B - 2**64
# What a hash is drawn for.
_TIME_STREAM, _TOKEN_STREAM, _CUT_STREAM, _PROMPT_STREAM, _ATTENTION_STREAM, _SIZE_STREAM = 1, 2, 3, 4, 5, 6


class MaskSchedule(NamedTuple):
    """A time is turned into a mask probability `m(t)` and into the weight `m'(t) / m(t)` of its NELBO."""

    mask_probability: Callable[[torch.Tensor], torch.Tensor]
    nelbo_weight: Callable[[torch.Tensor], torch.Tensor]


MASK_SCHEDULES: dict[str, MaskSchedule] = {
    # alpha_t = 1 - t (LLaDA, MDLM)
    "linear": MaskSchedule(lambda t: t, lambda t: 1 / t),
    # alpha_t = 1 - cos(pi/2 (1 - t)) (MD4): more rows are heavily masked, 2/pi of the tokens on average
    "cosine": MaskSchedule(
        lambda t: torch.sin(math.pi / 2 * t),
        lambda t: math.pi / 2 / torch.tan(math.pi / 2 * t),
    ),
}
LOSS_WEIGHTINGS = ("uniform", "nelbo", "inverse_t")
TIME_SAMPLINGS = ("low_discrepancy", "antithetic", "independent", "bell")


def _to_uniform(x: torch.Tensor) -> torch.Tensor:
    """Upper 24 bits of an int64 as a float32 in [0, 1), exactly."""
    return (x >> 40 & 0xFFFFFF).to(torch.float32) * 2**-24


def _hash(*words: int | torch.Tensor) -> torch.Tensor:
    """int64 hash of integer words that broadcast against each other."""
    state = torch.zeros((), dtype=torch.int64)
    for word in words:
        state = mix(state ^ mix(torch.as_tensor(word, dtype=torch.int64) + GOLDEN))
    return state


def draw_uniform(*words: int | torch.Tensor) -> torch.Tensor:
    """Uniform float32 in [0, 1), a hash of integer words that broadcast against each other."""
    return _to_uniform(_hash(*words))


def sample_times(
    example_ids: torch.Tensor,
    *,
    seed: int,
    epoch: int | torch.Tensor,
    sampling: str = "low_discrepancy",
    epsilon: float = 0.0,
    largest: float = 1.0,
    blocks: torch.Tensor | None = None,
) -> torch.Tensor:
    """
    Time of each example in one epoch, or of each of its blocks, uniform on [epsilon, largest) but for `"bell"`.

    `"low_discrepancy"` spreads the times evenly: over the consecutive examples of an epoch, over the epochs of one
    example and over the blocks of one row they form a Kronecker sequence
    `offset + id phi + epoch sqrt(2) + block sqrt(3) (mod 1)`, of which `n` consecutive points along id or epoch leave
    no gap wider than `2.1 / n`, along block none wider than `3 / n`. Stratifying inside a batch (as MDLM and BD3LM
    do) would spread them better there, but make an example's noise depend on its neighbours. `"antithetic"` gives the
    examples `2 i` and `2 i + 1` the times `t` and `1 - t` of one draw. `"independent"` hashes (seed, epoch, example,
    block). `"bell"` turns the times of `"low_discrepancy"` into those of a bell, see [`time_density`]: few tokens are
    learnt from a row that is nearly whole or nearly empty.

    Args:
        example_ids (`torch.LongTensor` of shape `(B,)`): identity of each example in its dataset.
        seed (`int`): of the whole run.
        epoch (`int` or `torch.LongTensor` of shape `(B,)`): passes over the data so far; evaluation uses numbers
            below 0, which training never does.
        sampling (`str`): one of `TIME_SAMPLINGS`.
        epsilon (`float`): smallest time. Above 0 the estimated NELBO leaves out what lies below `epsilon`, about
            `epsilon` times the loss of one token alone masked, per token.
        largest (`float`): no time is larger.
        blocks (`torch.LongTensor` of shape `(B, L)`, *optional*): number of the block that each position is in. Block
            0 has the time that the row would have without.

    Returns:
        `torch.FloatTensor` of shape `(B,)`, or `(B, L)` with `blocks`, equal within a block.
    """
    words = [torch.as_tensor(word, dtype=torch.int64) for word in (epoch, example_ids)]
    if blocks is not None:
        words = [word[:, None] if word.dim() else word for word in words]
    number, ids = words
    block: list[Any] = [] if blocks is None else [blocks]
    if sampling in ("low_discrepancy", "bell"):
        state = _hash(_TIME_STREAM, seed) + number * _SQRT2 + ids * GOLDEN
        state = state if blocks is None else state + blocks * _SQRT3
    elif sampling == "independent":
        state = _hash(_TIME_STREAM, seed, number, ids, *block)
    elif sampling == "antithetic":
        state = _hash(_TIME_STREAM, seed, number, ids // 2, *block)
        state = torch.where(ids % 2 == 0, state, ~state)  # 1 - t, to the last bit
    else:
        raise ValueError(f"`sampling` must be one of {TIME_SAMPLINGS}, got {sampling!r}")
    uniform = _to_uniform(state)
    if sampling == "bell":  # the inverse of the distribution function 3 x^2 - 2 x^3
        uniform = (0.5 + torch.sin(torch.asin(2 * uniform - 1) / 3)).clamp(0, 1)
    return epsilon + (largest - epsilon) * uniform


def time_density(
    times: torch.Tensor, *, sampling: str, epsilon: float = 0.0, largest: float = 1.0
) -> torch.Tensor | float:
    """
    Density of the `times`, relative to that of uniform ones on [epsilon, largest): 1, or for `"bell"` that of
    Beta(2, 2), `6 x (1 - x)` with `x` the place within the interval.

    Bell-shaped times are those of arXiv 2605.13026; the choice of Beta(2, 2) is ours. A mean over such times weighs
    each time by this density; divided by it, it is the mean over uniform ones.
    """
    if sampling != "bell":
        return 1.0
    x = ((times - epsilon) / (largest - epsilon)).clamp(2**-24, 1 - 2**-24)
    return 6 * x * (1 - x)


def sample_block_sizes(
    choices: Sequence[int], *, seed: int, step: int, example_ids: torch.Tensor | None = None
) -> int | torch.Tensor:
    """
    One of `choices`, equally often each: of an optimizer step, or with `example_ids` `(B,)` of every row of it,
    int64 `(B,)`, a hash of (seed, step or pass, example).
    """
    sizes = torch.tensor(choices, device=None if example_ids is None else example_ids.device)
    words = [] if example_ids is None else [example_ids]
    picked = sizes[(draw_uniform(_SIZE_STREAM, seed, step, *words) * len(choices)).long()]
    return int(picked) if example_ids is None else picked


def sample_noise(
    example_ids: torch.Tensor,
    maskable: torch.Tensor,
    *,
    seed: int,
    epoch: int | torch.Tensor,
    stream: int = _TOKEN_STREAM,
) -> torch.Tensor:
    """
    Uniform number in [0, 1) of each maskable position, a hash of (seed, epoch, example, rank among the maskable ones).

    Counting maskable positions rather than columns makes the noise independent of padding.

    Args:
        example_ids (`torch.LongTensor` of shape `(B,)`): as in [`sample_times`].
        maskable (`torch.BoolTensor` of shape `(B, L)`): positions that may be masked.
        stream (`int`): what the number is for.

    Returns:
        `torch.FloatTensor` of shape `(B, L)`.
    """
    keys = _hash(stream, seed, epoch, example_ids)  # [B]
    rank = maskable.to(torch.int64).cumsum(-1)  # [B, L]
    return _to_uniform(mix(keys[:, None] + rank * GOLDEN))


def sample_lengths(
    example_ids: torch.Tensor, lengths: torch.Tensor, share: float, *, seed: int, epoch: int
) -> torch.Tensor:
    """
    Lengths `(B,)` that rows are cut to: uniform on 1..length for a `share` of them, whole for the others.

    LLaDA pretrains on 1 % of rows cut like this, so that it knows rows of every length (arXiv 2502.09992, section
    2.2).
    """
    chosen = _to_uniform(_hash(_CUT_STREAM, seed, epoch, example_ids)) < share
    length = 1 + (_to_uniform(_hash(_CUT_STREAM, ~seed, epoch, example_ids)) * lengths).long()
    return torch.where(chosen, length.clamp(max=lengths), lengths)


def sample_prompt_dropout(example_ids: torch.Tensor, share: float, *, seed: int, epoch: int) -> torch.Tensor:
    """Rows `(B,)`, a `share` of all, whose prompt is hidden: what classifier-free guidance compares with."""
    return _to_uniform(_hash(_PROMPT_STREAM, seed, epoch, example_ids)) < share


def sample_opening(example_ids: torch.Tensor, length: int, share: float, *, seed: int, epoch: int) -> torch.Tensor:
    """
    Which position sees which, bool `(B, L, L)`: all before and itself, and of those behind a random `share`.

    Annealing the share from 0 to 1 takes a causal model to a bidirectional one (DiffuLLaMA, arXiv 2410.17891).
    """
    columns = torch.arange(length)
    keys = _hash(_ATTENTION_STREAM, seed, epoch, example_ids)  # [B]
    pairs = columns[:, None] * length + columns  # [L, L]
    noise = _to_uniform(mix(keys[:, None, None] + pairs * GOLDEN))
    return (columns[:, None] >= columns) | (noise < share)


class Corruption(NamedTuple):
    """Noisy ids `[B, L]` and where they were masked, bool `[B, L]`."""

    input_ids: torch.Tensor
    masked: torch.Tensor


def corrupt(
    input_ids: torch.Tensor,
    maskable: torch.Tensor,
    mask_probability: torch.Tensor,
    noise: torch.Tensor,
    mask_token_id: int,
) -> Corruption:
    """
    Replace each maskable token by the mask, independently with its row's probability, or its own: `q(x_t | x)`.

    No position is forced: a row of `S` maskable positions stays whole with probability `(1 - m)^S` and then adds zero
    to the loss, as the bound wants. Forcing one would bias short answers and small `t`, where the weight is largest.

    Args:
        input_ids (`torch.LongTensor` of shape `(B, L)`): clean tokens.
        maskable (`torch.BoolTensor` of shape `(B, L)`): positions that may be masked.
        mask_probability (`torch.FloatTensor` of shape `(B,)` or `(B, L)`): `m(t)`, in [0, 1].
        noise (`torch.FloatTensor` of shape `(B, L)`): uniform on [0, 1).
        mask_token_id (`int`): token of a masked position.
    """
    masked = maskable & (noise < (mask_probability[:, None] if mask_probability.dim() == 1 else mask_probability))
    return Corruption(input_ids.masked_fill(masked, mask_token_id), masked)


def weigh(times: torch.Tensor, *, schedule: str = "linear", weighting: str = "nelbo") -> torch.Tensor:
    """
    Weight of each masked token's cross entropy at its row's time.

    `"nelbo"` is `m'(t) / m(t)`; `"inverse_t"` its name under the linear schedule, `1 / t`. `"uniform"` is 1 per masked
    token: no bound on the likelihood, but the gradient is not dominated by the few rows with small `t`.

    Args:
        times (`torch.FloatTensor` of shape `(B,)` or `(B, L)`): in (0, 1].

    Returns:
        `torch.FloatTensor` of the shape of `times`.
    """
    if weighting == "uniform":
        return torch.ones_like(times)
    if weighting == "nelbo" or (weighting == "inverse_t" and schedule == "linear"):
        # A time of exactly 0 masks nothing; the floor keeps its weight finite, so that 0 * weight is 0.
        return MASK_SCHEDULES[schedule].nelbo_weight(times.clamp(min=2**-24))
    raise ValueError(
        f"`weighting` must be one of {LOSS_WEIGHTINGS} ('inverse_t' with schedule 'linear' only), "
        f"got {weighting!r} with schedule {schedule!r}"
    )


__all__ = [
    "LOSS_WEIGHTINGS",
    "MASK_SCHEDULES",
    "TIME_SAMPLINGS",
    "Corruption",
    "MaskSchedule",
    "corrupt",
    "draw_uniform",
    "sample_block_sizes",
    "sample_lengths",
    "sample_noise",
    "sample_opening",
    "sample_prompt_dropout",
    "sample_times",
    "time_density",
    "weigh",
]
