"""
The canvas: which tokens are given, which are to be written, in which blocks, and where padding lies.

`B` rows, `L` columns. Everything is relative to a row's own tokens, so that padding on either side changes nothing.
"""

from dataclasses import dataclass, replace

import torch


@dataclass
class Canvas:
    """
    State of the positions of a batch while it is denoised.

    Args:
        ids (`torch.LongTensor` of shape `(B, L)`): tokens; the mask token where nothing is written yet.
        masked (`torch.BoolTensor` of shape `(B, L)`): positions still to be written.
        writable (`torch.BoolTensor` of shape `(B, L)`): positions that were to be written at the start.
        valid (`torch.BoolTensor` of shape `(B, L)`): positions that are not padding.
        position_ids (`torch.LongTensor` of shape `(B, L)`): position within the row's tokens; 0 on padding.
        answer (`torch.BoolTensor` of shape `(B, L)`): positions of the answer among those; they are the last block.
        block_index (`torch.LongTensor` of shape `(B, L)`): block of a writable position, 0, 1, ...; -1 elsewhere.
        num_blocks (`torch.LongTensor` of shape `(B,)`): blocks of the row that hold something to write.
        row (`torch.LongTensor` of shape `(B,)`): the row's number in its noise; see `generation.noise`.
        padded (`bool`): whether any position is padding.
        has_answer (`bool`): whether any position belongs to an answer.
        surplus (`torch.BoolTensor` of shape `(B, L)`, *optional*):
            positions that complete a row's last block, beyond what is asked for; None where there are none.
    """

    ids: torch.Tensor
    masked: torch.Tensor
    writable: torch.Tensor
    valid: torch.Tensor
    answer: torch.Tensor
    position_ids: torch.Tensor
    block_index: torch.Tensor
    num_blocks: torch.Tensor
    row: torch.Tensor
    padded: bool
    has_answer: bool
    surplus: torch.Tensor | None = None

    def select(self, rows: torch.Tensor) -> "Canvas":
        """The canvas of some of the rows, in a copy."""
        return replace(self, **{name: value[rows] for name, value in vars(self).items() if torch.is_tensor(value)})


def build_canvas(
    ids: torch.Tensor,
    valid: torch.Tensor,
    masked: torch.Tensor,
    row: torch.Tensor,
    block_length: int | None,
    answer: torch.Tensor | None = None,
    aligned: bool = False,
    surplus: torch.Tensor | None = None,
) -> Canvas:
    """
    Canvas of token ids in which `masked` positions are to be written.

    Blocks of `block_length` tokens are counted from a row's first masked position or, where they are `aligned`, from
    its first token; blocks without masks do not count. `None` makes one block of everything. The positions of the
    `answer` `(B, L)` are one more block, the last, however many they are; aligned, as many as they lie in.
    """
    position_ids = (valid.long().cumsum(-1) - 1).clamp(min=0).masked_fill(~valid, 0)
    has_answer = answer is not None
    answer = torch.zeros_like(masked) if answer is None else answer & masked
    block_index, num_blocks = _blocks(position_ids, masked & ~answer, block_length or ids.shape[1], aligned)
    answer_index, num_answer_blocks = torch.zeros_like(block_index), answer.any(-1)
    if aligned and has_answer:
        answer_index, num_answer_blocks = _blocks(position_ids, answer, block_length or ids.shape[1], aligned)
    block_index = torch.where(answer, num_blocks[:, None] + answer_index, block_index)
    return Canvas(
        ids=ids.clone(),
        masked=masked.clone(),
        writable=masked,
        valid=valid,
        answer=answer,
        position_ids=position_ids,
        block_index=block_index,
        num_blocks=num_blocks + num_answer_blocks if surplus is None else _count_blocks(block_index, surplus),
        row=row,
        padded=not bool(valid.all()),
        has_answer=has_answer,
        surplus=surplus,
    )


def _blocks(
    position_ids: torch.Tensor, masked: torch.Tensor, block_length: int, aligned: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    length = position_ids.shape[1]
    first = 0 if aligned else position_ids.masked_fill(~masked, length).amin(-1, keepdim=True)
    raw = ((position_ids - first).clamp(min=0) // block_length).masked_fill(~masked, length)
    present = torch.zeros(raw.shape[0], length + 1, dtype=torch.long, device=raw.device).scatter_(-1, raw, 1)[:, :-1]
    dense = present.cumsum(-1) - 1
    block_index = dense.gather(-1, raw.clamp(max=length - 1)).masked_fill(~masked, -1)
    return block_index, present.sum(-1)


def _count_blocks(block_index: torch.Tensor, surplus: torch.Tensor) -> torch.Tensor:
    """Blocks `(B,)` up to the last one that is asked for in part; those behind it are never come to."""
    return block_index.masked_fill(surplus, -1).amax(-1) + 1


def append_masks(
    input_ids: torch.Tensor,
    valid: torch.Tensor,
    num_new_tokens: int | torch.Tensor,
    mask_token_id: int,
    pad_token_id: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    Put `num_new_tokens` masks right behind the tokens of every row, wherever the row's padding is.

    Args:
        input_ids, valid: `(B, P)`.
        num_new_tokens: of all rows, or of each `(B, 1)`.

    Returns:
        ids, valid and masked of shape `(B, P + num_new_tokens)`, the most of all rows. A left-padded row stays
        left-padded, a right-padded row has its padding behind the new tokens.
    """
    batch_size, prompt_length = input_ids.shape
    end = (valid * torch.arange(1, prompt_length + 1, device=valid.device)).amax(-1, keepdim=True)
    most = num_new_tokens if isinstance(num_new_tokens, int) else int(num_new_tokens.max())
    columns = torch.arange(prompt_length + most, device=input_ids.device)
    masked = (columns >= end) & (columns < end + num_new_tokens)
    ids = torch.full((batch_size, len(columns)), pad_token_id, dtype=torch.long, device=input_ids.device)
    ids[:, :prompt_length] = torch.where(valid, input_ids, pad_token_id)
    ids = ids.masked_fill(masked, mask_token_id)
    valid = torch.cat([valid, valid.new_zeros(batch_size, most)], dim=1) | masked
    return ids, valid, masked


__all__ = ["Canvas", "append_masks", "build_canvas"]
