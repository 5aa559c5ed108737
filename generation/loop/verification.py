"""
What a step takes back of what was written: narrow-out (WINO, arXiv 2507.18578, section 3.2).

`A` rows, `L` columns, `M` written tokens verified.
"""

import torch

from hf_latent.generation.commit.rules import log_odds, ranks
from hf_latent.generation.loop.editing import Revision
from hf_latent.generation.loop.step import StepPlan
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.rows import ActiveRows, StepDecisions
from hf_latent.generation.state.settings import DenoisingSettings


def choose_remasked(
    canvas: Canvas,
    rows: ActiveRows,
    plan: StepPlan,
    verified: tuple[torch.Tensor, torch.Tensor] | None,
    odds: torch.Tensor | None,
    commit: torch.Tensor,
    decisions: StepDecisions,
    settings: DenoisingSettings,
) -> Revision:
    """
    Make masks again of the written tokens of a block that the forward finds less probable than
    `verification_threshold`, the least probable first: fewer than the forward before has committed, and none where
    this one commits a single token, as in the authors' sampler.

    Blocks end: let forward t of a block commit m_t >= 1 tokens (something is open, or the block were final) and take
    r_t <= m_(t-1) - 1 back, r_1 = 0. After T forwards
    m_1 + ... + m_T - r_2 - ... - r_T >= m_1 + ... + m_T - (m_1 - 1) - ... - (m_(T-1) - 1) = m_T + T - 1 >= T
    tokens are written: a block has at most as many forwards as masks, as with one token per forward. Forwards that
    commit nothing (they only refine, or their share of a schedule is 0) add themselves; nothing is taken back then, or
    by the next. Where a schedule ends, nothing is, and it remains the limit that it is.

    Args:
        verified, odds: rows and columns `(M,)` of the tokens, and their log odds in nats; None if nothing is.
        commit: `(A, L)` bool, what is written now; it is not verified yet.
    """
    remasked = torch.zeros_like(commit)
    if verified is not None and odds is not None and plan.verified is not None:
        goes_on = torch.tensor([not row.is_last_step for row in rows.states], device=commit.device)
        may_doubt = goes_on & (commit.sum(-1) > 1)
        doubted = remasked.index_put(verified, odds < log_odds(settings.verification_threshold)) & may_doubt[:, None]
        # What is decided as a whole, by a belief at rest or an early exit, is not doubted.
        for decided in (decisions.stopped, decisions.finished):
            doubted = doubted if decided is None else doubted & ~decided[:, None]
        order = ranks(torch.zeros(commit.shape, device=commit.device).index_put(verified, -odds), doubted)
        remasked = doubted & (order < rows.num_committed[:, None] - 1)
    still_open = (((canvas.masked & ~commit) | remasked) & rows.in_current_block).any(-1)
    return Revision(~still_open, remasked=remasked)


__all__ = ["choose_remasked"]
