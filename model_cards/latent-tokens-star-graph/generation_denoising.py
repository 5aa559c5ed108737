# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""The denoising loop: the one loop of all masked diffusion models, with everything that differs plugged in."""

import torch

from .generation_belief import Belief, BeliefReader
from .generation_canvas import Canvas
from .generation_noise import uniform
from .generation_predictor import Predictor, Reading
from .generation_progress import OnStep, Progress
from .generation_refinement import Memory
from .generation_rows import Rows, advance, enter_next_blocks, first_rows
from .generation_rules import RuleInputs, choose, choose_freely
from .generation_schedule import dream_quota, uniform_quota
from .generation_settings import DenoisingSettings
from .generation_stopping import end_rows, find_exits, hold_or_stop, leave_open
from .generation_survey import indices_of, survey

CANDIDATE_STREAM, RULE_STREAM = 0, 1


@torch.no_grad()
def denoise(
    canvas: Canvas,
    predictor: Predictor,
    read_belief: BeliefReader,
    settings: DenoisingSettings,
    on_step: OnStep | None = None,
) -> Progress:
    """
    Write the masked positions of a canvas.

    1. Move rows whose block is written to their next block; drop rows that are done, they cost nothing any more.
    2. Predict the masked positions of every row's current block, and of its answer, in one forward.
    3. Read the belief. With latent refinement, see whether it still moves: hold rows, or stop their block.
    4. Choose what to commit; leave the reasoning of rows whose answer is decided; commit.
    5. End rows that have written an end-of-sequence token with nothing open before it.

    A row takes the same steps, with the same noise, alone and in any batch.
    """
    progress = Progress.of(canvas)
    rows = first_rows(canvas, settings)
    memory = None
    if settings.refinement is not None:
        memory = Memory(predictor.embed, read_belief.mask_token_id, settings.refinement)
    while True:
        # 1.
        view = survey(canvas, rows, predictor, settings)
        if any(view.finished):
            enter_next_blocks(canvas, rows, view.is_finished, settings)
            view = survey(canvas, rows, predictor, settings)
        if any(view.done):
            kept = [i for i, flag in enumerate(view.done) if not flag]
            if not kept:
                return progress
            keep = torch.tensor(kept, device=canvas.ids.device)
            canvas, rows, view = canvas.select(keep), rows.select(keep), view.select(keep, kept)
            predictor.select(keep, kept)
            if memory is not None:
                memory.select(keep)
        in_block, selected, read = view.in_block, view.selected, view.read
        # 2.
        at = indices_of(read, sum(view.counts))
        logits = predictor(canvas, rows.block, Reading(at, read, view.blocks, view.counts, view.facts, memory))
        # 3.
        belief = _read(canvas, rows, at, logits, read_belief, settings)
        hold = stop = None
        if memory is not None:
            hold, stop = hold_or_stop(canvas, rows, selected, at, belief, memory, settings, progress)
        # 4.
        commit = _decide(canvas, rows, in_block, selected, at, belief, settings)
        if hold is not None and stop is not None:
            commit = torch.where(stop[:, None], selected, commit & ~hold[:, None])
        exits = None
        if canvas.has_answer:
            exits = find_exits(canvas, rows, at, belief, settings, progress)
            commit = torch.where(exits[:, None], canvas.masked & canvas.answer, commit)
            hold = None if hold is None else hold & ~exits
        if settings.with_statistics:
            by_rule = commit
            for others in (stop, exits):
                by_rule = by_rule if others is None else by_rule & ~others[:, None]
            progress.count_choices(rows.index, selected, by_rule)
        _commit(canvas, rows, commit, at, belief, stop, progress)
        if settings.with_commits or on_step is not None:
            _note(rows, commit, at, belief, progress)
        advance(rows, commit, hold, stop, progress)
        if exits is not None:
            leave_open(canvas, rows, exits, settings, progress)
        # 5.
        if settings.eos_token_ids is not None:
            end_rows(canvas, rows, settings, progress)
        progress.put("masked", rows.index, canvas.masked)
        if on_step is not None:
            _show(canvas, rows, at, belief, progress)
            on_step(progress)


def _read(
    canvas: Canvas,
    rows: Rows,
    at: tuple[torch.Tensor, torch.Tensor],
    logits: torch.Tensor,
    read_belief: BeliefReader,
    settings: DenoisingSettings,
) -> Belief:
    at_row, _ = at
    position, noise, seen, offset = canvas.position_ids[at], None, None, None
    if read_belief.temperature > 0:
        noise = uniform(settings.seed, CANDIDATE_STREAM, canvas.row[at_row], rows.drawn[at_row], position)
    if read_belief.reads_canvas:
        # Padding looks unwritten: a penalty on tokens in the text would count it otherwise.
        seen = canvas.ids.masked_fill(~canvas.valid, read_belief.mask_token_id)[at_row]
    if read_belief.ends_later:
        first = torch.where(canvas.writable, canvas.position_ids, canvas.ids.shape[1]).amin(-1)
        offset = position - first[at_row]
    return read_belief(logits, seen, noise, offset)


def _decide(
    canvas: Canvas,
    rows: Rows,
    in_block: torch.Tensor,
    selected: torch.Tensor,
    at: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    settings: DenoisingSettings,
) -> torch.Tensor:
    statistic = None
    if settings.rule.reads == "noise":
        statistic = uniform(settings.seed, RULE_STREAM, canvas.row[:, None], rows.drawn[:, None], canvas.position_ids)
    elif belief.statistic is not None:
        statistic = torch.zeros(selected.shape, device=selected.device).index_put_(at, belief.statistic)
    score, eligible = settings.rule.decide(RuleInputs(selected, statistic, settings.threshold))
    is_paced = settings.pace_to_schedule and settings.max_denoising_steps is not None
    if settings.rule.adaptive and settings.max_tokens_per_step is None and not is_paced:
        commit = choose_freely(score, eligible, selected)
        if settings.max_denoising_steps is not None:
            commit = commit | (selected & (rows.step >= rows.num_steps - 1)[:, None])
        return commit
    floor, ceiling = _bounds(rows, in_block, settings)
    return choose(score, eligible, selected, floor, ceiling)


def _bounds(rows: Rows, in_block: torch.Tensor, settings: DenoisingSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and most tokens each row commits in this step, `(A,)` each."""
    num_masked = in_block.sum(-1)
    one = torch.ones_like(num_masked)
    num_steps = None if settings.max_denoising_steps is None else rows.num_steps
    if not settings.rule.adaptive:
        if num_steps is None:
            quota = one
        elif settings.dream_schedule:
            quota = dream_quota(num_masked, rows.step, num_steps, settings.schedule_epsilon)
        else:
            quota = uniform_quota(rows.num_at_start, rows.step, num_steps)
            # Of fewer candidates than the quota some masks are left when the schedule is over.
            quota = torch.where(rows.step < num_steps, quota, num_masked)
        return quota, quota
    ceiling = num_masked
    floor = one
    if num_steps is not None and settings.pace_to_schedule:
        allowed = (rows.num_at_start // num_steps) * (rows.step + 1).minimum(num_steps)
        allowed = torch.where(rows.step >= num_steps - 1, rows.num_at_start, allowed)
        ceiling = allowed - (rows.num_at_start - num_masked)
    elif num_steps is not None:
        floor = torch.where(rows.step >= num_steps - 1, num_masked, one)
    if settings.max_tokens_per_step is not None:
        ceiling = ceiling.clamp(max=settings.max_tokens_per_step)
    return floor, ceiling


def _commit(
    canvas: Canvas,
    rows: Rows,
    commit: torch.Tensor,
    at: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    stop: torch.Tensor | None,
    progress: Progress,
) -> None:
    chosen = belief.token
    if stop is not None and belief.most_likely is not None:
        chosen = torch.where(stop[at[0]], belief.most_likely, chosen)
    token = torch.zeros_like(canvas.ids).index_put_(at, chosen)
    canvas.ids = torch.where(commit, token, canvas.ids)
    canvas.masked = canvas.masked & ~commit
    progress.put("ids", rows.index, canvas.ids)


def _note(
    rows: Rows, commit: torch.Tensor, at: tuple[torch.Tensor, torch.Tensor], belief: Belief, progress: Progress
) -> None:
    """When, and how surely, the positions of a step were written."""
    index = rows.index
    steps = torch.where(commit, rows.total_steps[:, None], progress.of_rows("commit_step", index))
    progress.put("commit_step", index, steps)
    if belief.entropy is not None:
        entropy = torch.zeros(commit.shape, device=commit.device).index_put_(at, belief.entropy)
        known = torch.where(commit, entropy, progress.of_rows("commit_entropy", index))
        progress.put("commit_entropy", index, known)


def _show(
    canvas: Canvas, rows: Rows, at: tuple[torch.Tensor, torch.Tensor], belief: Belief, progress: Progress
) -> None:
    """What only someone who watches wants to know."""
    columns = torch.arange(1, canvas.ids.shape[1] + 1, device=canvas.ids.device)
    ends = (columns * (canvas.writable & (canvas.block_index <= rows.block[:, None]))).amax(-1)
    progress.put("current_block_end", rows.index, ends)
    if belief.confidence is None:
        return
    where = rows.index[at[0]], at[1]
    progress.candidate = torch.full_like(progress.ids, -1).index_put_(where, belief.token)
    unknown = torch.full(progress.ids.shape, float("nan"), device=progress.ids.device)
    progress.confidence = unknown.index_put_(where, belief.confidence)


__all__ = ["denoise"]
