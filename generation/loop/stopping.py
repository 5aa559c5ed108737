"""When a row waits, when its block or its reasoning is decided, and when it has ended."""

import torch

from hf_latent.generation.beliefs.belief import Belief
from hf_latent.generation.loop.step import StepPlan
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.progress import Progress
from hf_latent.generation.state.rows import ActiveRows, StepDecisions
from hf_latent.generation.state.settings import DenoisingSettings


def refine_or_stop(
    rows: ActiveRows,
    plan: StepPlan,
    indices: tuple[torch.Tensor, torch.Tensor],
    kl: torch.Tensor,
    settings: DenoisingSettings,
    progress: Progress,
) -> StepDecisions:
    """
    Which rows commit nothing yet, and of which the block is decided (arXiv 2510.11052, both phases).

    A row leaves its first phase with the forward that shows the belief at rest, or with the last of its block's share
    of `max_denoising_steps`, and commits by that belief. In the second phase, a belief that rests although tokens
    were committed since the forward before is final.

    Args:
        kl: `(N,)` nats, that of `BeliefMemory.update`.
    """
    knobs = settings.refinement
    assert knobs is not None
    in_block = plan.in_block(indices)
    unknown = kl.isnan() if in_block is None else kl.isnan() | ~in_block
    zeros = torch.zeros(len(plan.to_predict), device=kl.device)
    total = zeros.index_add(0, indices[0], kl.masked_fill(unknown, 0.0))
    mean = total / zeros.index_add(0, indices[0], (~unknown).float())  # nan where nothing was compared
    progress.append_trace(progress.belief_kl, rows.batch_index, mean)
    refined = stopped = None
    refining = [row.refining and row.num_refined < knobs.max_steps and not row.is_last_step for row in rows.states]
    if any(refining):
        refined = ~(mean < knobs.refinement_kl) & _of_rows(refining, mean.device)
    committed = [row.committed for row in rows.states]  # never while a row is in its first phase
    if any(committed):
        stopped = (mean < knobs.stop_kl) & _of_rows(committed, mean.device)
    return StepDecisions(refined, stopped)


def _of_rows(flags: list[bool], device: torch.device) -> torch.Tensor | bool:
    """`(A,)` bool, or what all rows share."""
    return flags[0] if len(set(flags)) == 1 else torch.tensor(flags, device=device)


def find_early_exits(
    canvas: Canvas,
    rows: ActiveRows,
    indices: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    settings: DenoisingSettings,
    progress: Progress,
) -> torch.Tensor | None:
    """
    Rows `(A,)` whose answer is decided while they still reason (arXiv 2510.19990, early exit).

    The sum of the entropies of the answer's open positions bounds their joint entropy from above. What it is compared
    with may move with the share of the reasoning that is written (SchED, arXiv 2512.02892, its linear schedule, which
    counts steps and reads confidence). None if rows never exit.
    """
    assert belief.entropy is not None
    entropy = torch.where((canvas.masked & canvas.answer)[indices], belief.entropy, 0.0)
    zeros = torch.zeros(len(canvas.ids), device=entropy.device)
    if settings.answer_reduction == "sum":
        value = zeros.index_add(0, indices[0], entropy)
    else:
        value = zeros.scatter_reduce(0, indices[0], entropy, "amax")
    progress.append_trace(progress.answer_entropy, rows.batch_index, value)
    if settings.early_exit_threshold is None:
        return None
    reasons = (canvas.masked & ~canvas.answer).any(-1)
    limit: float | torch.Tensor = settings.early_exit_threshold
    if settings.early_exit_final_threshold is not None:
        reasoning = canvas.writable & ~canvas.answer
        share = (reasoning & ~canvas.masked).sum(-1) / reasoning.sum(-1).clamp(min=1)
        limit = (1 - share) * settings.early_exit_threshold + share * settings.early_exit_final_threshold
    exits = canvas.answer.any(-1) & reasons & (value < limit)
    progress.set_rows("exit_step", rows.batch_index, torch.where(exits, rows.num_forwards, -1))
    return exits


def finish_early(
    canvas: Canvas, rows: ActiveRows, exits: torch.Tensor, settings: DenoisingSettings, progress: Progress
) -> None:
    """Finish the rows `exits` with whatever is still open in them."""
    still_masked = canvas.masked & exits[:, None]
    canvas.ids = canvas.ids.masked_fill(still_masked, settings.fill_token_id)
    canvas.masked = canvas.masked & ~still_masked
    progress.set_rows("ids", rows.batch_index, canvas.ids)


def finish_at_eos(
    canvas: Canvas,
    rows: ActiveRows,
    settled: torch.Tensor | None,
    settings: DenoisingSettings,
    progress: Progress,
) -> torch.Tensor:
    """
    Close rows at the first end-of-sequence token that has nothing open before it: `(A,)` bool, those that ended.

    `settled` `(A,)` bool: rows whose block is not revised any more, where blocks are: the token might be taken back.
    """
    none_open = canvas.masked.cumsum(-1) == 0
    ends = canvas.writable & none_open & torch.isin(canvas.ids, settings.eos_token_ids)
    if settled is not None:
        ends = ends & settled[:, None]
    behind = canvas.writable & (ends.cumsum(-1) > ends)
    canvas.ids = canvas.ids.masked_fill(behind, settings.fill_token_id)
    canvas.masked = canvas.masked & ~behind
    progress.set_rows("ids", rows.batch_index, canvas.ids)
    progress.forget_commits(rows.batch_index, behind)
    return ends.any(-1)


def find_complete(canvas: Canvas, rows: ActiveRows) -> torch.Tensor | None:
    """
    Rows `(A,)` in which nothing is open but what completes their last block; None where that cannot be. Those without
    such a rest end by their schedule, whatever their neighbours have.
    """
    if canvas.surplus is None or all(row.block < row.num_blocks - 1 for row in rows.states):
        return None
    return canvas.surplus.any(-1) & ~(canvas.masked & ~canvas.surplus).any(-1)


__all__ = ["find_complete", "find_early_exits", "finish_at_eos", "finish_early", "refine_or_stop"]
