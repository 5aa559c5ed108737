"""The loop: against a sampler in plain Python, its schedule, its count of forwards, its history."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_latent.generation.commit.rules import RULES

EOS, PAD, MASK = 45, 46, 47
BY_SCHEDULE = ("low_confidence", "random", "entropy", "margin", "left_to_right")
ALL_RULES = tuple(RULES)
KNOBS = {"confidence_threshold": 0.7, "entropy_threshold": 0.8, "entropy_bound": 0.6}


def decode_plainly(
    model: torch.nn.Module,
    ids: list[int],
    decoding: str,
    block_length: int | None,
    steps: int | None,
    cfg_scale: float = 0.0,
    dream_schedule: bool = False,
    most: int | None = None,
    pace: bool = False,
) -> tuple[list[int], list[int], int, float]:
    """
    One row, one position at a time, from the papers' algorithm boxes. Returns ids, the forward after which each
    position was written (-1: given), the number of forwards, and the smallest gap that any decision hung on.
    """
    ids, commit_step, calls, gap = list(ids), [-1] * len(ids), 0, math.inf
    given = [token != MASK for token in ids]
    first = given.index(False)
    members: dict[int, list[int]] = {}
    for i in range(len(ids)):
        if not given[i]:
            members.setdefault((i - first) // (block_length or len(ids)), []).append(i)
    for b, block in enumerate(members.values()):
        share = None if steps is None else steps // len(members) + (b < steps % len(members))
        times = None if share is None else torch.linspace(1, 1e-3, share + 1)
        step = 0
        while True:
            left = [i for i in block if ids[i] == MASK]
            if not left and (share is None or decoding not in BY_SCHEDULE or step >= share):
                break
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0]
                if cfg_scale:
                    empty = [MASK if given[i] else ids[i] for i in range(len(ids))]
                    base = model(torch.tensor([empty])).logits[0]
                    logits = base + (1 + cfg_scale) * (logits - base)
            logits[:, MASK] = -math.inf
            calls += 1
            token, score, eligible, entropy = {}, {}, {}, {}
            for i in left:
                p = logits[i].softmax(-1).tolist()
                best, second = sorted(p, reverse=True)[:2]
                token[i] = p.index(best)
                gap = min(gap, best - second)
                entropy[i] = -sum(x * math.log(x) for x in p if x > 0)
                score[i] = {
                    "low_confidence": best,
                    "confidence_threshold": best,
                    "wide_in": best,
                    "margin": best - second,
                    "left_to_right": -i,
                    "med_left_to_right": -i,
                }.get(decoding, -entropy[i])
                if decoding in ("confidence_threshold", "wide_in"):
                    eligible[i] = best >= KNOBS["confidence_threshold"]
                    gap = min(gap, abs(best - KNOBS["confidence_threshold"]))
                elif decoding.startswith("med"):
                    eligible[i] = entropy[i] < KNOBS["entropy_threshold"]
                    gap = min(gap, abs(entropy[i] - KNOBS["entropy_threshold"]))
            order = sorted(left, key=lambda i: (-score[i], i))
            if decoding in BY_SCHEDULE:
                if share is None:
                    quota = 1
                elif not dream_schedule:
                    quota = len(block) // share + (step < len(block) % share)
                elif step == share - 1:
                    quota = len(left)
                else:
                    quota = int(len(left) * (1 - times[step + 1] / times[step]))
                chosen = order[:quota]
            else:
                chosen, total, ceiling = [], 0.0, most or len(order)
                if pace and share is not None:
                    # Not ahead of an even schedule; what a step leaves may be made up for later.
                    allowed = len(block) if step >= share - 1 else len(block) // share * (step + 1)
                    ceiling = max(1, min(ceiling, allowed - (len(block) - len(left))))
                if decoding == "wide_in":
                    ceiling = min(ceiling, max(int(0.7 * len(left)), 5), 20)
                for i in order[:ceiling]:
                    if decoding == "entropy_bound":
                        gap = min(gap, abs(total - KNOBS["entropy_bound"]))
                        fits = total <= KNOBS["entropy_bound"]
                        total += entropy[i]
                    elif decoding == "entropy_sum":
                        total += entropy[i]
                        gap = min(gap, abs(total - KNOBS["entropy_bound"]))
                        fits = total < KNOBS["entropy_bound"]
                    else:
                        fits = eligible[i]
                    if chosen and not fits:
                        break
                    chosen.append(i)
                    if not fits:  # at least one token a forward, and a run from the left ends with it
                        break
                if share is not None and step == share - 1 and not pace:
                    chosen = order
            if chosen and len(chosen) < len(left):
                gap = min(gap, score[order[len(chosen) - 1]] - score[order[len(chosen)]])
            for i in chosen:
                ids[i], commit_step[i] = token[i], calls - 1
            step += 1
    return ids, commit_step, calls, gap


texts = st.lists(st.integers(0, 44), min_size=1, max_size=6)
templates = st.lists(st.one_of(st.just(MASK), st.integers(0, 44)), min_size=2, max_size=10).filter(lambda x: MASK in x)


@pytest.mark.parametrize("decoding", [rule for rule in ALL_RULES if rule not in ("random", "klass")])
@given(data=st.data())
@settings(max_examples=15)
def test_agrees_with_a_sampler_in_plain_python(model: torch.nn.Module, decoding: str, data: st.DataObject) -> None:
    """Ids, commit order and number of forwards, in place and behind a prompt; KLASS has a test of its own."""
    block_length = data.draw(st.none() | st.integers(1, 6), "block_length")
    steps = data.draw(st.none() | st.integers(10, 14) | st.integers(2, 5), "steps")
    cfg_scale = data.draw(st.sampled_from([0.0, 0.0, 1.5]), "cfg_scale")
    dream_schedule = data.draw(st.booleans(), "dream_schedule")
    most = data.draw(st.none() | st.integers(1, 4), "max_tokens_per_step")
    pace = data.draw(st.booleans(), "pace_to_schedule")
    infilling = data.draw(st.booleans(), "infilling")
    if infilling:
        ids, new = data.draw(templates), {}
    else:
        prompt, number = data.draw(texts), data.draw(st.integers(1, 8))
        ids, new = prompt + [MASK] * number, {"max_new_tokens": number}
    first = ids.index(MASK)
    blocks = {(i - first) // (block_length or 99) for i in range(len(ids)) if ids[i] == MASK}
    assume(steps is None or steps >= len(blocks))
    expected = decode_plainly(model, ids, decoding, block_length, steps, cfg_scale, dream_schedule, most, pace)
    assume(expected[3] > 1e-5)  # float32 statistics against float64
    out = (model.infill if infilling else model.generate)(
        torch.tensor([ids if infilling else prompt]),
        decoding=decoding,
        block_length=block_length,
        max_denoising_steps=steps,
        cfg_scale=cfg_scale,
        denoising_schedule="dream" if dream_schedule else "uniform",
        pace_to_schedule=pace,
        max_tokens_per_step=most,
        eos_token_id=None,
        return_dict_in_generate=True,
        **KNOBS,
        **new,
    )
    assert out.sequences[0].tolist() == expected[0]
    assert out.commit_step[0].tolist() == expected[1]
    assert out.num_forward_passes.tolist() == [expected[2]]
    committed = sum(step >= 0 for step in expected[1])
    assert out.tokens_per_forward.tolist() == pytest.approx([committed / expected[2]])


@pytest.mark.parametrize("decoding", ALL_RULES)
@pytest.mark.parametrize("eos_token_id", [None, list(range(0, 46, 3))])
def test_num_forward_passes_counts_model_calls(
    model: torch.nn.Module, forward_shapes: list, decoding: str, eos_token_id: list[int] | None
) -> None:
    """Of a row alone; in a batch, rows that are done leave the forwards, so that the sum over rows is what was run."""
    settings = {"decoding": decoding, "max_new_tokens": 9, "block_length": 4, "eos_token_id": eos_token_id, "seed": 0}
    ids = torch.tensor([[1, 2, 3], [PAD, PAD, 9], [PAD, 30, 31]])
    out = model.generate(ids[:1], return_dict_in_generate=True, **settings, **KNOBS)
    assert out.num_forward_passes.tolist() == [len(forward_shapes)]
    forward_shapes.clear()
    out = model.generate(ids, attention_mask=(ids != PAD).long(), return_dict_in_generate=True, **settings, **KNOBS)
    assert out.num_forward_passes.sum() == sum(batch for batch, _ in forward_shapes)
    assert out.num_forward_passes.max() == len(forward_shapes)


def test_guidance_counts_its_doubled_batch_once(model: torch.nn.Module, forward_shapes: list) -> None:
    out = model.generate(torch.tensor([[1, 2]]), max_new_tokens=4, cfg_scale=1.0, return_dict_in_generate=True)
    assert out.num_forward_passes.tolist() == [len(forward_shapes)]
    assert {batch for batch, _ in forward_shapes} == {2}


@pytest.mark.parametrize("decoding", BY_SCHEDULE)
@given(number=st.integers(1, 9), steps=st.integers(5, 14), block_length=st.none() | st.integers(2, 5))
@settings(max_examples=8)
def test_commits_follow_the_schedule(
    llada: torch.nn.Module, decoding: str, number: int, steps: int, block_length: int | None
) -> None:
    """Evenly, remainder first, and all steps run even where there are more of them than tokens, as LLaDA's do."""
    out = llada.generate(
        torch.tensor([[1, 2]]),
        max_new_tokens=number,
        max_denoising_steps=steps,
        block_length=block_length,
        decoding=decoding,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    length = block_length or number
    sizes = [length] * (number // length) + ([number % length] if number % length else [])
    planned = []
    for b, size in enumerate(sizes):
        share = steps // len(sizes) + (b < steps % len(sizes))
        planned += [size // share + (s < size % share) for s in range(share)]
    assert len(planned) == steps
    assert out.commit_step[0, 2:].bincount(minlength=steps).tolist() == planned
    assert out.num_forward_passes.tolist() == [steps]


# What the references get wrong.


@pytest.mark.parametrize("decoding", ALL_RULES)
def test_a_model_that_likes_the_mask_best_writes_no_mask(make_model: Callable, decoding: str) -> None:
    """LLaDA's sampler commits the mask as a token, and loops for ever or leaves a hole where that counts as open."""
    model = make_model("llada")

    def like_masks(module: torch.nn.Module, args: tuple, output: dict) -> None:
        output.logits[..., MASK] += 50.0

    model.register_forward_hook(like_masks)
    for temperature in (0.0, 1.0):
        out = model.generate(
            torch.tensor([[1, 2, 3]]),
            max_new_tokens=8,
            decoding=decoding,
            temperature=temperature,
            max_denoising_steps=4,
            return_dict_in_generate=True,
        )
        assert MASK not in out.sequences
        assert (out.commit_step[0, 3:] >= 0).all()
        assert not out.commit_entropy[0, 3:].isnan().any()


@pytest.mark.parametrize(
    ("decoding", "knob", "value"),
    [
        ("confidence_threshold", "confidence_threshold", 1.0),
        ("wide_in", "confidence_threshold", 1.0),
        ("klass", "stability_kl", 0.0),
        ("entropy_bound", "entropy_bound", 0.0),
        ("entropy_sum", "entropy_bound", 0.0),
        ("med", "entropy_threshold", 0.0),
        ("med_left_to_right", "entropy_threshold", 0.0),
    ],
)
@pytest.mark.parametrize("pace", [False, True])
def test_thresholds_that_nothing_meets_still_end(
    model: torch.nn.Module, decoding: str, knob: str, value: float, pace: bool
) -> None:
    """One token a forward; samplers that wait for a confident token never return."""
    settings = {"max_new_tokens": 6, "eos_token_id": None, "pace_to_schedule": pace, "return_dict_in_generate": True}
    out = model.generate(torch.tensor([[1, 2]]), decoding=decoding, **{knob: value}, **settings)
    assert out.num_forward_passes.tolist() == [6]
    assert sorted(out.commit_step[0, 2:].tolist()) == list(range(6))


@pytest.mark.parametrize("steps", [1, 3, 5, 7, 11])
@pytest.mark.parametrize("decoding", ["entropy", "margin", "low_confidence", "confidence_threshold"])
def test_dream_leaves_no_mask_whatever_the_steps(dream: torch.nn.Module, steps: int, decoding: str) -> None:
    """Fast-dLLM's Dream decoder leaves masks in the output where the steps do not divide the tokens."""
    out = dream.generate(torch.tensor([[1, 2]]), max_new_tokens=8, max_denoising_steps=steps, decoding=decoding)
    assert MASK not in out


def test_a_row_of_few_masks_is_not_paced_by_its_neighbour(dream: torch.nn.Module) -> None:
    """Dream's sampler averages the masks over the batch: a row of 2 waits, a row of 12 is cut short."""
    rows = [[1, MASK, 2, 3, MASK, 4, 5, 6, 7, 8, 9, 10, 11, 12], [1, *[MASK] * 12, 2]]
    settings = {"max_denoising_steps": 5, "return_dict_in_generate": True}
    out = dream.infill(torch.tensor(rows), **settings)
    for row, size in enumerate((2, 12)):
        times, left, planned = torch.linspace(1, 1e-3, 6), size, []
        for i in range(5):
            planned.append(int(left * (1 - times[i + 1] / times[i])) if i < 4 else left)
            left -= planned[-1]
        steps = out.commit_step[row]
        assert steps[steps >= 0].bincount(minlength=5).tolist() == planned


def test_history_holds_the_canvas_after_every_step(model: torch.nn.Module) -> None:
    out = model.generate(
        torch.tensor([[1, 2], [3, 4]]),
        max_new_tokens=6,
        decoding="med",
        entropy_threshold=0.8,
        eos_token_id=None,
        output_history=True,
        return_dict_in_generate=True,
    )
    assert len(out.history) == out.num_forward_passes.max()
    assert torch.equal(out.history[-1], out.sequences)
    for step, canvas in enumerate(out.history):
        expected = out.sequences.masked_fill(out.commit_step > step, MASK)
        assert canvas.tolist() == expected.tolist()
    plain = model.generate(torch.tensor([[1, 2]]), max_new_tokens=2, return_dict_in_generate=True)
    assert plain.history is None
