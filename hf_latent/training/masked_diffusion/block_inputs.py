"""
What a block-causal model is given in training: noisy rows and, behind them, clean ones, `[x_t | x_0]`, which it reads
in one forward (BD3LM, arXiv 2503.09573). Of both only what a masked token depends on: noisy blocks without one (those
of a prompt) and the clean blocks that no such block comes behind are left out.

`D` documents of at most `S` tokens, in `B` rows of `L`, of which `C` columns are read.
"""

from typing import Any, NamedTuple

import torch

from hf_latent.generation.model_calls.block_causal_masks import noisy_and_clean_visibility
from hf_latent.generation.model_calls.semi_causal_masks import NOT_IN_STREAM, Visibility
from hf_latent.training.masked_diffusion.packing import lay_out


class BlockRows(NamedTuple):
    """
    Noisy and clean tokens, positions and which exist and are masked, `[B, L]`; the size of all blocks, or that of the
    block of each position, `[B, L]`.
    """

    noisy: torch.Tensor
    clean: torch.Tensor
    position_ids: torch.Tensor
    exists: torch.Tensor
    masked: torch.Tensor
    block_size: int | torch.Tensor


def pack(rows: BlockRows, row: torch.Tensor, start: torch.Tensor, padding: int) -> BlockRows:
    """Documents `[D, S]` side by side in rows `[B, L]`; see [`lay_out`]."""

    def place(values: torch.Tensor, filling: int = 0) -> torch.Tensor:
        return lay_out(values, rows.exists, row, start, padding=filling).input_ids

    size = rows.block_size
    return BlockRows(
        noisy=place(rows.noisy, padding),
        clean=place(rows.clean, padding),
        position_ids=place(rows.position_ids),
        exists=place(rows.exists.long()).bool(),
        masked=place(rows.masked.long()).bool(),
        block_size=place(size, 1) if isinstance(size, torch.Tensor) else size,
    )


def needed_columns(rows: BlockRows, seen: Visibility, reads_previous_state: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Bool `[B, L]` each: the noisy columns that masked tokens are predicted from, and the clean ones that these see.

    Args:
        seen: of `[x_t | x_0]`, `(B, 2L)`.
        reads_previous_state: whether a token is predicted from the column before its own.
    """
    length = rows.noisy.shape[1]
    read = rows.masked.clone()
    if reads_previous_state:
        read[:, :-1] |= rows.masked[:, 1:] & (rows.position_ids[:, 1:] > 0)
    block = seen.group[:, :length].clamp(min=0)  # the place where the block begins, which no other block has
    is_read = torch.zeros_like(block).scatter_reduce(1, block, read.long(), "amax")
    noisy = rows.exists & is_read.gather(1, block).bool()
    document = seen.visible_from[:, :length]
    until = torch.where(noisy, seen.visible_until[:, :length], 0)
    until = torch.zeros_like(until).scatter_reduce(1, document, until, "amax")
    return noisy, rows.exists & (seen.order[:, length:] < until.gather(1, document))


def block_causal_inputs(
    model: Any, rows: BlockRows, at: tuple[torch.Tensor, torch.Tensor]
) -> tuple[dict[str, Any], tuple[torch.Tensor, torch.Tensor]]:
    """
    Arguments of the forward of `model`, a block-causal one without adapters around it, and where the tokens `at`
    (rows, columns) of the rows are in it.
    """
    seen = noisy_and_clean_visibility(rows.position_ids, rows.exists, rows.block_size)
    needed = needed_columns(rows, seen, model.reads_previous_state)
    length, chosen = rows.noisy.shape[1], []
    for half, need in enumerate(needed):
        width = max(int(need.sum(-1).max()), 1 - half)  # one column at least, for a batch without a masked token
        columns = (~need).to(torch.uint8).argsort(dim=-1, stable=True)[:, :width]
        chosen.append((columns + half * length, need.gather(-1, columns)))
    columns, kept = (torch.cat(parts, 1) for parts in zip(*chosen, strict=True))  # [B, C]
    ids, positions = torch.cat([rows.noisy, rows.clean], 1), torch.cat([rows.position_ids] * 2, 1)
    seen = seen.select((torch.arange(len(columns), device=columns.device)[:, None], columns))
    seen = Visibility(
        order=torch.where(kept, seen.order, NOT_IN_STREAM),
        visible_from=seen.visible_from,
        visible_until=torch.where(kept, seen.visible_until, 0),
        group=torch.where(kept, seen.group, -1),
        position=seen.position,
    )
    own = torch.arange(columns.shape[1], device=columns.device)[None]
    given = {
        "input_ids": ids.gather(1, columns),
        "position_ids": positions.gather(1, columns),
        "attention_mask": model.block_causal_masks()(seen, seen, own, model.dtype),
    }
    rank = needed[0].cumsum(-1) - 1
    return given, (at[0], rank[at])


__all__ = ["BlockRows", "block_causal_inputs", "needed_columns", "pack"]
