"""When a row waits, when its block or its reasoning is decided, and when it has ended."""

import torch

from hf_latent.generation.beliefs.belief import Belief
from hf_latent.generation.beliefs.refinement import Memory
from hf_latent.generation.loop.step import Survey
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.progress import Progress
from hf_latent.generation.state.rows import Rows, Verdicts
from hf_latent.generation.state.settings import DenoisingSettings


def hold_or_stop(
    rows: Rows,
    view: Survey,
    at: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    memory: Memory,
    settings: DenoisingSettings,
    progress: Progress,
) -> Verdicts:
    """
    Which rows commit nothing yet, and of which the block is decided (arXiv 2510.11052, both phases).

    A row leaves its first phase with the forward that shows the belief at rest, or with the last of its block's share
    of `max_denoising_steps`, and commits by that belief. In the second phase, a belief that rests although tokens
    were committed since the forward before is final.
    """
    knobs = settings.refinement
    assert knobs is not None and belief.distribution is not None
    in_block = None if view.selected is view.read else view.selected[at]
    kl = memory.observe(at, belief.distribution, in_block, view.read.shape)
    unknown = kl.isnan() if in_block is None else kl.isnan() | ~in_block
    zeros = torch.zeros(len(view.read), device=kl.device)
    total = zeros.index_add(0, at[0], kl.masked_fill(unknown, 0.0))
    mean = total / zeros.index_add(0, at[0], (~unknown).float())  # nan where nothing was compared
    progress.trace(progress.belief_kl, rows.index, mean)
    held = stopped = None
    refining = [row.refining and row.refined < knobs.max_steps and not row.at_last_step for row in rows.each]
    if any(refining):
        held = ~(mean < knobs.refinement_kl) & _of_rows(refining, mean.device)
    moved = [row.moved for row in rows.each]  # never while a row is in its first phase
    if any(moved):
        stopped = (mean < knobs.stop_kl) & _of_rows(moved, mean.device)
    return Verdicts(held, stopped)


def _of_rows(flags: list[bool], device: torch.device) -> torch.Tensor | bool:
    """`(A,)` bool, or what all rows share."""
    return flags[0] if len(set(flags)) == 1 else torch.tensor(flags, device=device)


def find_exits(
    canvas: Canvas,
    rows: Rows,
    at: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    settings: DenoisingSettings,
    progress: Progress,
) -> torch.Tensor | None:
    """
    Rows `(A,)` whose answer is decided while they still reason (arXiv 2510.19990, early exit).

    The sum of the entropies of the answer's open positions bounds their joint entropy from above. None if rows never
    exit.
    """
    assert belief.entropy is not None
    entropy = torch.where((canvas.masked & canvas.answer)[at], belief.entropy, 0.0)
    zeros = torch.zeros(len(canvas.ids), device=entropy.device)
    if settings.answer_reduction == "sum":
        value = zeros.index_add(0, at[0], entropy)
    else:
        value = zeros.scatter_reduce(0, at[0], entropy, "amax")
    progress.trace(progress.answer_entropy, rows.index, value)
    if settings.early_exit_threshold is None:
        return None
    reasons = (canvas.masked & ~canvas.answer).any(-1)
    exits = canvas.answer.any(-1) & reasons & (value < settings.early_exit_threshold)
    progress.put("exit_step", rows.index, torch.where(exits, rows.num_forwards, -1))
    return exits


def leave_open(
    canvas: Canvas, rows: Rows, exits: torch.Tensor, settings: DenoisingSettings, progress: Progress
) -> None:
    """Finish the rows `exits` with whatever is still open in them."""
    left = canvas.masked & exits[:, None]
    canvas.ids = canvas.ids.masked_fill(left, settings.fill_token_id)
    canvas.masked = canvas.masked & ~left
    progress.put("ids", rows.index, canvas.ids)


def end_rows(canvas: Canvas, rows: Rows, settings: DenoisingSettings, progress: Progress) -> torch.Tensor:
    """Close rows at the first end-of-sequence token that has nothing open before it: `(A,)` bool, those that ended."""
    none_open = canvas.masked.cumsum(-1) == 0
    ends = canvas.writable & none_open & torch.isin(canvas.ids, settings.eos_token_ids)
    behind = canvas.writable & (ends.cumsum(-1) > ends)
    canvas.ids = canvas.ids.masked_fill(behind, settings.fill_token_id)
    canvas.masked = canvas.masked & ~behind
    progress.put("ids", rows.index, canvas.ids)
    for name, nothing in (("commit_step", -1), ("commit_entropy", float("nan"))):
        progress.put(name, rows.index, progress.of_rows(name, rows.index).masked_fill(behind, nothing))
    return ends.any(-1)


__all__ = ["end_rows", "find_exits", "hold_or_stop", "leave_open"]
