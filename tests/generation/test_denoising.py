"""The loop: against a sampler in plain Python, alone and in batches, with and without an end, where others fail."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_latent import DiffusionGenerateOutput
from hf_latent.generation.belief import Belief
from hf_latent.generation.canvas import Canvas, build_canvas
from hf_latent.generation.denoising import denoise
from hf_latent.generation.predictor import Reading
from hf_latent.generation.progress import Progress
from hf_latent.generation.rows import Rows
from hf_latent.generation.rules import RULES
from hf_latent.generation.settings import DenoisingSettings

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
                    "margin": best - second,
                    "left_to_right": -i,
                    "med_left_to_right": -i,
                }.get(decoding, -entropy[i])
                if decoding == "confidence_threshold":
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
                for i in order[:ceiling]:
                    if decoding == "entropy_bound":
                        gap = min(gap, abs(total - KNOBS["entropy_bound"]))
                        fits = total <= KNOBS["entropy_bound"]
                        total += entropy[i]
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


@pytest.mark.parametrize("decoding", [rule for rule in ALL_RULES if rule != "random"])
@given(data=st.data())
@settings(max_examples=15)
def test_agrees_with_a_sampler_in_plain_python(model: torch.nn.Module, decoding: str, data: st.DataObject) -> None:
    """Ids, commit order and number of forwards, in place and behind a prompt."""
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


def pad(rows: list[list[int]], side: str, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows)) + extra
    ids = [[PAD] * (width - len(row)) + row if side == "left" else row + [PAD] * (width - len(row)) for row in rows]
    mask = [
        [0] * (width - len(r)) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * (width - len(r))
        for r in rows
    ]
    return torch.tensor(ids), torch.tensor(mask)


def knobs(data: st.DataObject, decoding: str) -> dict[str, object]:
    """Anything that may go with a rule."""
    drawn = {
        "decoding": decoding,
        "block_length": data.draw(st.none() | st.integers(1, 6), "block_length"),
        "max_denoising_steps": data.draw(st.sampled_from([None, 10, 13]), "max_denoising_steps"),
        "denoising_schedule": data.draw(st.sampled_from(["uniform", "dream"]), "denoising_schedule"),
        "pace_to_schedule": data.draw(st.booleans(), "pace_to_schedule"),
        "max_tokens_per_step": data.draw(st.sampled_from([None, 2]), "max_tokens_per_step"),
        "temperature": data.draw(st.sampled_from([0.0, 0.9]), "temperature"),
        "cfg_scale": data.draw(st.sampled_from([0.0, 0.0, 1.0]), "cfg_scale"),
        "top_p": data.draw(st.sampled_from([None, 0.8]), "top_p"),
        "top_k": data.draw(st.sampled_from([None, 1, 5]), "top_k"),
        "repetition_penalty": data.draw(st.sampled_from([None, 1.5]), "repetition_penalty"),
        "deferred_tokens": data.draw(st.sampled_from([None, [EOS, 3]]), "deferred_tokens"),
        "eos_token_id": data.draw(st.sampled_from([None, list(range(0, 46, 6))]), "eos_token_id"),
        "block_cache": data.draw(st.sampled_from([None, "prefix", "dual"]), "block_cache"),
        "cache_refresh_interval": data.draw(st.sampled_from([None, 2]), "cache_refresh_interval"),
        "latent_refinement": data.draw(st.booleans(), "latent_refinement"),
        "refinement_ratio": data.draw(st.sampled_from([0.0, 0.2]), "refinement_ratio"),
        "refinement_steps": data.draw(st.sampled_from([0, 3]), "refinement_steps"),
        "refinement_kl": data.draw(st.sampled_from([0.0, 0.1, 1.0]), "refinement_kl"),
        "stop_kl": data.draw(st.sampled_from([0.0, 0.3]), "stop_kl"),
    }
    return drawn | KNOBS | {"seed": 11, "return_dict_in_generate": True}


def own(out: DiffusionGenerateOutput, row: int, start: int, length: int) -> dict[str, list]:
    """What is the row's own in an output, without padding; entropies to 4 digits, nan as None."""
    columns = slice(start, start + length)
    entropy = out.commit_entropy[row, columns].tolist()
    missing = length - len(entropy)  # columns that no row came to, with `append_blocks`
    return {
        "ids": out.sequences[row, columns].tolist() + missing * [PAD],
        "commit_step": out.commit_step[row, columns].tolist() + missing * [-1],
        "entropy": [None if math.isnan(x) else pytest.approx(x, abs=1e-4) for x in entropy] + missing * [None],
        "forwards": int(out.num_forward_passes[row]),
        **trace(out, row),
    }


def trace(out: DiffusionGenerateOutput, row: int) -> dict[str, list]:
    """What a row wrote down of itself, without what belongs to longer rows."""
    forwards = int(out.num_forward_passes[row])
    found = {
        name: [None if math.isnan(x) else pytest.approx(x, abs=1e-4) for x in values[row, :forwards].tolist()]
        for name, values in (("belief_kl", out.belief_kl), ("answer_entropy", out.answer_entropy))
        if values is not None
    }
    names = ("leftmost_share", "leftmost_distance", "num_refinement_passes", "exit_step")
    return found | {
        name: pytest.approx(float(getattr(out, name)[row]), nan_ok=True)
        for name in names
        if getattr(out, name) is not None
    }


@pytest.mark.parametrize("decoding", ALL_RULES)
@given(data=st.data())
@settings(max_examples=7)
def test_a_row_generates_the_same_in_any_batch(model: torch.nn.Module, decoding: str, data: st.DataObject) -> None:
    """
    Padded left, padded right, alone: ids, commit order, entropies and forwards, given tokens kept, no mask left.

    The published samplers decode another answer in another batch: padding is attended to or shifts positions, one
    row's count of masks rules another's, penalties count padding, noise is drawn for the batch as a whole.
    """
    rows = data.draw(st.lists(texts, min_size=2, max_size=3), "rows")
    settings = knobs(data, decoding) | {
        "max_new_tokens": data.draw(st.integers(1, 8), "max_new_tokens"),
        "min_new_tokens": data.draw(st.sampled_from([None, 3]), "min_new_tokens"),
    }
    if settings["block_length"] is not None:
        settings["append_blocks"] = data.draw(st.booleans(), "append_blocks")
    number = settings["max_new_tokens"]
    expected = []
    for i, row in enumerate(rows):
        alone = model.generate(torch.tensor([row]), row_indices=[i], **settings)
        assert alone.sequences[0, : len(row)].tolist() == row
        assert MASK not in alone.sequences
        assert alone.commit_step[0, : len(row)].tolist() == [-1] * len(row)
        expected.append(own(alone, 0, 0, len(row) + number))
    for side in ("left", "right"):
        ids, mask = pad(rows, side, extra=data.draw(st.integers(0, 2), "extra padding"))
        batch = model.generate(ids, attention_mask=mask, **settings)
        for i, row in enumerate(rows):
            start = ids.shape[1] - len(row) if side == "left" else 0
            assert own(batch, i, start, len(row) + number) == expected[i], (side, i)
        assert MASK not in batch.sequences


@pytest.mark.parametrize("decoding", ALL_RULES)
@given(data=st.data())
@settings(max_examples=7)
def test_a_row_is_infilled_the_same_in_any_batch(model: torch.nn.Module, decoding: str, data: st.DataObject) -> None:
    """Masks at random places, another number in every row, none in some."""
    rows = data.draw(st.lists(st.one_of(templates, texts), min_size=2, max_size=3), "rows")
    assume(any(MASK in row for row in rows))
    settings = knobs(data, decoding)
    expected = []
    for i, row in enumerate(rows):
        if MASK not in row:
            nothing = {"commit_step": [-1] * len(row), "entropy": [None] * len(row), "forwards": 0}
            nan = pytest.approx(math.nan, nan_ok=True)
            nothing |= {"leftmost_share": nan, "leftmost_distance": nan}
            if settings["latent_refinement"]:
                nothing |= {"belief_kl": [], "num_refinement_passes": 0}
            expected.append({"ids": row} | nothing)
            continue
        alone = model.infill(torch.tensor([row]), row_indices=[i], **settings)
        for token, written, step in zip(row, alone.sequences[0].tolist(), alone.commit_step[0].tolist(), strict=True):
            assert (written != MASK and step >= 0) if token == MASK else (written == token and step == -1)
        expected.append(own(alone, 0, 0, len(row)))
    for side in ("left", "right"):
        ids, mask = pad(rows, side)
        batch = model.infill(ids, attention_mask=mask, **settings)
        for i, row in enumerate(rows):
            start = ids.shape[1] - len(row) if side == "left" else 0
            assert own(batch, i, start, len(row)) == expected[i], (side, i)


@pytest.mark.parametrize("decoding", ALL_RULES)
@pytest.mark.parametrize("eos_token_id", [None, list(range(0, 46, 3))])
def test_num_forward_passes_counts_model_calls(
    model: torch.nn.Module, forward_shapes: list, decoding: str, eos_token_id: list[int] | None
) -> None:
    """Of a row alone; in a batch, rows that are done leave the forwards, so that the sum over rows is what was run."""
    settings = {"decoding": decoding, "max_new_tokens": 9, "block_length": 4, "eos_token_id": eos_token_id, "seed": 0}
    rows = [[1, 2, 3], [9], [30, 31]]
    out = model.generate(torch.tensor([rows[0]]), return_dict_in_generate=True, **settings, **KNOBS)
    assert out.num_forward_passes.tolist() == [len(forward_shapes)]
    forward_shapes.clear()
    ids, mask = pad(rows, "left")
    out = model.generate(ids, attention_mask=mask, return_dict_in_generate=True, **settings, **KNOBS)
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
        ("entropy_bound", "entropy_bound", 0.0),
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


# Ends.


def run_script(
    tokens: list[int],
    order: list[int],
    prompt: int = 1,
    on_step: Callable | None = None,
    eos: int | None = EOS,
    block_length: int | None = None,
) -> tuple[list[int], list[int], int]:
    """Denoise one row whose masks get `tokens`, the most confident first as `order` has it, one token a forward."""
    ids = torch.tensor([[7] * prompt + [MASK] * len(tokens)])
    rank = torch.tensor([0] * prompt + [order.index(i) for i in range(len(tokens))])
    column_token = torch.tensor([7] * prompt + tokens)

    class Script:
        temperature, reads_canvas, ends_later, mask_token_id = 0.0, False, False, MASK

        def __call__(self, columns: torch.Tensor, canvas_ids: None, noise: None, offset: None) -> Belief:
            return Belief(column_token[columns], 1.0 / (1 + rank[columns]), None)

    class Columns:
        """Predicts each position's column."""

        def narrow(self, canvas: Canvas, rows: Rows, selected: torch.Tensor) -> torch.Tensor:
            return selected

        def plan(self, canvas: Canvas, block: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
            return block.new_zeros((0, 1))

        def __call__(self, canvas: Canvas, block: torch.Tensor, reading: Reading) -> torch.Tensor:
            return reading.at[1]

    canvas = build_canvas(ids, torch.ones_like(ids).bool(), ids == MASK, torch.tensor([0]), block_length)
    progress = denoise(
        canvas,
        Columns(),
        Script(),
        DenoisingSettings(
            rule=RULES["low_confidence"],
            threshold=None,
            max_denoising_steps=None,
            dream_schedule=False,
            schedule_epsilon=1e-3,
            pace_to_schedule=False,
            max_tokens_per_step=None,
            seed=0,
            eos_token_ids=None if eos is None else torch.tensor([eos]),
            fill_token_id=PAD,
        ),
        on_step,
    )
    return progress.ids[0].tolist(), progress.commit_step[0].tolist(), int(progress.num_forward_passes)


def test_a_row_ends_at_an_eos_with_nothing_open_before_it() -> None:
    """It stops paying, is filled with padding, and what was written behind is taken back."""
    ids, steps, forwards = run_script([1, 2, EOS, 3, 4, 5], order=[4, 0, 1, 2, 3, 5])
    assert ids == [7, 1, 2, EOS, PAD, PAD, PAD]
    assert steps == [-1, 1, 2, 3, -1, -1, -1]
    assert forwards == 4


def test_an_eos_behind_open_positions_does_not_end_the_row() -> None:
    ids, steps, forwards = run_script([1, 2, EOS, 3], order=[2, 3, 1, 0])
    assert ids == [7, 1, 2, EOS, PAD]
    assert steps == [-1, 3, 2, 0, -1]
    assert forwards == 4


def test_the_first_of_several_eos_is_the_end() -> None:
    ids, _, forwards = run_script([EOS, 2, EOS, 3], order=[2, 0, 1, 3])
    assert ids == [7, EOS, PAD, PAD, PAD]
    assert forwards == 2


def test_an_eos_in_an_early_block_spares_the_later_ones() -> None:
    ids, _, forwards = run_script([1, EOS, 3, 4, 5, 6], order=list(range(6)), block_length=2)
    assert ids == [7, 1, EOS, PAD, PAD, PAD, PAD]
    assert forwards == 2


def test_an_eos_in_the_prompt_does_not_end_the_row() -> None:
    ids = torch.tensor([[EOS, 3, EOS]])
    canvas = build_canvas(ids, torch.ones_like(ids).bool(), ids == 3, torch.tensor([0]), None)
    assert canvas.writable.tolist() == [[False, True, False]]
    assert run_script([1, 2, 3], order=[0, 1, 2], eos=7)[0] == [7, 1, 2, 3]


def test_without_eos_the_row_is_written_to_the_end() -> None:
    ids, _, forwards = run_script([EOS, 2, EOS, 3], order=[0, 1, 2, 3], eos=None)
    assert ids == [7, EOS, 2, EOS, 3]
    assert forwards == 4


@pytest.mark.parametrize("steps", [None, 9, 24])
def test_generate_ends_with_eos_and_pays_nothing_more(make_model: Callable, steps: int | None) -> None:
    """A quarter of the vocabulary ends the text, so that rows end at different places."""
    model = make_model("llada")
    ends = list(range(0, 46, 4))
    settings = {"max_new_tokens": 9, "max_denoising_steps": steps, "decoding": "left_to_right"}
    settings["return_dict_in_generate"] = True
    rows = torch.arange(8)[:, None] + torch.tensor([[1, 9, 17]])
    written = model.generate(rows, eos_token_id=None, **settings)
    out = model.generate(rows, eos_token_id=ends, **settings)
    lengths = set()
    for row in range(len(rows)):
        answer = written.sequences[row, 3:].tolist()
        length = next((i for i, token in enumerate(answer) if token in ends), 8) + 1
        lengths.add(length)
        assert out.sequences[row, 3:].tolist() == answer[:length] + [PAD] * (9 - length)
        assert (out.commit_step[row, 3 + length :] == -1).all()
        assert out.commit_entropy[row, 3 + length :].isnan().all()
        if length < 9:
            assert out.num_forward_passes[row] == written.commit_step[row, 2 + length] + 1
        assert out.tokens_per_forward[row] * out.num_forward_passes[row] == pytest.approx(length)
    assert len(lengths) > 2, "the model is to end at several places"


def test_infill_does_not_end_early(llada: torch.nn.Module) -> None:
    """Text follows the masks: what ends a text within it is a token like others."""
    ids = torch.tensor([[1, MASK, MASK, 5, MASK, 6]])
    everything = llada.infill(ids, eos_token_id=list(range(46)))
    assert everything.tolist() == llada.infill(ids, eos_token_id=None).tolist()
    assert PAD not in everything


# Steps as a caller sees them.


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


def test_progress_says_where_the_current_block_ends() -> None:
    """What is streamed hangs on it."""
    ends, masked = [], []

    def look(progress: Progress) -> None:
        ends.append(int(progress.current_block_end))
        masked.append(int(progress.masked.sum()))

    run_script([1, 2, 3, 4, 5], order=list(range(5)), prompt=2, on_step=look, block_length=2)
    assert ends == [4, 4, 6, 6, 7]
    assert masked == [4, 3, 2, 1, 0]


# Noise.


def test_same_seed_same_tokens_and_other_rows_other_tokens(model: torch.nn.Module) -> None:
    prompts = torch.tensor([[1, 2, 3]] * 4)
    settings = {"max_new_tokens": 8, "temperature": 1.5, "eos_token_id": None}
    first = model.generate(prompts, seed=3, **settings)
    assert torch.equal(model.generate(prompts, seed=3, **settings), first)
    assert not torch.equal(model.generate(prompts, seed=4, **settings), first)
    assert len(set(map(tuple, first.tolist()))) == 4, "odds of equal rows: some 1e-8"
    assert torch.equal(model.generate(prompts[:1], seed=3, row_indices=[2], **settings), first[2:3])


def test_random_order_is_random_at_temperature_0(llada: torch.nn.Module) -> None:
    prompts = torch.tensor([[1, 2, 3]] * 4)
    out = llada.generate(prompts, max_new_tokens=8, decoding="random", seed=0, return_dict_in_generate=True)
    assert len(set(map(tuple, out.commit_step.tolist()))) == 4, "odds of equal orders: 6 in 8!"


def test_random_order_reaches_every_order(llada: torch.nn.Module) -> None:
    """Chi-square over the 6 orders of 3 tokens, 600 rows, p > 1e-6; the seed is fixed."""
    out = llada.generate(
        torch.full((600, 1), 1),
        max_new_tokens=3,
        decoding="random",
        seed=0,
        eos_token_id=None,
        return_dict_in_generate=True,
    )
    orders = (out.commit_step[:, 1:] * torch.tensor([9, 3, 1])).sum(-1)
    counts = orders.bincount()[orders.unique()].float()
    assert len(counts) == 6
    assert torch.special.gammaincc(torch.tensor(2.5), ((counts - 100) ** 2 / 100).sum() / 2) > 1e-6


def test_without_a_seed_noise_follows_torch_manual_seed(llada: torch.nn.Module) -> None:
    prompt = torch.tensor([[1, 2, 3]])
    outs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        outs.append(llada.generate(prompt, max_new_tokens=10, temperature=2.0, eos_token_id=None).tolist())
        outs.append(llada.generate(prompt, max_new_tokens=10, temperature=2.0, eos_token_id=None).tolist())
    assert outs[0] == outs[2] and outs[1] == outs[3]
    assert len({str(out) for out in outs}) == 4, "two calls in a row differ, as do seeds"


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 1}, {"decoding": "random", "seed": 1}])
def test_runs_without_drawn_noise_leave_the_global_generator_alone(llada: torch.nn.Module, settings: dict) -> None:
    before = torch.get_rng_state()
    llada.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, **settings)
    assert torch.equal(torch.get_rng_state(), before)


def test_generated_tokens_follow_the_models_distribution(llada: torch.nn.Module) -> None:
    """One mask, 4,000 rows: chi-square of the tokens against the softmax, p > 1e-6; the seed is fixed."""
    row = torch.tensor([[1, 2, MASK, 4]])
    out = llada.infill(row.repeat(4000, 1), temperature=1.3, seed=2)
    logits = llada(row).logits[0, 2].detach()
    logits[MASK] = -math.inf
    expected = (logits / 1.3).softmax(-1) * 4000
    counts = out[:, 2].bincount(minlength=48).double()
    common = expected > 5  # the rule of thumb for the test; the rest is pooled
    counts = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([expected[common], expected[~common].sum()[None]])
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert torch.special.gammaincc(torch.tensor((len(counts) - 1) / 2).double(), statistic / 2) > 1e-6
