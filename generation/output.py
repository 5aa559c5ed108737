"""What `generate` and `infill` return when asked for more than ids."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput


@dataclass
class DiffusionGenerateOutput(ModelOutput):
    """
    Output of a denoising run. `B` rows, `L` length of the returned sequences, `S` most forwards of a row.

    Args:
        sequences (`torch.LongTensor` of shape `(B, L)`):
            Prompt and generated tokens; padding after a row's end, and where an early exit left masks open.
        num_forward_passes (`torch.LongTensor` of shape `(B,)`):
            Forwards that were run for the row. With guidance the doubled batch counts once.
        tokens_per_forward (`torch.FloatTensor` of shape `(B,)`):
            Tokens that the model committed and that are in `sequences`, divided by `num_forward_passes`
            (0 where no forward was run).
        commit_step (`torch.LongTensor` of shape `(B, L)`):
            0-based forward of the row after which the position was written; -1 for given, padding and open positions.
        commit_entropy (`torch.FloatTensor` of shape `(B, L)`):
            Entropy in nats of the position's distribution when it was written; nan where `commit_step` is -1.
        commit_log_prob (`torch.FloatTensor` of shape `(B, L)`, *optional*):
            With `output_scores=True`: log-probability in nats of the token that stands at the position, at the forward
            that wrote it (with editing: that wrote it last), under the distribution it was drawn from: after
            processors, temperature and filters; without sampling there is no temperature. nan where `commit_step` is
            -1. The sum of a row is the log-probability of its draws, given which positions were written when. What
            `compute_transition_scores` makes of `scores` in transformers, which would be `(B, V)` a forward.
        leftmost_share (`torch.FloatTensor` of shape `(B,)`):
            Share of the row's committing forwards whose tokens include the left-most mask of the block; nan without
            any. The two statistics of arXiv 2510.19990, section 3; commits of an early exit or stop do not count.
        leftmost_distance (`torch.FloatTensor` of shape `(B,)`):
            Mean distance in tokens from the left-most mask of the block to the tokens committed; nan without any.
        belief_kl (`torch.FloatTensor` of shape `(B, S)`, *optional*):
            With latent refinement: at each forward the mean over the block's open positions of KL(now || forward
            before) in nats; nan where there was none before, and after the row's end.
        num_refinement_passes (`torch.LongTensor` of shape `(B,)`, *optional*):
            With latent refinement: those of `num_forward_passes` that committed nothing.
        answer_entropy (`torch.FloatTensor` of shape `(B, S)`, *optional*):
            With `answer_mask`: at each forward the entropy in nats of the answer's open positions, summed or the
            largest (`answer_entropy_reduction`); nan after the row's end, 0 once the answer is written.
        exit_step (`torch.LongTensor` of shape `(B,)`, *optional*):
            With `answer_mask`: 0-based forward at which the row stopped reasoning early; -1 if it did not.
        num_edits (`torch.LongTensor` of shape `(B,)`, *optional*):
            With `editing_threshold`: how often a written token was replaced. `commit_step` and `commit_entropy` are
            those of its first.
        num_remasked (`torch.LongTensor` of shape `(B,)`, *optional*):
            With `verification_threshold`: how often a written token became a mask again. `commit_step` and
            `commit_entropy` are those of its last.
        history (`tuple[torch.LongTensor]`, *optional*):
            The canvas `(B, L)` after every forward, masks included; with `output_history=True`, like the next two.
        candidate_history (`tuple[torch.LongTensor]`, *optional*):
            The token `(B, L)` that every forward proposed where it was read; -1 elsewhere.
        confidence_history (`tuple[torch.FloatTensor]`, *optional*):
            The probability `(B, L)` of those; nan elsewhere.
        cache (`ExactCache`, *optional*):
            Of a semi-causal or block-causal model: the exact cache of the text, to go on from with
            `generate(sequences + more, past_key_values=...)`. Also there as `past_key_values`, its name before
            transformers 5.24.
    """

    sequences: torch.LongTensor | None = None
    num_forward_passes: torch.LongTensor | None = None
    tokens_per_forward: torch.FloatTensor | None = None
    commit_step: torch.LongTensor | None = None
    commit_entropy: torch.FloatTensor | None = None
    commit_log_prob: torch.FloatTensor | None = None
    leftmost_share: torch.FloatTensor | None = None
    leftmost_distance: torch.FloatTensor | None = None
    belief_kl: torch.FloatTensor | None = None
    num_refinement_passes: torch.LongTensor | None = None
    answer_entropy: torch.FloatTensor | None = None
    exit_step: torch.LongTensor | None = None
    num_edits: torch.LongTensor | None = None
    num_remasked: torch.LongTensor | None = None
    history: tuple[torch.LongTensor, ...] | None = None
    candidate_history: tuple[torch.LongTensor, ...] | None = None
    confidence_history: tuple[torch.FloatTensor, ...] | None = None
    cache: Any | None = None

    @property
    def past_key_values(self) -> Any | None:
        """`cache`."""
        return self.cache


__all__ = ["DiffusionGenerateOutput"]
