"""The denoising loop: the one loop of all masked diffusion models, with everything that differs plugged in."""

import torch

from hf_latent.generation.beliefs.belief import Belief, BeliefReader
from hf_latent.generation.beliefs.refinement import Memory
from hf_latent.generation.commit.rules import RuleInputs, choose, choose_best, choose_freely, per_row, postpone
from hf_latent.generation.loop.quotas import bounds, quotas
from hf_latent.generation.loop.step import Survey, indices_of, survey
from hf_latent.generation.loop.stopping import end_rows, find_exits, hold_or_stop, leave_open
from hf_latent.generation.model_calls.predictor import Predictor, Reading
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.noise import uniform
from hf_latent.generation.state.progress import OnStep, Progress
from hf_latent.generation.state.rows import Rows, Verdicts, first_rows
from hf_latent.generation.state.settings import DenoisingSettings

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

    A row takes the same steps, with the same noise, alone and in any batch. Scores of which no token can be chosen
    raise `ValueError`: the host is told of them with the next step's counts, before anything is returned.
    """
    progress = Progress.of(canvas)
    rows = first_rows(canvas, settings)
    memory = None
    if settings.refinement is not None:
        memory = Memory(predictor.embed, read_belief.mask_token_id, settings.refinement)
    while True:
        # 1.
        view = survey(canvas, rows, predictor, settings)
        kept = [i for i, row in enumerate(rows.each) if not row.done]
        if len(kept) < len(rows.each):
            progress.count_forwards(rows.index, rows.num_forwards, rows.num_held)
            if not kept:
                return progress
            keep = torch.tensor(kept, device=canvas.ids.device)
            canvas, view = canvas.select(keep), view.select(kept, keep)
            rows.select(kept, keep)
            predictor.select(keep, kept)
            if memory is not None:
                memory.select(keep)
        selected = view.selected
        # 2.
        at = indices_of(view.read, sum(view.counts))
        logits = predictor(canvas, Reading(at, view.read, rows.blocks, view.counts, view.facts, memory))
        # 3.
        belief = _read(canvas, rows, at, logits, read_belief, settings)
        rows.watch(at, belief.total, greedy=read_belief.temperature == 0)
        verdicts = Verdicts()
        if memory is not None:
            verdicts = hold_or_stop(rows, view, at, belief, memory, settings, progress)
        # 4.
        commit = _decide(canvas, rows, view, at, belief, settings)
        if verdicts.held is not None:
            commit = commit & ~verdicts.held[:, None]
        if verdicts.stopped is not None:
            commit = commit | (selected & verdicts.stopped[:, None])
        by_rule = commit
        if canvas.has_answer:
            exits = find_exits(canvas, rows, at, belief, settings, progress)
            if exits is not None:
                commit = torch.where(exits[:, None], canvas.masked & canvas.answer, commit)
                verdicts = verdicts.leave(exits)
        if settings.with_statistics:
            for others in (verdicts.stopped, verdicts.left):
                by_rule = by_rule if others is None else by_rule & ~others[:, None]
            progress.count_choices(rows.index, selected, by_rule)
        _commit(canvas, rows, commit, view.read, at, belief, verdicts.stopped, progress)
        if settings.with_commits or on_step is not None:
            _note(rows, commit, view.read, belief, progress)
        if verdicts.left is not None:
            leave_open(canvas, rows, verdicts.left, settings, progress)
        # 5.
        if settings.eos_token_ids is not None:
            verdicts = verdicts.leave(end_rows(canvas, rows, settings, progress))
        rows.advance(verdicts)
        progress.put("masked", rows.index, canvas.masked)
        if on_step is not None:
            if rows.faults is not None:  # whoever watches waits for the device anyway
                rows.check(rows.faults.tolist())
            _show(canvas, rows, at, belief, verdicts.left, progress)
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
    noise = seen = offset = None
    if read_belief.temperature > 0:
        position = canvas.position_ids[at]
        noise = uniform(settings.seed, CANDIDATE_STREAM, canvas.row[at_row], rows.drawn[at_row], position)
    if read_belief.reads_canvas:
        # Padding looks unwritten: a penalty on tokens in the text would count it otherwise.
        seen = canvas.ids.masked_fill(~canvas.valid, read_belief.mask_token_id)[at_row]
    if read_belief.ends_later:
        first = torch.where(canvas.writable, canvas.position_ids, canvas.ids.shape[1]).amin(-1)
        offset = canvas.position_ids[at] - first[at_row]
    return read_belief(logits, seen, noise, offset)


def _decide(
    canvas: Canvas,
    rows: Rows,
    view: Survey,
    at: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    settings: DenoisingSettings,
) -> torch.Tensor:
    selected, rule = view.selected, settings.rule
    statistic = None
    if rule.reads == "noise":
        statistic = uniform(settings.seed, RULE_STREAM, canvas.row[:, None], rows.drawn[:, None], canvas.position_ids)
    elif belief.statistic is not None:
        statistic = belief.statistic.new_zeros(selected.shape).masked_scatter_(view.read, belief.statistic)
    score, eligible = rule.decide(RuleInputs(selected, statistic, settings.threshold))
    if belief.deferred is not None:
        deferred = torch.zeros_like(selected).masked_scatter_(view.read, belief.deferred)
        score, eligible = postpone(score, eligible, deferred)
    if not rule.adaptive:
        return choose_best(score, selected, quotas(rows.each, settings))
    if settings.max_tokens_per_step is None and not settings.is_paced:
        commit = choose_freely(score, eligible, selected)
        last = [row.at_last_step for row in rows.each]
        return commit | (selected & per_row(last, selected.device)) if any(last) else commit
    return choose(score, eligible, selected, *bounds(rows.each, settings))


def _commit(
    canvas: Canvas,
    rows: Rows,
    commit: torch.Tensor,
    read: torch.Tensor,
    at: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    stopped: torch.Tensor | None,
    progress: Progress,
) -> None:
    chosen = belief.token
    if stopped is not None and belief.most_likely is not None:
        chosen = torch.where(stopped[at[0]], belief.most_likely, chosen)
    canvas.ids = torch.where(commit, canvas.ids.masked_scatter(read, chosen), canvas.ids)
    canvas.masked = canvas.masked ^ commit  # only what is masked is committed
    progress.put("ids", rows.index, canvas.ids)


def _note(rows: Rows, commit: torch.Tensor, read: torch.Tensor, belief: Belief, progress: Progress) -> None:
    """When, and how surely, the positions of a step were written."""
    index = rows.index
    steps = torch.where(commit, rows.num_forwards, progress.of_rows("commit_step", index))
    progress.put("commit_step", index, steps)
    if belief.entropy is not None:
        known = progress.of_rows("commit_entropy", index)
        known = torch.where(commit, known.masked_scatter(read, belief.entropy), known)
        progress.put("commit_entropy", index, known)


def _show(
    canvas: Canvas,
    rows: Rows,
    at: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    left: torch.Tensor | None,
    progress: Progress,
) -> None:
    """What only someone who watches wants to know."""
    columns = torch.arange(1, canvas.ids.shape[1] + 1, device=canvas.ids.device)
    block = torch.tensor(rows.blocks, device=columns.device)
    if left is not None:
        block = torch.where(left, canvas.num_blocks, block)
    ends = (columns * (canvas.writable & (canvas.block_index <= block[:, None]))).amax(-1)
    progress.put("current_block_end", rows.index, ends)
    progress.count_forwards(rows.index, rows.num_forwards, rows.num_held)
    if belief.confidence is None:
        return
    where = rows.index[at[0]], at[1]
    progress.candidate = torch.full_like(progress.ids, -1).index_put_(where, belief.token)
    unknown = torch.full(progress.ids.shape, float("nan"), device=progress.ids.device)
    progress.confidence = unknown.index_put_(where, belief.confidence)


__all__ = ["denoise"]
