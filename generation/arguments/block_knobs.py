"""Knobs of blocks, refused by name where a model or a rule gives them no meaning."""

from typing import Any

import torch
from transformers import PreTrainedModel


def is_block_causal(model: PreTrainedModel) -> bool:
    """Whether a position of `model` sees its own block and those before it, and nothing behind."""
    return bool(getattr(model, "is_block_causal", False))


def find_block_length(model: PreTrainedModel, config: Any) -> int | None:
    """Tokens of a block of this call: those asked for, or those of a block-causal model's attention."""
    if config.block_length is None and is_block_causal(model):
        block_size: int = model.config.block_size
        return block_size
    length: int | None = config.block_length
    return length


def check_block_knobs(model: PreTrainedModel, config: Any, adaptive: bool) -> None:
    """
    Raise `ValueError` for a knob of `config`, a `DiffusionGenerationConfig`, that would do nothing, or two that
    contradict each other.

    Args:
        adaptive: whether the rule finds the number of tokens itself.
    """
    name, length = type(model).__name__, find_block_length(model, config)
    if config.sub_block_length is not None:
        given = f"`sub_block_length`={config.sub_block_length}"
        if not is_block_causal(model):
            raise ValueError(f"{given} is for block-causal models; `block_length` divides what {name} writes.")
        if length is None or length % config.sub_block_length:
            raise ValueError(
                f"`sub_block_length` must divide `block_length` ({length}), got {config.sub_block_length}."
            )
    if config.steps_per_block is not None:
        given = f"`steps_per_block`={config.steps_per_block}"
        if length is None:
            raise ValueError(f"{given} needs `block_length`, the tokens of a block, got None.")
        if config.max_denoising_steps is not None:
            raise ValueError(
                f"{given} and `max_denoising_steps`={config.max_denoising_steps} both say how many steps a block has: "
                "one of them must be None."
            )
        if config.denoising_schedule != "uniform" and not adaptive:
            raise ValueError(
                f"{given} spreads tokens evenly: `denoising_schedule` must be 'uniform', got "
                f"{config.denoising_schedule!r}."
            )
    least, most = config.min_tokens_per_step, config.max_tokens_per_step
    if least is not None and not adaptive:
        raise ValueError(
            f"`min_tokens_per_step`={least} is for rules by the belief; `decoding`={config.decoding!r} commits what "
            "the schedule says (`max_denoising_steps` or `steps_per_block`)."
        )
    if least is not None and most is not None and least > most:
        raise ValueError(f"`min_tokens_per_step` must be at most `max_tokens_per_step` ({most}), got {least}.")
    if config.editing_threshold is not None and getattr(model.config, "is_semi_causal", False):
        raise ValueError(
            f"`editing_threshold`={config.editing_threshold} must be left out for a semi-causal model ({name}): its "
            "later tokens have seen the earlier ones as they were written."
        )


def count_surplus_tokens(
    model: PreTrainedModel, config: Any, num_tokens: torch.Tensor, position_limit: int | None
) -> torch.Tensor | None:
    """
    Tokens `(B, 1)` that complete the last block of rows of `num_tokens` `(B, 1)`, int64; None if there are none.

    A block-causal model was trained on whole blocks, and what is written of one depends on how much of it there is:
    they are decoded whole, and cut off. Nothing goes beyond the positions that the model has.
    """
    length = find_block_length(model, config)
    if not is_block_causal(model) or length is None:
        return None
    surplus = -num_tokens % length
    if position_limit is not None:
        surplus = surplus.minimum(position_limit - num_tokens)
    return surplus if bool((surplus > 0).any()) else None


def check_answer_is_last(masked: torch.Tensor, answer: torch.Tensor) -> None:
    """Raise `ValueError` if one of the positions `masked` `(B, L)` lies behind the `answer` `(B, L)` of its row."""
    columns = torch.arange(masked.shape[1], device=masked.device)
    first = torch.where(answer, columns, masked.shape[1]).amin(-1, keepdim=True)
    early = (masked & ~answer & (columns > first)).any(-1)
    if bool(early.any()):
        raise ValueError(
            f"`answer_mask` must mark the last masks of a row for a block-causal model, whose answer would not see "
            f"the reasoning behind it; got masks behind the answer in row {int(early.nonzero()[0])}."
        )


__all__ = [
    "check_answer_is_last",
    "check_block_knobs",
    "count_surplus_tokens",
    "find_block_length",
    "is_block_causal",
]
