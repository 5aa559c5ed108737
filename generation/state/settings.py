"""What the denoising loop is told: values of the generation config, typed."""

from dataclasses import dataclass
from typing import Literal

import torch

from hf_latent.generation.beliefs.refinement import RefinementSettings
from hf_latent.generation.commit.rules import CommitRule

AnswerReduction = Literal["sum", "max"]
ANSWER_REDUCTIONS: tuple[AnswerReduction, ...] = ("sum", "max")


@dataclass(frozen=True)
class DenoisingSettings:
    """
    Values of the generation config that the loop reads, typed.

    See `DiffusionGenerationConfig` for their meaning; `threshold` is the knob of the rule, `refinement` is None
    without latent refinement, `eos_token_ids` is None where a row does not end early, `fill_token_id` is what is
    written behind a row's end, `block_length` is that of whole blocks (0 without), `with_statistics` says whether
    somebody wants the statistics of choices, `with_commits` the step and entropy at which each position was written.
    """

    rule: CommitRule
    threshold: float | None
    max_denoising_steps: int | None
    dream_schedule: bool
    schedule_epsilon: float
    pace_to_schedule: bool
    max_tokens_per_step: int | None
    seed: int
    eos_token_ids: torch.Tensor | None
    fill_token_id: int
    stability_kl: float = 0.0
    stability_steps: int = 1
    refinement: RefinementSettings | None = None
    steps_per_block: int | None = None
    min_tokens_per_step: int = 1
    block_length: int = 0
    editing_threshold: float | None = None
    max_post_steps: int = 0
    verification_threshold: float | None = None
    early_exit_threshold: float | None = None
    early_exit_final_threshold: float | None = None
    answer_reduction: AnswerReduction = "sum"
    with_statistics: bool = True
    with_commits: bool = True

    @property
    def refines(self) -> bool:
        """Whether blocks start with forwards that commit nothing."""
        return self.refinement is not None and self.refinement.refines

    @property
    def edits(self) -> bool:
        """Whether written tokens may become others."""
        return self.editing_threshold is not None

    @property
    def verifies(self) -> bool:
        """Whether written tokens may become masks again."""
        return self.verification_threshold is not None

    @property
    def bounds_adaptive_rules(self) -> bool:
        """Whether anything but the last step tells an adaptive rule how many tokens to commit."""
        bounds = self.max_tokens_per_step, self.steps_per_block
        return any(bound is not None for bound in bounds) or self.min_tokens_per_step > 1 or self.follows_schedule

    @property
    def follows_schedule(self) -> bool:
        """Whether a schedule bounds how much an adaptive rule may have written by a step."""
        return self.pace_to_schedule and self.max_denoising_steps is not None


__all__ = ["ANSWER_REDUCTIONS", "AnswerReduction", "DenoisingSettings"]
