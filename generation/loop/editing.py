"""
What a step takes back of what was written: token editing (LLaDA2.1, arXiv 2602.08676).

`A` rows, `L` columns, `N` positions read.
"""

from typing import NamedTuple

import torch

from hf_latent.generation.beliefs.belief import Belief
from hf_latent.generation.commit.rules import log_odds
from hf_latent.generation.loop.step import StepPlan
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.rows import ActiveRows
from hf_latent.generation.state.settings import DenoisingSettings


class Revision(NamedTuple):
    """
    What is done to written tokens of the rows' blocks.

    Args:
        settled (`torch.BoolTensor` of shape `(A,)`): rows whose block is final with this step.
        replaced (`torch.BoolTensor` of shape `(A, L)`, *optional*): they become the likeliest tokens of the belief.
        remasked (`torch.BoolTensor` of shape `(A, L)`, *optional*): they become masks.
    """

    settled: torch.Tensor
    replaced: torch.Tensor | None = None
    remasked: torch.Tensor | None = None


def choose_revision(
    canvas: Canvas,
    rows: ActiveRows,
    plan: StepPlan,
    indices: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    commit: torch.Tensor,
    settings: DenoisingSettings,
) -> Revision | None:
    """
    Replace every written token of its block whose position has another likeliest token, more probable than
    `editing_threshold`. None if nothing is ever revised.

    Given tokens are not read here. A block in which nothing was open at this forward is settled once a forward has
    edited nothing, or with the last of `max_post_steps`.

    Args:
        commit: `(A, L)` bool, what is written now.
    """
    if plan.editable is None or settings.editing_threshold is None:
        return None
    assert belief.most_likely_odds is not None
    likeliest = belief.token if belief.most_likely is None else belief.most_likely
    differs = (likeliest != canvas.ids[indices]) & (belief.most_likely_odds > log_odds(settings.editing_threshold))
    replaced = plan.editable & torch.zeros_like(plan.editable).masked_scatter_(plan.to_predict, differs)
    still_open = (canvas.masked & ~commit & rows.in_current_block).any(-1)
    most = settings.max_post_steps
    last = [most == 0 if row.num_masked > 0 else row.num_post + 1 >= most for row in rows.states]
    post = [row.num_masked == 0 for row in rows.states]
    final, is_post = (torch.tensor(flags, device=still_open.device) for flags in (last, post))
    return Revision(~still_open & (final | (is_post & ~replaced.any(-1))), replaced)


__all__ = ["Revision", "choose_revision"]
