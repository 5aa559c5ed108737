# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""The denoising loop: the one loop of all masked diffusion models, with everything that differs plugged in."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .generation_belief import Belief, BeliefReader
from .generation_canvas import Canvas
from .generation_noise import uniform
from .generation_rules import CommitRule, RuleInputs, choose
from .generation_schedule import dream_quota, steps_of_block, uniform_quota

CANDIDATE_STREAM, RULE_STREAM = 0, 1

# (canvas, rows of the selected positions (N,), their columns (N,)) to logits (N, V)
PredictLogits = Callable[[Canvas, torch.Tensor, torch.Tensor], torch.Tensor]
# Called with the state after every step.
OnStep = Callable[["Progress"], None]


@dataclass(frozen=True)
class DenoisingSettings:
    """
    Values of the generation config that the loop reads, typed.

    See `DiffusionGenerationConfig` for their meaning; `threshold` is the knob of the rule, `eos_token_ids` is None
    where a row does not end early, `fill_token_id` is what is written behind a row's end.
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


@dataclass
class Progress:
    """
    What the loop has done. `B` rows of the whole batch, `L` canvas length.

    Args:
        ids, commit_step, commit_entropy: `(B, L)`; num_forward_passes: `(B,)`. See `DiffusionGenerateOutput`.
        masked: `(B, L)` bool, positions still to be written.
        current_block_end: `(B,)` int64, first column behind the block that the row is at.
    """

    ids: torch.Tensor
    masked: torch.Tensor
    commit_step: torch.Tensor
    commit_entropy: torch.Tensor
    num_forward_passes: torch.Tensor
    current_block_end: torch.Tensor


@dataclass
class _Rows:
    """State of the rows that are still being written, `(A,)` int64 each: `A` of the batch's `B` rows."""

    index: torch.Tensor  # where the row is in the batch
    block: torch.Tensor  # block it is at
    step: torch.Tensor  # steps done in that block
    num_at_start: torch.Tensor  # masks the block had at its start
    total_steps: torch.Tensor  # forwards so far

    def select(self, rows: torch.Tensor) -> "_Rows":
        return _Rows(*(value[rows] for value in vars(self).values()))


@torch.no_grad()
def denoise(
    canvas: Canvas,
    predict_logits: PredictLogits,
    read_belief: BeliefReader,
    settings: DenoisingSettings,
    on_step: OnStep | None = None,
) -> Progress:
    """
    Write the masked positions of a canvas.

    1. Move rows whose block is written to their next block; drop rows that are done, they cost nothing any more.
    2. Predict the masked positions of every row's current block, in one forward.
    3. Read the belief, choose what to commit, commit it.
    4. End rows that have written an end-of-sequence token with nothing open before it.

    A row takes the same steps, with the same noise, alone and in any batch.
    """
    progress = _start(canvas)
    rows = _first_rows(canvas)
    while True:
        # 1. The one host sync of a step: who is done, and how many positions are selected.
        _enter_next_blocks(canvas, rows, settings)
        selected = canvas.masked & (canvas.block_index == rows.block[:, None])
        done = rows.block >= canvas.num_blocks
        is_done, num_selected = torch.stack([done.long(), selected.sum(-1)]).tolist()
        if any(is_done):
            keep = torch.tensor([i for i, flag in enumerate(is_done) if not flag], device=done.device)
            if len(keep) == 0:
                return progress
            canvas, rows, selected = canvas.select(keep), rows.select(keep), selected[keep]
        # 2.
        at_row, at_column = _indices(selected, sum(num_selected))
        logits = predict_logits(canvas, at_row, at_column)
        # 3.
        position = canvas.position_ids[at_row, at_column]
        noise = None
        if read_belief.temperature > 0:
            step = rows.total_steps[at_row]
            noise = uniform(settings.seed, CANDIDATE_STREAM, canvas.row[at_row], step, position)
        seen = None
        if read_belief.reads_canvas:
            # Padding looks unwritten: a penalty on tokens in the text would count it otherwise.
            seen = canvas.ids.masked_fill(~canvas.valid, read_belief.mask_token_id)[at_row]
        belief = read_belief(logits, seen, noise)
        commit = _decide(canvas, rows, selected, (at_row, at_column), belief, settings)
        _commit(canvas, rows, commit, (at_row, at_column), belief, progress)
        # 4.
        if settings.eos_token_ids is not None:
            _end_rows(canvas, rows, settings, progress)
        progress.masked[rows.index] = canvas.masked
        if on_step is not None:
            progress.current_block_end[rows.index] = _block_end(canvas, rows)
            on_step(progress)


def _start(canvas: Canvas) -> Progress:
    batch_size, device = canvas.ids.shape[0], canvas.ids.device
    return Progress(
        ids=canvas.ids.clone(),
        masked=canvas.masked.clone(),
        commit_step=torch.full_like(canvas.ids, -1),
        commit_entropy=torch.full(canvas.ids.shape, float("nan"), device=device),
        num_forward_passes=torch.zeros(batch_size, dtype=torch.long, device=device),
        current_block_end=torch.zeros(batch_size, dtype=torch.long, device=device),
    )


def _first_rows(canvas: Canvas) -> _Rows:
    zeros = torch.zeros(canvas.ids.shape[0], dtype=torch.long, device=canvas.ids.device)
    in_first_block = (canvas.masked & (canvas.block_index == 0)).sum(-1)
    return _Rows(
        index=torch.arange(len(zeros), device=zeros.device),
        block=zeros,
        step=zeros.clone(),
        num_at_start=in_first_block,
        total_steps=zeros.clone(),
    )


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


def _indices(selected: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the true elements of `(A, L)` in row-major order; `count`, known, spares a sync."""
    flat = (~selected).flatten().to(torch.uint8).argsort(stable=True)[:count]
    return flat // selected.shape[1], flat % selected.shape[1]


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
        statistic = uniform(
            settings.seed, RULE_STREAM, canvas.row[:, None], rows.total_steps[:, None], canvas.position_ids
        )
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


def _commit(
    canvas: Canvas,
    rows: _Rows,
    commit: torch.Tensor,
    at: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    progress: Progress,
) -> None:
    token = torch.zeros_like(canvas.ids).index_put_(at, belief.token)
    canvas.ids = torch.where(commit, token, canvas.ids)
    canvas.masked = canvas.masked & ~commit
    progress.ids[rows.index] = canvas.ids
    steps = progress.commit_step[rows.index]
    progress.commit_step[rows.index] = torch.where(commit, rows.total_steps[:, None], steps)
    if belief.entropy is not None:
        entropy = torch.zeros(commit.shape, device=commit.device).index_put_(at, belief.entropy)
        progress.commit_entropy[rows.index] = torch.where(commit, entropy, progress.commit_entropy[rows.index])
    rows.step = rows.step + 1
    rows.total_steps = rows.total_steps + 1
    progress.num_forward_passes[rows.index] = rows.total_steps


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


def _block_end(canvas: Canvas, rows: _Rows) -> torch.Tensor:
    columns = torch.arange(1, canvas.ids.shape[1] + 1, device=canvas.ids.device)
    return (columns * (canvas.writable & (canvas.block_index <= rows.block[:, None]))).amax(-1)


__all__ = ["DenoisingSettings", "Progress", "denoise"]
