"""Checks of what a user passes to `generate` and `infill`, before any forward; every message names the argument."""

from collections.abc import Mapping
from typing import Any

import torch


def check_input_ids(input_ids: torch.Tensor | None, vocab_size: int) -> torch.Tensor:
    """Return `input_ids` as int64, or raise `ValueError`: rank, type, emptiness, range."""
    if not isinstance(input_ids, torch.Tensor):
        raise ValueError(f"`input_ids` must be a tensor of token ids, got {type(input_ids).__name__}.")
    if input_ids.ndim != 2:
        raise ValueError(f"`input_ids` must have shape (batch, length), got {tuple(input_ids.shape)}.")
    if input_ids.is_floating_point() or input_ids.is_complex() or input_ids.dtype == torch.bool:
        raise ValueError(f"`input_ids` must hold integers, got {input_ids.dtype}.")
    if input_ids.numel() == 0:
        raise ValueError(f"`input_ids` must not be empty, got shape {tuple(input_ids.shape)}: give a prompt.")
    check_range("input_ids", input_ids, vocab_size)
    return input_ids.long()


def check_range(name: str, ids: torch.Tensor, vocab_size: int) -> None:
    """Raise `ValueError` if one of `ids` is no token."""
    low, high = (int(value) for value in ids.aminmax())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"`{name}` must lie in [0, {vocab_size - 1}], got values from {low} to {high}. If the tokenizer has more "
            "tokens than the model: `model.resize_token_embeddings(len(tokenizer))`, then train them."
        )


def check_attention_mask(
    attention_mask: torch.Tensor | None,
    input_ids: torch.Tensor,
    pad_token_id: int | None,
    not_padding: list[int],
) -> torch.Tensor:
    """
    Return which positions `(B, L)` are not padding, or raise `ValueError`: shape, values, gaps, empty rows.

    Without a mask, ids equal to the pad token count as padding unless that is one of `not_padding`, e.g. an
    end-of-sequence token, as in transformers.
    """
    if attention_mask is None:
        if pad_token_id is None or pad_token_id in not_padding:
            return torch.ones_like(input_ids, dtype=torch.bool)
        valid, name = input_ids != pad_token_id, "the pad tokens in `input_ids`"
    else:
        if not isinstance(attention_mask, torch.Tensor) or attention_mask.shape != input_ids.shape:
            got = tuple(attention_mask.shape) if isinstance(attention_mask, torch.Tensor) else type(attention_mask)
            raise ValueError(
                f"`attention_mask` must have the shape of `input_ids`, {tuple(input_ids.shape)}, got {got}."
            )
        if not bool(((attention_mask == 0) | (attention_mask == 1)).all()):
            raise ValueError("`attention_mask` must hold 0 (padding) and 1 (tokens) only.")
        valid, name = attention_mask.to(input_ids.device) == 1, "`attention_mask`"
    if not bool(valid.any(-1).all()):
        row = int((~valid.any(-1)).nonzero()[0])
        raise ValueError(f"`input_ids` row {row} is an empty prompt: {name} leave(s) no token in it.")
    num_starts = (valid.long().diff(dim=-1) == 1).sum(-1) + valid[:, 0]
    if bool((num_starts > 1).any()):
        row = int((num_starts > 1).nonzero()[0])
        raise ValueError(f"Padding must be contiguous, on the left or right; {name} have a gap in row {row}.")
    return valid


def check_masks(input_ids: torch.Tensor, valid: torch.Tensor, mask_token_id: int, infilling: bool) -> torch.Tensor:
    """Return where `input_ids` `(B, L)` holds the mask token, or raise `ValueError` if that does not fit the call."""
    masked = (input_ids == mask_token_id) & valid
    if infilling and not bool(masked.any()):
        raise ValueError(f"`input_ids` has nothing to infill: no token is the mask token ({mask_token_id}).")
    if not infilling and bool(masked.any()):
        row, column = masked.nonzero()[0].tolist()
        raise ValueError(
            f"`input_ids` holds the mask token ({mask_token_id}) at row {row}, column {column}: a prompt must be "
            "complete. Use `infill` to write masks in place."
        )
    return masked


def check_answer_mask(answer_mask: torch.Tensor | None, masked: torch.Tensor) -> torch.Tensor | None:
    """Return where the answer `(B, L)` is to be written, or raise `ValueError`: shape, values, nothing to write."""
    if answer_mask is None:
        return None
    if not isinstance(answer_mask, torch.Tensor) or answer_mask.shape != masked.shape:
        got = tuple(answer_mask.shape) if isinstance(answer_mask, torch.Tensor) else type(answer_mask).__name__
        raise ValueError(f"`answer_mask` must have the shape of `input_ids`, {tuple(masked.shape)}, got {got}.")
    if not bool(((answer_mask == 0) | (answer_mask == 1)).all()):
        raise ValueError("`answer_mask` must hold 0 and 1 (the answer) only.")
    answer = answer_mask.to(masked.device) == 1
    if not bool((answer & masked).any(-1).all()):
        row = int((~(answer & masked).any(-1)).nonzero()[0])
        raise ValueError(
            f"`answer_mask` marks no mask token of `input_ids` in row {row}: the answer is to be written."
        )
    return answer & masked


def check_length(num_tokens: int, max_position_embeddings: int | None, what: str) -> None:
    """Raise `ValueError` if a row is longer than the model's positions."""
    if max_position_embeddings is not None and num_tokens > max_position_embeddings:
        raise ValueError(
            f"{what} is {num_tokens} tokens, more than the model's `max_position_embeddings` "
            f"({max_position_embeddings})."
        )


def check_row_indices(
    row_indices: torch.Tensor | list[int] | None, batch_size: int, device: torch.device
) -> torch.Tensor:
    """Return the rows' numbers in the noise `(B,)`: 0, 1, ... if not given."""
    if row_indices is None:
        return torch.arange(batch_size, device=device)
    try:
        row = torch.as_tensor(row_indices, device=device)
    except (TypeError, ValueError, RuntimeError):
        row = None
    if row is None or row.shape != (batch_size,) or row.is_floating_point():
        raise ValueError(f"`row_indices` must be {batch_size} integers, one a row, got {row_indices!r}.")
    return row.long()


def check_token_ids(name: str, token_ids: list[int | None] | None, vocab_size: int) -> None:
    """Raise `ValueError` if one of `token_ids` lies beyond the vocabulary."""
    for token in token_ids or []:
        if token is not None and token >= vocab_size:
            raise ValueError(f"`{name}` must lie below `vocab_size` ({vocab_size}), got {token}.")


def find_cache(arguments: Mapping[str, Any]) -> Any:
    """The cache among keyword arguments: `past_key_values` before transformers 5.24, `cache` since; None without."""
    given = [arguments[name] for name in ("cache", "past_key_values") if arguments.get(name) is not None]
    if len(given) > 1:
        raise ValueError("`cache` and `past_key_values` are two names of one argument, got both.")
    return given[0] if given else None


def rename_cache(arguments: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments with their cache as `past_key_values`, which transformers takes before and since 5.24."""
    past = find_cache(arguments)
    arguments = {name: value for name, value in arguments.items() if name != "cache"}
    return arguments if past is None else {**arguments, "past_key_values": past}


__all__ = [
    "check_answer_mask",
    "check_attention_mask",
    "check_input_ids",
    "check_length",
    "check_masks",
    "check_range",
    "check_row_indices",
    "check_token_ids",
    "find_cache",
    "rename_cache",
]
