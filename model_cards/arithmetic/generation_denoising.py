# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""The denoising loop: the one loop of all masked diffusion models, with everything that differs plugged in."""

from dataclasses import dataclass
from typing import Literal

import torch

from .generation_belief import Belief, BeliefReader
from .generation_canvas import Canvas
from .generation_noise import uniform
from .generation_predictor import Predictor, Reading
from .generation_progress import OnStep, Progress
from .generation_refinement import Memory, RefinementSettings
from .generation_rules import CommitRule, RuleInputs, choose
from .generation_schedule import dream_quota, steps_of_block, uniform_quota

CANDIDATE_STREAM, RULE_STREAM = 0, 1
AnswerReduction = Literal["sum", "max"]
ANSWER_REDUCTIONS: tuple[AnswerReduction, ...] = ("sum", "max")


@dataclass(frozen=True)
class DenoisingSettings:
    """
    Values of the generation config that the loop reads, typed.

    See `DiffusionGenerationConfig` for their meaning; `threshold` is the knob of the rule, `refinement` is None
    without latent refinement, `eos_token_ids` is None where a row does not end early, `fill_token_id` is what is
    written behind a row's end, `with_statistics` says whether somebody wants the statistics of choices.
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
    refinement: RefinementSettings | None = None
    early_exit_threshold: float | None = None
    answer_reduction: AnswerReduction = "sum"
    with_statistics: bool = True


@dataclass
class _Rows:
    """State of the rows that are still being written, `(A,)` each: `A` of the batch's `B` rows."""

    index: torch.Tensor  # where the row is in the batch
    block: torch.Tensor  # block it is at
    step: torch.Tensor  # steps done in that block; forwards that only refine are none
    num_at_start: torch.Tensor  # masks the block had at its start
    total_steps: torch.Tensor  # forwards so far
    drawn: torch.Tensor  # those of them that did not only refine: the clock of the noise
    refined: torch.Tensor  # forwards of the block that only refined
    refining: torch.Tensor  # bool: whether the block is in its first phase
    moved: torch.Tensor  # bool: whether the last forward of the block committed something

    def select(self, rows: torch.Tensor) -> "_Rows":
        return _Rows(*(value[rows] for value in vars(self).values()))


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
    rows = _first_rows(canvas, settings)
    memory = None
    if settings.refinement is not None:
        memory = Memory(predictor.embed, read_belief.mask_token_id, settings.refinement)
    while True:
        # 1. The one host sync of a step: who is done, how many positions are read, what the predictor must know.
        _enter_next_blocks(canvas, rows, settings)
        selected = canvas.masked & (canvas.block_index == rows.block[:, None])
        read = selected | (canvas.masked & canvas.answer) if canvas.has_answer else selected
        done = rows.block >= canvas.num_blocks
        known = torch.cat(
            [torch.stack([done.long(), read.sum(-1)]), predictor.plan(canvas, rows.block, read)]
        ).tolist()
        if any(known[0]):
            kept = [i for i, flag in enumerate(known[0]) if not flag]
            if not kept:
                return progress
            keep = torch.tensor(kept, device=done.device)
            canvas, rows, selected, read = canvas.select(keep), rows.select(keep), selected[keep], read[keep]
            known = [[values[i] for i in kept] for values in known]
            predictor.select(keep)
            if memory is not None:
                memory.select(keep)
        # 2.
        _, counts, *facts = known
        at = _indices(read, sum(counts))
        logits = predictor(canvas, rows.block, Reading(at, counts, facts, memory))
        # 3.
        belief = _read(canvas, rows, at, logits, read_belief, settings)
        hold = stop = None
        if memory is not None:
            hold, stop = _refine(canvas, rows, selected, at, belief, memory, settings, progress)
        # 4.
        commit = _decide(canvas, rows, selected, at, belief, settings)
        if hold is not None and stop is not None:
            commit = torch.where(stop[:, None], selected, commit & ~hold[:, None])
        exits = None
        if canvas.has_answer:
            exits = _find_exits(canvas, rows, at, belief, settings, progress)
            commit = torch.where(exits[:, None], canvas.masked & canvas.answer, commit)
            hold = None if hold is None else hold & ~exits
        if settings.with_statistics:
            by_rule = commit
            for others in (stop, exits):
                by_rule = by_rule if others is None else by_rule & ~others[:, None]
            progress.count_choices(rows.index, selected, by_rule)
        _commit(canvas, rows, commit, at, belief, stop, progress)
        _advance(rows, commit, hold, stop, progress)
        if exits is not None:
            _leave_open(canvas, rows, exits, settings, progress)
        # 5.
        if settings.eos_token_ids is not None:
            _end_rows(canvas, rows, settings, progress)
        progress.masked[rows.index] = canvas.masked
        if on_step is not None:
            _show(canvas, rows, at, belief, progress)
            on_step(progress)


def _first_rows(canvas: Canvas, settings: DenoisingSettings) -> _Rows:
    zeros = torch.zeros(canvas.ids.shape[0], dtype=torch.long, device=canvas.ids.device)
    in_first_block = (canvas.masked & (canvas.block_index == 0)).sum(-1)
    return _Rows(
        index=torch.arange(len(zeros), device=zeros.device),
        block=zeros,
        step=zeros.clone(),
        num_at_start=in_first_block,
        total_steps=zeros.clone(),
        drawn=zeros.clone(),
        refined=zeros.clone(),
        refining=zeros == (0 if _refines(settings) else 1),
        moved=zeros > 0,
    )


def _refines(settings: DenoisingSettings) -> bool:
    return settings.refinement is not None and settings.refinement.refines


def _enter_next_blocks(canvas: Canvas, rows: _Rows, settings: DenoisingSettings) -> None:
    in_block = canvas.masked & (canvas.block_index == rows.block[:, None])
    finished = ~in_block.any(-1)
    if settings.max_denoising_steps is not None and not settings.rule.adaptive:
        # A schedule with more steps than tokens runs all its steps, as the reference does.
        finished &= rows.step >= steps_of_block(rows.block, canvas.num_blocks, settings.max_denoising_steps)
    rows.block = rows.block + finished
    rows.step = torch.where(finished, 0, rows.step)
    in_block = canvas.masked & (canvas.block_index == rows.block[:, None])
    rows.num_at_start = torch.where(finished, in_block.sum(-1), rows.num_at_start)
    rows.refined = torch.where(finished, 0, rows.refined)
    rows.refining = (rows.refining | finished) if _refines(settings) else rows.refining
    rows.moved = rows.moved & ~finished


def _indices(selected: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the true elements of `(A, L)` in row-major order; `count`, known, spares a sync."""
    flat = (~selected).flatten().to(torch.uint8).argsort(stable=True)[:count]
    return flat // selected.shape[1], flat % selected.shape[1]


def _read(
    canvas: Canvas,
    rows: _Rows,
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


def _refine(
    canvas: Canvas,
    rows: _Rows,
    selected: torch.Tensor,
    at: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    memory: Memory,
    settings: DenoisingSettings,
    progress: Progress,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Rows `(A,)` that commit nothing yet, and rows whose block is decided (arXiv 2510.11052, both phases).

    A row leaves its first phase with the forward that shows the belief at rest, and commits by that belief. In the
    second phase, a belief that rests although tokens were committed since the forward before is final.
    """
    knobs = settings.refinement
    assert knobs is not None and belief.logits is not None
    in_block = selected[at]
    kl = memory.compare(at, belief.logits)
    compared = in_block & ~kl.isnan()
    zeros = torch.zeros(len(selected), device=kl.device)
    total = zeros.index_add(0, at[0], torch.where(compared, kl, 0.0))
    mean = total / zeros.index_add(0, at[0], compared.float())  # nan where nothing was compared
    progress.trace(progress.belief_kl, rows.index, mean)
    hold = rows.refining & ~(mean < knobs.refinement_kl) & (rows.refined < knobs.max_steps)
    stop = ~hold & rows.moved & (mean < knobs.stop_kl)
    memory.remember(at, belief.logits, in_block, selected.shape)
    return hold, stop


def _decide(
    canvas: Canvas,
    rows: _Rows,
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
    floor, ceiling = _bounds(canvas, rows, selected, settings)
    return choose(score, eligible, selected, floor, ceiling)


def _bounds(
    canvas: Canvas, rows: _Rows, selected: torch.Tensor, settings: DenoisingSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Least and most tokens each row commits in this step, `(A,)` each."""
    num_masked = selected.sum(-1)
    one = torch.ones_like(num_masked)
    num_steps = None
    if settings.max_denoising_steps is not None:
        num_steps = steps_of_block(rows.block, canvas.num_blocks, settings.max_denoising_steps)
    if not settings.rule.adaptive:
        if num_steps is None:
            quota = one
        elif settings.dream_schedule:
            quota = dream_quota(num_masked, rows.step, num_steps, settings.schedule_epsilon)
        else:
            quota = uniform_quota(rows.num_at_start, rows.step, num_steps)
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


def _find_exits(
    canvas: Canvas,
    rows: _Rows,
    at: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    settings: DenoisingSettings,
    progress: Progress,
) -> torch.Tensor:
    """
    Rows `(A,)` whose answer is decided while they still reason (arXiv 2510.19990, early exit).

    The sum of the entropies of the answer's open positions bounds their joint entropy from above.
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
        return torch.zeros_like(rows.moved)
    reasons = (canvas.masked & ~canvas.answer).any(-1)
    exits = canvas.answer.any(-1) & reasons & (value < settings.early_exit_threshold)
    progress.exit_step[rows.index] = torch.where(exits, rows.total_steps, -1)
    return exits


def _commit(
    canvas: Canvas,
    rows: _Rows,
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
    progress.ids[rows.index] = canvas.ids
    steps = progress.commit_step[rows.index]
    progress.commit_step[rows.index] = torch.where(commit, rows.total_steps[:, None], steps)
    if belief.entropy is not None:
        entropy = torch.zeros(commit.shape, device=commit.device).index_put_(at, belief.entropy)
        progress.commit_entropy[rows.index] = torch.where(commit, entropy, progress.commit_entropy[rows.index])


def _advance(
    rows: _Rows, commit: torch.Tensor, hold: torch.Tensor | None, stop: torch.Tensor | None, progress: Progress
) -> None:
    """Count the forward."""
    stepped: torch.Tensor | int = 1
    if hold is not None and stop is not None:
        stepped = (~hold).long()
        rows.refined = rows.refined + hold
        rows.refining = rows.refining & hold
        progress.num_refinement_passes.index_add_(0, rows.index, hold.long())
        rows.moved = commit.any(-1)
    rows.step = rows.step + stepped
    if stop is not None:
        # Past any schedule: a decided block takes no idle steps.
        rows.step = torch.where(stop, torch.iinfo(torch.int32).max, rows.step)
    rows.drawn = rows.drawn + stepped
    rows.total_steps = rows.total_steps + 1
    progress.num_forward_passes[rows.index] = rows.total_steps


def _leave_open(
    canvas: Canvas, rows: _Rows, exits: torch.Tensor, settings: DenoisingSettings, progress: Progress
) -> None:
    """Finish the rows `exits` with whatever is still open in them."""
    left = canvas.masked & exits[:, None]
    canvas.ids = canvas.ids.masked_fill(left, settings.fill_token_id)
    canvas.masked = canvas.masked & ~left
    rows.block = torch.where(exits, canvas.num_blocks, rows.block)
    progress.ids[rows.index] = canvas.ids


def _end_rows(canvas: Canvas, rows: _Rows, settings: DenoisingSettings, progress: Progress) -> None:
    """Close rows at the first end-of-sequence token that has nothing open before it."""
    written = canvas.writable & ~canvas.masked
    none_open = canvas.masked.cumsum(-1) == 0
    ends = written & none_open & torch.isin(canvas.ids, settings.eos_token_ids)
    behind = canvas.writable & (ends.cumsum(-1) - ends.long() > 0)
    ended = ends.any(-1)
    canvas.ids = canvas.ids.masked_fill(behind, settings.fill_token_id)
    canvas.masked = canvas.masked & ~behind
    rows.block = torch.where(ended, canvas.num_blocks, rows.block)
    progress.ids[rows.index] = canvas.ids
    progress.commit_step[rows.index] = progress.commit_step[rows.index].masked_fill(behind, -1)
    progress.commit_entropy[rows.index] = progress.commit_entropy[rows.index].masked_fill(behind, float("nan"))


def _show(
    canvas: Canvas, rows: _Rows, at: tuple[torch.Tensor, torch.Tensor], belief: Belief, progress: Progress
) -> None:
    """What only someone who watches wants to know."""
    columns = torch.arange(1, canvas.ids.shape[1] + 1, device=canvas.ids.device)
    ends = (columns * (canvas.writable & (canvas.block_index <= rows.block[:, None]))).amax(-1)
    progress.current_block_end[rows.index] = ends
    if belief.confidence is None:
        return
    where = rows.index[at[0]], at[1]
    progress.candidate = torch.full_like(progress.ids, -1).index_put_(where, belief.token)
    unknown = torch.full(progress.ids.shape, float("nan"), device=progress.ids.device)
    progress.confidence = unknown.index_put_(where, belief.confidence)


__all__ = ["ANSWER_REDUCTIONS", "AnswerReduction", "DenoisingSettings", "denoise"]
