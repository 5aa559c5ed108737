"""The denoising loop: the one loop of all masked diffusion models, with everything that differs plugged in."""

import torch

from hf_latent.generation.beliefs.belief import Belief, BeliefReader
from hf_latent.generation.beliefs.memory import BeliefMemory
from hf_latent.generation.beliefs.refinement import RefinementState
from hf_latent.generation.commit.rules import RuleInputs, choose, choose_best, choose_eligible, defer, per_row
from hf_latent.generation.loop.editing import Revision, choose_revision
from hf_latent.generation.loop.quotas import bounds, quotas
from hf_latent.generation.loop.reading import read_predicted, read_written
from hf_latent.generation.loop.step import StepPlan, plan_step, true_indices
from hf_latent.generation.loop.stopping import (
    find_complete,
    find_early_exits,
    finish_at_eos,
    finish_early,
    refine_or_stop,
)
from hf_latent.generation.loop.verification import choose_remasked
from hf_latent.generation.model_calls.predictor import ForwardRequest, Predictor
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.noise import uniform
from hf_latent.generation.state.progress import OnStep, Progress
from hf_latent.generation.state.rows import ActiveRows, StepDecisions, initial_rows
from hf_latent.generation.state.settings import DenoisingSettings

RULE_STREAM = 1


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
    2. Predict the masked positions of every row's current block, and of its answer, in one forward; with editing, the
       written ones of the block, too; with verification, what it would predict in place of those.
    3. Read the belief. With latent refinement, see whether it still moves: hold rows, or stop their block.
    4. Choose what to commit; leave the reasoning of rows whose answer is decided; choose what to revise of what was
       written; write both.
    5. End rows that have written an end-of-sequence token with nothing open before it, or all that is asked for.

    A row takes the same steps, with the same noise, alone and in any batch. Scores of which no token can be chosen
    raise `ValueError`: the host is told of them with the next step's counts, before anything is returned.
    """
    progress = Progress.of(canvas)
    rows = initial_rows(canvas, settings)
    memory = _make_memory(predictor, read_belief, settings)
    refinement_state = memory if isinstance(memory, RefinementState) else None
    while True:
        # 1.
        plan = plan_step(canvas, rows, predictor, settings)
        kept = [i for i, row in enumerate(rows.states) if not row.done]
        if len(kept) < len(rows.states):
            progress.count_forwards(rows.batch_index, rows.num_forwards, rows.num_refinement_passes)
            if not kept:
                return progress
            keep = torch.tensor(kept, device=canvas.ids.device)
            canvas, plan = canvas.select(keep), plan.select(kept, keep)
            rows.select(kept, keep)
            predictor.select(keep, kept)
            if memory is not None:
                memory.select(keep)
        selected = plan.selected
        # 2.
        indices = true_indices(plan.to_predict, sum(plan.num_to_predict))
        verified = odds = None
        if plan.verified is not None and any(plan.num_verified):
            verified = true_indices(plan.verified, sum(plan.num_verified))
        logits = predictor(
            canvas,
            ForwardRequest(
                indices,
                plan.to_predict,
                rows.blocks,
                plan.num_to_predict,
                plan.host_values,
                refinement_state,
                verified,
            ),
        )
        # 3.
        if verified is not None:
            odds = read_written(canvas, verified, logits[len(indices[0]) :], read_belief)
            logits = logits[: len(indices[0])]
        belief = read_predicted(canvas, rows, indices, logits, read_belief, settings)
        rows.check_scores(indices, belief.normalizer, greedy=read_belief.temperature == 0)
        decisions = StepDecisions()
        if memory is not None:
            assert belief.distribution is not None
            kl = memory.update(indices, belief.distribution, plan.in_block(indices), selected.shape)
            if settings.refinement is not None:
                decisions = refine_or_stop(rows, plan, indices, kl, settings, progress)
        # 4.
        commit = _choose_commits(canvas, rows, plan, indices, belief, memory, settings)
        if decisions.refined is not None:
            commit = commit & ~decisions.refined[:, None]
        if decisions.stopped is not None:
            commit = commit | (selected & decisions.stopped[:, None])
        by_rule = commit
        if canvas.has_answer:
            exits = find_early_exits(canvas, rows, indices, belief, settings, progress)
            if exits is not None:
                commit = torch.where(exits[:, None], canvas.masked & canvas.answer, commit)
                decisions = decisions.finish(exits)
        if settings.with_statistics:
            for others in (decisions.stopped, decisions.finished):
                by_rule = by_rule if others is None else by_rule & ~others[:, None]
            progress.count_choices(rows.batch_index, selected, by_rule)
        revision = choose_revision(canvas, rows, plan, indices, belief, commit, settings)
        if settings.verifies:
            revision = choose_remasked(canvas, rows, plan, verified, odds, commit, decisions, settings)
        if revision is not None:
            decisions = _count_revision(rows, revision, decisions, progress)
        _write(canvas, rows, commit, revision, plan.to_predict, indices, belief, decisions.stopped, progress)
        if revision is not None and revision.remasked is not None:
            _remask(canvas, rows, revision.remasked, read_belief.mask_token_id, progress)
        if settings.with_commits or on_step is not None:
            _record_commits(rows, commit, plan.to_predict, belief, progress)
        if decisions.finished is not None:
            finish_early(canvas, rows, decisions.finished, settings, progress)
        # 5.
        if settings.eos_token_ids is not None:
            settled = None if revision is None else revision.settled
            decisions = decisions.finish(finish_at_eos(canvas, rows, settled, settings, progress))
        complete = None if revision is not None else find_complete(canvas, rows)
        if complete is not None:
            decisions = decisions.finish(complete)
        if settings.verifies:
            rows.num_committed = commit.sum(-1)
        rows.advance(decisions)
        progress.set_rows("masked", rows.batch_index, canvas.masked)
        if on_step is not None:
            if rows.invalid_columns is not None:  # whoever watches waits for the device anyway
                rows.raise_invalid(rows.invalid_columns.tolist())
            _update_progress(canvas, rows, indices, belief, decisions.finished, progress)
            progress.set_rows("block_is_final", rows.batch_index, _find_final_blocks(canvas, rows, revision))
            on_step(progress)


def _make_memory(predictor: Predictor, read_belief: BeliefReader, settings: DenoisingSettings) -> BeliefMemory | None:
    """What is remembered between forwards: for latent refinement, for a rule that looks at how long beliefs rest."""
    limit = settings.stability_kl if settings.rule.reads_stability else None
    if settings.refinement is not None:
        return RefinementState(predictor.embed, read_belief.mask_token_id, settings.refinement, limit)
    return None if limit is None else BeliefMemory(limit)


def _choose_commits(
    canvas: Canvas,
    rows: ActiveRows,
    plan: StepPlan,
    indices: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    memory: BeliefMemory | None,
    settings: DenoisingSettings,
) -> torch.Tensor:
    selected, rule = plan.selected, settings.rule
    statistic = stable = None
    if rule.reads_stability:
        assert memory is not None
        stable = memory.stable_for(settings.stability_steps)
    if rule.reads == "noise":
        statistic = uniform(
            settings.seed, RULE_STREAM, canvas.row[:, None], rows.noise_step[:, None], canvas.position_ids
        )
    elif belief.statistic is not None:
        statistic = belief.statistic.new_zeros(selected.shape).masked_scatter_(plan.to_predict, belief.statistic)
    score, eligible = rule.decide(RuleInputs(selected, statistic, settings.threshold, stable))
    if belief.deferred is not None:
        deferred = torch.zeros_like(selected).masked_scatter_(plan.to_predict, belief.deferred)
        score, eligible = defer(score, eligible, deferred)
    if not rule.adaptive:
        return choose_best(score, selected, quotas(rows.states, settings))
    if not settings.bounds_adaptive_rules:
        commit = choose_eligible(score, eligible, selected)
        last = [row.is_last_step for row in rows.states]
        return commit | (selected & per_row(last, selected.device)) if any(last) else commit
    return choose(score, eligible, selected, *bounds(rows.states, settings))


def _write(
    canvas: Canvas,
    rows: ActiveRows,
    commit: torch.Tensor,
    revision: Revision | None,
    to_predict: torch.Tensor,
    indices: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    stopped: torch.Tensor | None,
    progress: Progress,
) -> None:
    chosen, log_prob = belief.token, belief.log_prob
    replaced = None if revision is None else revision.replaced
    takes_likeliest = []
    if belief.most_likely is not None:
        takes_likeliest += [] if stopped is None else [stopped[indices[0]]]
        takes_likeliest += [] if replaced is None else [replaced[indices]]
    for where in takes_likeliest:
        chosen = torch.where(where, belief.most_likely, chosen)
        log_prob = None if log_prob is None else torch.where(where, belief.most_likely_log_prob, log_prob)
    changed = commit if replaced is None else commit | replaced
    canvas.ids = torch.where(changed, canvas.ids.masked_scatter(to_predict, chosen), canvas.ids)
    canvas.masked = canvas.masked ^ commit  # only what is masked is committed
    progress.set_rows("ids", rows.batch_index, canvas.ids)
    if log_prob is not None:
        known = progress.get_rows("commit_log_prob", rows.batch_index)
        known = torch.where(changed, known.masked_scatter(to_predict, log_prob), known)
        progress.set_rows("commit_log_prob", rows.batch_index, known)


def _count_revision(
    rows: ActiveRows, revision: Revision, decisions: StepDecisions, progress: Progress
) -> StepDecisions:
    """The decisions of a step, with what it takes back, which is counted."""
    for name, changed in (("edited", revision.replaced), ("remasked", revision.remasked)):
        if changed is not None:
            decisions = decisions._replace(**{name: changed.any(-1)})
            progress.count_revised("num_edits" if name == "edited" else "num_remasked", rows.batch_index, changed)
    return decisions


def _remask(canvas: Canvas, rows: ActiveRows, remasked: torch.Tensor, mask_token_id: int, progress: Progress) -> None:
    """Leave written positions `(A, L)` as if they had never been written."""
    canvas.ids = canvas.ids.masked_fill(remasked, mask_token_id)
    canvas.masked = canvas.masked | remasked
    progress.set_rows("ids", rows.batch_index, canvas.ids)
    progress.forget_commits(rows.batch_index, remasked)


def _record_commits(
    rows: ActiveRows, commit: torch.Tensor, to_predict: torch.Tensor, belief: Belief, progress: Progress
) -> None:
    """When, and how surely, the positions of a step were written."""
    index = rows.batch_index
    steps = torch.where(commit, rows.num_forwards, progress.get_rows("commit_step", index))
    progress.set_rows("commit_step", index, steps)
    if belief.entropy is not None:
        known = progress.get_rows("commit_entropy", index)
        known = torch.where(commit, known.masked_scatter(to_predict, belief.entropy), known)
        progress.set_rows("commit_entropy", index, known)


def _find_final_blocks(canvas: Canvas, rows: ActiveRows, revision: Revision | None) -> torch.Tensor:
    """Rows `(A,)` whose block is final."""
    if revision is not None:
        return revision.settled
    return ~(canvas.masked & rows.in_current_block).any(-1)


def _update_progress(
    canvas: Canvas,
    rows: ActiveRows,
    indices: tuple[torch.Tensor, torch.Tensor],
    belief: Belief,
    finished: torch.Tensor | None,
    progress: Progress,
) -> None:
    """What only someone who watches wants to know."""
    columns = torch.arange(1, canvas.ids.shape[1] + 1, device=canvas.ids.device)
    block = torch.tensor(rows.blocks, device=columns.device)
    if finished is not None:
        block = torch.where(finished, canvas.num_blocks, block)
    ends = (columns * (canvas.writable & (canvas.block_index <= block[:, None]))).amax(-1)
    progress.set_rows("current_block_end", rows.batch_index, ends)
    progress.count_forwards(rows.batch_index, rows.num_forwards, rows.num_refinement_passes)
    if belief.confidence is None:
        return
    where = rows.batch_index[indices[0]], indices[1]
    progress.candidate = torch.full_like(progress.ids, -1).index_put_(where, belief.token)
    unknown = torch.full(progress.ids.shape, float("nan"), device=progress.ids.device)
    progress.confidence = unknown.index_put_(where, belief.confidence)


__all__ = ["denoise"]
