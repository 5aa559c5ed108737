"""Token editing (LLaDA2.1) and the knobs that bound a block: against plain Python, and what they promise."""

import math
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

EOS, PAD, MASK = 45, 46, 47
PLAIN: dict[str, Any] = {"return_dict_in_generate": True, "eos_token_id": None}


def edit_plainly(
    model: torch.nn.Module,
    prompt: list[int],
    num_blocks: int,
    block_length: int,
    threshold: float,
    least: list[int],
    editing_threshold: float | None,
    max_post_steps: int,
) -> tuple[list[int], list[int], int, list[tuple[int, int, int]], float]:
    """
    One row, one block after the other, as LLaDA2.0 and 2.1 are written. `least`: tokens of each step, the last for all
    later ones. Returns ids, the forward that first wrote each, their number, edits, the smallest gap of a decision.
    """
    ids, calls, edits, gap = prompt + [MASK] * (num_blocks * block_length), 0, [], math.inf
    commit_step = [-1] * len(ids)
    for block in range(num_blocks):
        first = len(prompt) + block * block_length
        own, step, post = range(first, first + block_length), 0, 0
        while True:
            left = [i for i in own if ids[i] == MASK]
            post += not left
            if not left and (editing_threshold is None or post > max_post_steps):
                break
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0]
            logits[:, MASK] = -math.inf
            best = {i: logits[i].softmax(-1).topk(2) for i in own}
            p, token = ({i: float(b[k][0]) for i, b in best.items()} for k in (0, 1))
            gap = min(
                [gap, *(float(best[i][0][0] - best[i][0][1]) for i in own), *(abs(p[i] - threshold) for i in left)]
            )
            order = sorted(left, key=lambda i: (-p[i], i))
            gap = min([gap, *(abs(p[a] - p[b]) for a, b in pairwise(order))])
            sure = [i for i in left if p[i] >= threshold]
            quota = least[min(step, len(least) - 1)]
            changed = []
            if editing_threshold is not None:
                written = [i for i in own if ids[i] != MASK]
                gap = min([gap, *(abs(p[i] - editing_threshold) for i in written)])
                changed = [i for i in written if int(token[i]) != ids[i] and p[i] > editing_threshold]
            for i in sure if len(sure) >= quota else order[:quota]:
                ids[i], commit_step[i] = int(token[i]), calls
            for i in changed:
                edits.append((calls, i, int(token[i])))
                ids[i] = int(token[i])
            calls, step = calls + 1, step + 1
            if not left and not changed:
                break
    return ids, commit_step, calls, edits, gap


@given(
    prompt=st.lists(st.integers(0, 44), min_size=1, max_size=5),
    threshold=st.sampled_from([0.3, 0.6, 0.9]),
    knobs=st.sampled_from(
        [{"min_tokens_per_step": 1}, {"min_tokens_per_step": 3}, {"steps_per_block": 3}, {"steps_per_block": 9}]
    ),
    editing_threshold=st.sampled_from([None, 0.0, 0.4, 0.8]),
    max_post_steps=st.integers(0, 3),
)
@settings(max_examples=25)
def test_the_loop_edits_and_counts_like_the_reference(
    model: torch.nn.Module,
    write_blocks: Callable,
    prompt: list[int],
    threshold: float,
    knobs: dict,
    editing_threshold: float | None,
    max_post_steps: int,
) -> None:
    """Also Dream's shifted model, and quotas of a block: 4 of 3 steps are 2, 1, 1; 4 of 9 steps are 1, 1, 1, 1, 0."""
    steps = knobs.get("steps_per_block")
    least = [knobs.get("min_tokens_per_step", 1)]
    if steps is not None:  # never less than one
        least = [max(1, 4 // steps + (s < 4 % steps)) for s in range(steps)]
    ids, commit_step, calls, edits, gap = edit_plainly(
        model, prompt, 2, 4, threshold, least, editing_threshold, max_post_steps
    )
    assume(gap > 1e-5)  # float32 statistics against float64
    rule = {"decoding": "confidence_threshold", "confidence_threshold": threshold}
    edits_by = {"editing_threshold": editing_threshold, "max_post_steps": max_post_steps}
    out = write_blocks(model, prompt, (2, 4), **rule, **edits_by, **knobs, output_history=True)
    assert out.sequences[0].tolist() == ids
    assert out.commit_step[0].tolist() == commit_step
    assert out.num_forward_passes.tolist() == [calls]
    canvases = [torch.tensor(prompt + [MASK] * 8), *(canvas[0] for canvas in out.history)]
    changed = [
        (call, i, int(new[i]))
        for call, (old, new) in enumerate(pairwise(canvases))
        for i in range(len(new))
        if old[i] != new[i] and old[i] != MASK
    ]
    assert changed == edits
    counted = None if out.num_edits is None else out.num_edits.tolist()
    assert counted == (None if editing_threshold is None else [len(edits)])


@pytest.mark.parametrize("decoding", ["low_confidence", "random", "left_to_right", "med", "entropy_bound"])
@pytest.mark.parametrize("extra", [{}, {"latent_refinement": True}, {"temperature": 1.0}, {"block_cache": "dual"}])
def test_a_row_always_ends_and_no_given_token_is_edited(
    model: torch.nn.Module, check_rows_alone: Callable, decoding: str, extra: dict
) -> None:
    """
    Every edit of a threshold of 0 may call for another, for ever: LLaDA2.1 ends by `max_post_steps`. A block has no
    more forwards than masks, refining ones and those; and rows are what they are alone.
    """
    knobs = PLAIN | extra | {"decoding": decoding, "seed": 1, "max_new_tokens": 6, "block_length": 3}
    knobs |= {"denoising_schedule": "uniform", "editing_threshold": 0.0, "max_post_steps": 4, "refinement_steps": 2}
    rows = [[1, 2, 3], [4], [5, 6, 7, 8]]
    ids = torch.tensor([rows[0]])
    out = model.generate(ids, **knobs)
    most = 2 * (3 + 4 + (2 if "latent_refinement" in extra else 0))
    assert out.num_forward_passes.item() <= most
    assert out.num_edits.item() > 0
    assert out.sequences[0, :3].tolist() == rows[0] and MASK not in out.sequences
    given = torch.tensor([[1, MASK, 2, MASK, MASK, 3, 4, MASK]])
    infilled = model.infill(given, **{k: v for k, v in knobs.items() if k != "max_new_tokens"}).sequences
    assert (infilled == given)[given != MASK].all() and MASK not in infilled
    if decoding in ("low_confidence", "med"):
        check_rows_alone(model, rows, PAD, **knobs)


def test_a_row_ends_only_with_a_block_that_is_settled(llada: torch.nn.Module) -> None:
    """An end-of-sequence token may be edited away: LLaDA2.1 looks for one behind complete blocks only."""
    knobs = PLAIN | {"max_new_tokens": 16, "block_length": 4, "editing_threshold": 0.3, "max_post_steps": 3}
    prompt = torch.tensor([[1, 2, 3, 4]])
    free = llada.generate(prompt, **knobs, output_history=True)
    for token in set(free.sequences[0, 4:12].tolist()):
        ended = llada.generate(prompt, **knobs | {"eos_token_id": token})
        first = free.sequences[0, 4:].tolist().index(token) + 4
        assert ended.sequences[0, : first + 1].tolist() == free.sequences[0, : first + 1].tolist()
        block_end = first // 4 * 4 + 4
        written_by = [
            canvas[0, :block_end].tolist() == free.sequences[0, :block_end].tolist() for canvas in free.history
        ]
        assert ended.num_forward_passes.item() > written_by.index(True)


def test_what_is_streamed_as_final_is_what_is_returned(llada: torch.nn.Module, make_recorder: Callable) -> None:
    """A written block is a draft as long as it is edited."""
    for kinds in ({"editing_threshold": 0.2}, {"editing_threshold": 0.0, "max_post_steps": 2}, {"eos_token_id": 13}):
        knobs = {"max_new_tokens": 12, "block_length": 4, "eos_token_id": None, "editing_threshold": 0.3} | kinds
        recorder = make_recorder()
        out = llada.generate(torch.tensor([[1, 2, 3, 4]]), streamer=recorder, **knobs)
        assert recorder.final == out[0].tolist()
        assert recorder.drafts > 0


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"steps_per_block": 4}, "`steps_per_block`=4 needs `block_length`"),
        (
            {"steps_per_block": 4, "block_length": 4, "max_denoising_steps": 8},
            "`steps_per_block`=4 and `max_denoising_steps`=8",
        ),
        (
            {"steps_per_block": 4, "block_length": 4, "denoising_schedule": "dream"},
            "`denoising_schedule` must be 'uniform', got 'dream'",
        ),
        (
            {"min_tokens_per_step": 2},
            "`min_tokens_per_step`=2 is for rules by the belief; `decoding`='low_confidence'",
        ),
        (
            {"min_tokens_per_step": 3, "max_tokens_per_step": 2, "decoding": "med"},
            r"`min_tokens_per_step` must be at most `max_tokens_per_step` \(2\), got 3",
        ),
        ({"sub_block_length": 2, "block_length": 4}, "`sub_block_length`=2 is for block-causal models"),
    ],
)
def test_a_knob_that_would_do_nothing_is_refused(
    llada: torch.nn.Module, forward_counter: list, knobs: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        llada.generate(torch.tensor([[1, 2]]), max_new_tokens=8, **knobs)
    assert forward_counter == []


@pytest.fixture
def forward_counter(llada: torch.nn.Module) -> Iterator[list[int]]:
    calls: list[int] = []
    hook = llada.register_forward_pre_hook(lambda *_: calls.append(1))
    yield calls
    hook.remove()


def test_a_semi_causal_model_edits_nothing(make_latent_token: Callable) -> None:
    with pytest.raises(ValueError, match=r"`editing_threshold`=0.5 must be left out for a semi-causal model"):
        make_latent_token("any").generate(torch.tensor([[5, 6]]), max_new_tokens=4, editing_threshold=0.5)


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_steps_per_block_are_quotas_of_whole_blocks_that_end_when_they_are_written(
    llada: torch.nn.Module, steps: int
) -> None:
    """SDAR: 5 // S tokens each, one more in the first 5 % S steps; the last block of 3 is cut off by its masks."""
    knobs = PLAIN | {"max_new_tokens": 13, "block_length": 5}
    out = llada.generate(torch.tensor([[1, 2]]), steps_per_block=steps, **knobs)
    quotas = [5 // steps + (s < 5 % steps) for s in range(steps)]
    planned = []
    for size in (5, 5, 3):
        for quota in quotas:
            if size > 0:
                planned.append(min(quota, size))
                size -= planned[-1]
    assert out.commit_step[0, 2:].bincount().tolist() == planned
    assert out.num_forward_passes.tolist() == [len(planned)]
