# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""What `generate` and `infill` return when asked for more than ids."""

from dataclasses import dataclass

import torch
from transformers.utils import ModelOutput


@dataclass
class DiffusionGenerateOutput(ModelOutput):
    """
    Output of a denoising run. `B` rows, `L` length of the returned sequences.

    Args:
        sequences (`torch.LongTensor` of shape `(B, L)`):
            Prompt and generated tokens; padding after a row's end.
        num_forward_passes (`torch.LongTensor` of shape `(B,)`):
            Forwards that were run for the row. With guidance the doubled batch counts once.
        tokens_per_forward (`torch.FloatTensor` of shape `(B,)`):
            Tokens that the model committed and that are in `sequences`, divided by `num_forward_passes`
            (0 where no forward was run).
        commit_step (`torch.LongTensor` of shape `(B, L)`):
            0-based forward of the row after which the position was written; -1 for given and padding positions.
        commit_entropy (`torch.FloatTensor` of shape `(B, L)`):
            Entropy in nats of the position's distribution when it was written; nan where `commit_step` is -1.
        history (`tuple[torch.LongTensor]`, *optional*):
            The canvas `(B, L)` after every step, masks included; with `output_history=True`.
    """

    sequences: torch.LongTensor | None = None
    num_forward_passes: torch.LongTensor | None = None
    tokens_per_forward: torch.FloatTensor | None = None
    commit_step: torch.LongTensor | None = None
    commit_entropy: torch.FloatTensor | None = None
    history: tuple[torch.LongTensor, ...] | None = None


__all__ = ["DiffusionGenerateOutput"]
