"""How long a row gets: appended blocks, the least number of tokens; and what a run says of its order of choices."""

import math
from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from hf_latent import DiffusionGenerateOutput, DiffusionGenerationConfig
from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.state.canvas import build_canvas
from hf_latent.generation.state.progress import Progress

EOS, PAD, MASK = 45, 46, 47
KNOBS = {"confidence_threshold": 0.7, "entropy_threshold": 0.8, "entropy_bound": 0.6, "seed": 2}
KNOBS |= {"return_dict_in_generate": True}
ENDS = list(range(0, 46, 6))
texts = st.lists(st.integers(0, 44), min_size=1, max_size=6)


def beliefs(model: nn.Module, ids: list[int]) -> torch.Tensor:
    """Distributions `(L, V)` of a canvas, the mask never predicted."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    logits[:, MASK] = -math.inf
    return logits.softmax(-1)


def padded(rows: list[list[int]], side: str) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill = width - len(row)
        ids.append([PAD] * fill + row if side == "left" else row + [PAD] * fill)
        mask.append([0] * fill + [1] * len(row) if side == "left" else [1] * len(row) + [0] * fill)
    return torch.tensor(ids), torch.tensor(mask)


# Appended blocks.


def append_plainly(
    model: nn.Module, prompt: list[int], number: int, block_length: int, decoding: str, ends: list[int]
) -> tuple[list[int], list[int], int, float]:
    """
    One row whose canvas ends with the current block. Returns ids as far as blocks were appended, the forward after
    which each was written (-1 behind the end), the number of forwards, and the smallest gap of any decision.
    """
    ids, written, calls, gap = list(prompt), [-1] * len(prompt), 0, math.inf
    for begin in range(0, number, block_length):
        size = min(block_length, number - begin)
        ids, written = ids + [MASK] * size, written + [-1] * size
        while MASK in ids:
            p = beliefs(model, ids)
            left = [i for i, token in enumerate(ids) if token == MASK]
            entropy = {i: float(-torch.special.xlogy(p[i], p[i]).sum()) for i in left}
            score = {i: -i for i in left}
            if decoding != "left_to_right":
                score = {i: float(p[i].max()) if decoding == "low_confidence" else -entropy[i] for i in left}
            order = sorted(left, key=score.__getitem__, reverse=True)
            count = 1
            if decoding == "med":
                gap = min([gap] + [abs(value - KNOBS["entropy_threshold"]) for value in entropy.values()])
                count = max(1, sum(value < KNOBS["entropy_threshold"] for value in entropy.values()))
            if count < len(left):
                gap = min(gap, score[order[count - 1]] - score[order[count]])
            for i in order[:count]:
                best, second = p[i].topk(2).values.tolist()
                gap = min(gap, best - second)
                ids[i], written[i] = int(p[i].argmax()), calls
            calls += 1
            closed = ids[: ids.index(MASK)] if MASK in ids else ids
            end = next((i for i in range(len(prompt), len(closed)) if closed[i] in ends), None)
            if end is not None:
                behind = len(ids) - end - 1
                return ids[: end + 1] + [PAD] * behind, written[: end + 1] + [-1] * behind, calls, gap
    return ids, written, calls, gap


@pytest.mark.parametrize("decoding", ["low_confidence", "entropy", "left_to_right", "med"])
@given(data=st.data())
@settings(max_examples=15)
def test_appended_blocks_agree_with_a_sampler_in_plain_python(
    model: nn.Module, decoding: str, data: st.DataObject
) -> None:
    """No token depends on what is not there yet, and a row that has ended gets no more blocks."""
    prompt = data.draw(texts, "prompt")
    number = data.draw(st.integers(1, 10), "max_new_tokens")
    block_length = data.draw(st.integers(1, 5), "block_length")
    ends = data.draw(st.sampled_from([[], ENDS]), "eos_token_id")
    ids, written, calls, gap = append_plainly(model, prompt, number, block_length, decoding, ends)
    assume(gap > 1e-5)
    out = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=number,
        block_length=block_length,
        decoding=decoding,
        append_blocks=True,
        eos_token_id=ends or None,
        **KNOBS,
    )
    assert out.num_forward_passes.tolist() == [calls]
    assert out.sequences[0].tolist() == ids
    assert out.commit_step[0].tolist() == written


@pytest.fixture
def widths(model: nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Rows and columns of every forward of `model` in the test."""
    seen: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield seen
    hook.remove()


def test_forwards_see_existing_columns_only(model: nn.Module, widths: list[tuple[int, ...]]) -> None:
    prompt = torch.tensor([[1, 2, 3]])
    knobs = KNOBS | {"max_new_tokens": 8, "block_length": 3, "eos_token_id": None}
    model.generate(prompt, append_blocks=True, **knobs)
    assert widths == [(1, 6)] * 3 + [(1, 9)] * 3 + [(1, 11)] * 2
    widths.clear()
    model.generate(prompt, **knobs)
    assert widths == [(1, 11)] * 8


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("decoding", list(RULES))
def test_a_batch_is_as_long_as_its_longest_row_needs(model: nn.Module, decoding: str, side: str) -> None:
    """Rows end by themselves; what is returned ends with the last block that some row came to."""
    rows = [[1, 2, 3], [9, 8], [20, 21, 22, 23, 24], [30]]
    knobs = KNOBS | {"decoding": decoding, "max_new_tokens": 12, "block_length": 3, "append_blocks": True}
    knobs |= {"eos_token_id": ENDS}
    ids, mask = padded(rows, side)
    out = model.generate(ids, attention_mask=mask, **knobs)
    needed = []
    for i, row in enumerate(rows):
        alone = model.generate(torch.tensor([row]), row_indices=[i], **knobs)
        start = ids.shape[1] - len(row) if side == "left" else 0
        length = alone.sequences.shape[1]
        needed.append(start + length)
        assert (length - len(row)) % 3 == 0
        assert (alone.commit_step[0, -3:] >= 0).any(), "no block is appended for nothing"
        found = out.sequences[i, start:].tolist()
        assert found == alone.sequences[0].tolist() + [PAD] * (len(found) - length)
        steps = out.commit_step[i, start:].tolist()
        assert steps == alone.commit_step[0].tolist() + [-1] * (len(found) - length)
        assert out.num_forward_passes[i] == alone.num_forward_passes[0]
    assert out.sequences.shape[1] == max(needed)
    assert MASK not in out.sequences


def test_a_batch_that_ends_early_is_short(model: nn.Module, widths: list[tuple[int, ...]]) -> None:
    """Every token ends the row: one block, of one token."""
    knobs = KNOBS | {"max_new_tokens": 12, "block_length": 3, "append_blocks": True, "decoding": "left_to_right"}
    out = model.generate(torch.tensor([[1, 2], [3, 4]]), eos_token_id=list(range(46)), output_history=True, **knobs)
    assert out.sequences.shape == (2, 5)
    assert out.commit_step.shape == out.commit_entropy.shape == out.history[0].shape == (2, 5)
    assert widths == [(2, 5)]
    whole = model.generate(torch.tensor([[1, 2]]), eos_token_id=None, **knobs)
    assert whole.sequences.shape == (1, 14)


@pytest.mark.parametrize("by", ["keyword", "configuration"])
def test_appended_blocks_need_a_length(llada: nn.Module, monkeypatch: pytest.MonkeyPatch, by: str) -> None:
    monkeypatch.setattr(llada, "forward", lambda *args, **kwargs: pytest.fail("a forward was run"))
    knobs = {"append_blocks": True}
    if by == "configuration":
        knobs = {"generation_config": DiffusionGenerationConfig(**knobs)}
    with pytest.raises(ValueError, match=r"`append_blocks`=True needs `block_length`.* got None"):
        llada.generate(torch.tensor([[1]]), **knobs)


# The least number of tokens.


@pytest.mark.parametrize("decoding", list(RULES))
@pytest.mark.parametrize("by", ["keyword", "configuration", "model"])
def test_no_end_among_the_first_new_tokens(model: nn.Module, decoding: str, by: str) -> None:
    """Counted behind each row's prompt, wherever its padding; behind them rows end as ever."""
    rows = [[1, 2, 3], [9, 8], [20, 21, 22, 23, 24], [30]]
    knobs = KNOBS | {"decoding": decoding, "max_new_tokens": 9, "eos_token_id": list(range(0, 46, 2))}
    knobs |= {"suppress_tokens": [PAD]}  # what stands behind an end is not written as a token
    given = {"min_new_tokens": 4}
    before = model.generation_config
    try:
        if by == "configuration":
            given = {"generation_config": DiffusionGenerationConfig(min_new_tokens=4)}
        elif by == "model":
            given = {}
            model.generation_config = type(before)(**(before.to_diff_dict() | {"min_new_tokens": 4}))
        lengths, shorter = set(), 0
        for side in ("left", "right"):
            ids, mask = padded(rows, side)
            out = model.generate(ids, attention_mask=mask, **(knobs | given))
            free = model.generate(ids, attention_mask=mask, **(knobs | given | {"min_new_tokens": 0}))
            for i, row in enumerate(rows):
                start = ids.shape[1] if side == "left" else len(row)
                tokens = out.sequences[i, start : start + 9].tolist()
                assert all(token % 2 for token in tokens[:4]), "no end, and no padding behind one"
                end = next((j for j, token in enumerate(tokens) if token % 2 == 0), 8)
                lengths.add(end)
                assert set(tokens[end + 1 :]) <= {PAD}
                written = free.sequences[i, start : start + 4].tolist()
                shorter += any(token % 2 == 0 for token in written)
        assert shorter and max(lengths) >= 4, "without it some row is to end before"
        assert min(lengths) < 8, "some row is to end behind them"
    finally:
        model.generation_config = before


def test_more_least_tokens_than_tokens_forbid_the_end(llada: nn.Module) -> None:
    """As if it were suppressed; and it is the end of the model where the call writes on."""
    prompt, ends = torch.tensor([[1, 2, 3]]), list(range(0, 46, 2))
    same = {"max_new_tokens": 6}
    expected = llada.generate(prompt, eos_token_id=None, suppress_tokens=ends, **same)
    assert torch.equal(llada.generate(prompt, eos_token_id=ends, min_new_tokens=99, **same), expected)
    assert not torch.equal(llada.generate(prompt, eos_token_id=ends, **same), expected)
    liked = int(llada.generate(prompt, eos_token_id=None, decoding="left_to_right", **same)[0, 3])
    before = llada.config.eos_token_id
    try:
        llada.config.eos_token_id = liked
        out = llada.generate(prompt, eos_token_id=None, min_new_tokens=1, decoding="left_to_right", **same)
    finally:
        llada.config.eos_token_id = before
    assert out[0, 3] != liked


# The order of choices.


def recompute(out: DiffusionGenerateOutput, ids: torch.Tensor, row: int, block_length: int) -> tuple[float, float]:
    """Share and distance of a generated row, from the recorded canvases."""
    canvases = [ids, *out.history]
    prompt = int((ids[row] != MASK).sum())
    takes, forwards, distances = 0, 0, []
    for before, after in pairwise(canvases):
        left = [i for i, token in enumerate(before[row].tolist()) if token == MASK]
        chosen = [i for i in left if int(after[row, i]) != MASK]
        if not chosen:
            continue
        forwards += 1
        takes += left[0] in chosen
        block = (left[0] - prompt) // block_length
        assert {(i - prompt) // block_length for i in chosen} == {block}
        distances += [i - left[0] for i in chosen]
    return takes / forwards, sum(distances) / len(distances)


@pytest.mark.parametrize("decoding", list(RULES))
@given(data=st.data())
@settings(max_examples=4)
def test_statistics_of_choices_are_those_of_the_history(model: nn.Module, decoding: str, data: st.DataObject) -> None:
    rows, length = data.draw(st.integers(1, 3), "rows"), data.draw(st.integers(1, 4), "prompt")
    prompts = torch.randint(0, 44, (rows, length), generator=torch.Generator().manual_seed(rows + 9 * length))
    number = data.draw(st.integers(1, 9), "max_new_tokens")
    block_length = data.draw(st.integers(1, 9), "block_length")
    out = model.generate(
        prompts,
        max_new_tokens=number,
        block_length=block_length,
        decoding=decoding,
        max_denoising_steps=data.draw(st.sampled_from([None, 12]), "max_denoising_steps"),
        temperature=data.draw(st.sampled_from([0.0, 1.0]), "temperature"),
        eos_token_id=None,
        output_history=True,
        **KNOBS,
    )
    ids = torch.cat([prompts, torch.full((rows, number), MASK)], dim=1)
    for row in range(rows):
        share, distance = recompute(out, ids, row, block_length)
        assert float(out.leftmost_share[row]) == pytest.approx(share)
        assert float(out.leftmost_distance[row]) == pytest.approx(distance)


def test_from_left_to_right_every_choice_is_the_left_most(model: nn.Module) -> None:
    out = model.generate(
        torch.tensor([[1, 2]]), max_new_tokens=7, block_length=3, decoding="left_to_right", eos_token_id=None, **KNOBS
    )
    assert out.leftmost_share.tolist() == [1.0]
    assert out.leftmost_distance.tolist() == [0.0]


def test_a_hand_made_order() -> None:
    """
    Masks at 1, 2, 4, 5 and then at 2, 4: the first forward takes 1 and 5 (distances 0 and 4), the second 4 (distance
    2), the third nothing, the fourth 2 (distance 0). Two of the three that chose took the left-most.
    """
    ids = torch.tensor([[7, MASK, MASK, 7, MASK, MASK], [7] * 6])
    canvas = build_canvas(ids, ids > 0, ids == MASK, torch.arange(2), None)
    progress = Progress.of(canvas)

    def at(*columns: int) -> torch.Tensor:
        return torch.tensor([[i in columns for i in range(6)]])

    for open_ones, chosen in (((1, 2, 4, 5), (1, 5)), ((2, 4), (4,)), ((2,), ()), ((2,), (2,))):
        progress.count_choices(torch.tensor([0]), at(*open_ones), at(*chosen))
    share, distance = progress.leftmost_statistics()
    assert share.tolist() == pytest.approx([2 / 3, math.nan], nan_ok=True)
    assert distance.tolist() == pytest.approx([6 / 4, math.nan], nan_ok=True)


@pytest.mark.parametrize("decoding", ["low_confidence", "entropy", "med", "left_to_right"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_candidates_and_confidences_are_the_models(model: nn.Module, decoding: str, temperature: float) -> None:
    """Of the recorded canvases, at the open positions of the row's block; nothing elsewhere or once it is done."""
    prompts = torch.tensor([[1, 2, 3], [9, 8, 7], [20, 21, 22]])
    out = model.generate(
        prompts,
        max_new_tokens=8,
        block_length=4,
        decoding=decoding,
        temperature=temperature,
        eos_token_id=None,
        output_history=True,
        **KNOBS,
    )
    canvases = [torch.cat([prompts, torch.full((3, 8), MASK)], dim=1), *out.history]
    forwards = out.num_forward_passes.max()
    assert len(out.candidate_history) == len(out.confidence_history) == forwards
    for before, candidate, confidence in zip(canvases, out.candidate_history, out.confidence_history, strict=False):
        for row in range(3):
            ids = before[row].tolist()
            left = [i for i, token in enumerate(ids) if token == MASK]
            read = [i for i in left if (i - 3) // 4 == (left[0] - 3) // 4]
            p = beliefs(model, ids)
            for i in range(len(ids)):
                if i not in read:
                    assert candidate[row, i] == -1 and confidence[row, i].isnan()
                    continue
                token = int(candidate[row, i])
                assert token == int(p[i].argmax()) or temperature > 0
                assert float(confidence[row, i]) == pytest.approx(float(p[i, token]), abs=1e-5)
    plain = model.generate(prompts, max_new_tokens=2, **KNOBS)
    assert plain.candidate_history is None and plain.confidence_history is None
