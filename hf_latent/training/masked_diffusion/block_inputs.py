"""
What a block-causal model is given in training: the noisy rows and, beside them, the clean ones, which it reads in the
same forward as `[x_t | x_0]` (BD3LM, arXiv 2503.09573).
"""

from typing import Any, NamedTuple

import torch

from hf_latent.training.masked_diffusion.packing import lay_out


class BlockRows(NamedTuple):
    """Noisy and clean tokens and which exist, `[B, L]`; the size of all blocks, or `[B]`, if not the model's own."""

    noisy: torch.Tensor
    clean: torch.Tensor
    attended: torch.Tensor
    block_size: int | torch.Tensor | None


def block_causal_inputs(
    inputs: dict[str, torch.Tensor], rows: BlockRows, masked: torch.Tensor, *, padding: int
) -> tuple[dict[str, Any], torch.Tensor | tuple[torch.Tensor, torch.Tensor]]:
    """
    Arguments of the model's forward, and where in them the masked tokens are, in the order of `masked` `[B, L]`.

    Args:
        inputs: the batch; its documents are laid out in rows where it says `pack_row` and `pack_start`.
        padding (`int`): token of the columns that no document takes.
    """
    size = rows.block_size
    size = size[:, None] if isinstance(size, torch.Tensor) else size
    if "pack_row" not in inputs:
        given: dict[str, Any] = {"input_ids": rows.noisy, "clean_ids": rows.clean}
        given["attention_mask"] = rows.attended.long()
        if "position_ids" in inputs:
            given["position_ids"] = inputs["position_ids"]
        return given | ({} if size is None else {"block_size": size}), masked
    places = rows.attended, inputs["pack_row"], inputs["pack_start"]
    packed = lay_out(rows.noisy, *places, padding=padding)
    given = {"input_ids": packed.input_ids, "clean_ids": lay_out(rows.clean, *places, padding=padding).input_ids}
    given |= {"attention_mask": (packed.document > 0).long(), "position_ids": packed.position_ids}
    if isinstance(size, torch.Tensor):
        size = lay_out(size.expand(rows.noisy.shape), *places, padding=1).input_ids
    number, column = masked.nonzero(as_tuple=True)
    at = inputs["pack_row"][number], inputs["pack_start"][number] + column
    return given | ({} if size is None else {"block_size": size}), at


__all__ = ["BlockRows", "block_causal_inputs"]
