"""The whole decode with latent refinement against a plain sampler; nothing where it is off; what it touches."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from hf_latent.generation.beliefs.distribution import Distribution
from hf_latent.generation.beliefs.refinement import RefinementState
from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.loop import denoising

PAD, MASK = 46, 47
KNOBS = {"confidence_threshold": 0.7, "entropy_threshold": 0.8, "entropy_bound": 0.6, "eos_token_id": None}
NEVER = {"refinement_kl": 0.0, "stop_kl": 0.0}


def refine_plainly(
    model: nn.Module, ids: list[int], decoding: str, block_length: int | None, most: int | None, knobs: dict
) -> tuple[list[int], list[int], list[float], int, float]:
    """
    One row, at temperature 0. Returns ids, the forward after which each was written, the mean divergence at each
    forward (nan: none), the number of forwards that were held, and the smallest gap that any decision hung on.
    """
    ids, written, trace, held_in_all, gap = list(ids), [-1] * len(ids), [], 0, math.inf
    table = model.get_input_embeddings().weight.detach()
    first = ids.index(MASK)
    blocks: dict[int, list[int]] = {}
    for i, token in enumerate(ids):
        if token == MASK:
            blocks.setdefault((i - first) // (block_length or len(ids)), []).append(i)
    mixes = knobs["refinement_top_p"] > 0 and knobs["refinement_ratio"] > 0
    for block in blocks.values():
        before: dict[int, torch.Tensor] = {}
        rejected: set[int] = set()
        refining, held, moved = mixes and knobs["refinement_steps"] > 0, 0, False
        while left := [i for i in block if ids[i] == MASK]:
            embeddings = table[torch.tensor(ids)].clone()
            if mixes:
                for i in left:
                    if i in before and i not in rejected:
                        embeddings[i] = soft_embedding(before[i], table, knobs)
                        masses = before[i].sort(descending=True).values.cumsum(-1)[:-1]
                        gap = min(gap, float((masses - knobs["refinement_top_p"]).abs().min()))
            with torch.no_grad():
                logits = model(inputs_embeds=embeddings[None]).logits[0]
            logits[:, MASK] = -math.inf
            p = {i: logits[i].softmax(-1) for i in left}
            entropy = {i: float(-torch.special.xlogy(p[i], p[i]).sum()) for i in left}
            kl_divergence = math.nan
            if before:
                kept = [v for v in range(len(table)) if v != MASK]
                each = [float((p[i][kept] * (p[i][kept] / before[i][kept]).log()).sum()) for i in left]
                kl_divergence = sum(each) / len(each)
            trace.append(kl_divergence)
            if before and knobs.get("rejection_js") is not None:
                jumps = {i: jump(p[i], before[i]) for i in left}
                gap = min([gap, *(abs(x - knobs["rejection_js"]) for x in jumps.values())])
                rejected = {i for i in left if jumps[i] > knobs["rejection_js"]}
            for i in left:
                best, second = p[i].topk(2).values.tolist()
                gap = min(gap, best - second)
            if not math.isnan(kl_divergence):
                gap = min(gap, abs(kl_divergence - knobs["refinement_kl"]) if refining else math.inf)
                gap = min(gap, abs(kl_divergence - knobs["stop_kl"]) if moved else math.inf)
            rests = refining and kl_divergence < knobs["refinement_kl"]
            if refining and not rests and held < knobs["refinement_steps"]:
                chosen, held = [], held + 1
            else:
                refining = False
                if moved and kl_divergence < knobs["stop_kl"]:
                    chosen = left
                else:
                    score = {
                        "low_confidence": {i: float(p[i].max()) for i in left},
                        "left_to_right": {i: -i for i in left},
                    }.get(decoding, {i: -entropy[i] for i in left})
                    order = sorted(left, key=score.__getitem__, reverse=True)
                    number = 1
                    if decoding == "med":
                        sure = [i for i in left if entropy[i] < KNOBS["entropy_threshold"]]
                        gap = min([gap] + [abs(entropy[i] - KNOBS["entropy_threshold"]) for i in left])
                        number = min(max(1, len(sure)), most or len(left))
                    if number < len(left):
                        gap = min(gap, score[order[number - 1]] - score[order[number]])
                    chosen = order[:number]
            moved = bool(chosen)
            for i in chosen:
                ids[i], written[i] = int(p[i].argmax()), len(trace) - 1
            before = p
        held_in_all += held
    return ids, written, trace, held_in_all, gap


def jump(p: torch.Tensor, q: torch.Tensor) -> float:
    """Jensen-Shannon divergence."""
    mean = (p + q) / 2
    return sum(float((torch.special.xlogy(x, x) - torch.special.xlogy(x, mean)).sum()) / 2 for x in (p, q))


def soft_embedding(p: torch.Tensor, table: torch.Tensor, knobs: dict) -> torch.Tensor:
    alpha = knobs["refinement_ratio"] * (1 + float(torch.special.xlogy(p, p).sum()) / math.log(len(p)))
    kept, mass = [], 0.0
    for token in p.argsort(descending=True).tolist():
        if mass >= knobs["refinement_top_p"]:
            break
        kept.append(token)
        mass += float(p[token])
    return (1 - alpha) * table[MASK] + alpha * (p[kept] / mass) @ table[kept]


texts = st.lists(st.integers(0, 44), min_size=1, max_size=6)
templates = st.lists(st.one_of(st.just(MASK), st.integers(0, 44)), min_size=2, max_size=9).filter(lambda x: MASK in x)
refinements = st.fixed_dictionaries(
    {
        "refinement_top_p": st.sampled_from([0.0, 0.3, 0.9, 0.99]),
        "refinement_ratio": st.sampled_from([0.0, 0.15, 0.3, 0.5]),
        "refinement_steps": st.sampled_from([0, 1, 4]),
        "refinement_kl": st.sampled_from([0.0, 0.05, 0.5, 5.0]),
        "stop_kl": st.sampled_from([0.0, 0.05, 0.5, 5.0]),
        "rejection_js": st.sampled_from([None, 0.0, 0.02, 0.3]),
    }
)


def numbers(values: torch.Tensor) -> list[float | None]:
    """For comparison: nan, which equals nothing, as None."""
    return [None if math.isnan(x) else x for x in values.tolist()]


def close(values: list[float], tolerance: float = 1e-5) -> list:
    return [None if math.isnan(x) else pytest.approx(x, abs=tolerance, rel=10 * tolerance) for x in values]


@pytest.mark.parametrize("decoding", ["entropy", "low_confidence", "med", "left_to_right"])
@given(data=st.data())
@settings(max_examples=20)
def test_agrees_with_a_sampler_in_plain_python(model: nn.Module, decoding: str, data: st.DataObject) -> None:
    """Ids, commit order, the divergence at every forward, forwards held and in all."""
    ids = data.draw(st.one_of(templates, st.builds(lambda p, n: p + n * [MASK], texts, st.integers(1, 8))), "ids")
    block_length = data.draw(st.none() | st.integers(1, 5), "block_length")
    most = data.draw(st.none() | st.integers(1, 3), "max_tokens_per_step")
    knobs = data.draw(refinements, "knobs")
    expected = refine_plainly(model, ids, decoding, block_length, most, knobs)
    assume(expected[4] > 1e-4)  # float32 beliefs against float64, fed back
    knobs |= KNOBS | {"decoding": decoding, "block_length": block_length, "max_tokens_per_step": most}
    out = model.infill(torch.tensor([ids]), latent_refinement=True, return_dict_in_generate=True, **knobs)
    assert out.sequences[0].tolist() == expected[0]
    assert out.commit_step[0].tolist() == expected[1]
    assert numbers(out.belief_kl[0]) == close(expected[2])
    assert out.num_refinement_passes.tolist() == [expected[3]]
    assert out.num_forward_passes.tolist() == [len(expected[2])]


def test_the_cases_above_reach_every_phase(llada: nn.Module) -> None:
    """Else they would prove little: holds to the limit and below it, stops, ordinary commits."""
    seen = set()
    for refinement_kl, stop_kl in ((0.0, 0.0), (0.5, 0.0), (5.0, 5.0), (0.5, 0.5)):
        knobs = {
            "refinement_top_p": 0.9,
            "refinement_ratio": 0.15,
            "refinement_steps": 4,
            "refinement_kl": refinement_kl,
            "stop_kl": stop_kl,
        }
        _, written, trace, held, _ = refine_plainly(llada, [1, 2, *[MASK] * 8], "entropy", None, None, knobs)
        seen.add("to the limit" if held == 4 else "below it" if held else "never")
        seen.add("stops" if len(trace) - held < 8 else "one by one")
        assert max(written) == len(trace) - 1
    assert seen == {"to the limit", "below it", "stops", "one by one"}


@pytest.mark.parametrize("decoding", list(RULES))
@given(data=st.data())
@settings(max_examples=8)
def test_without_mixing_and_stopping_it_is_the_plain_decoder(
    model: nn.Module, decoding: str, data: st.DataObject
) -> None:
    """To the bit: r_f = 0 or top_p = 0 is the baseline of the paper. Its noise is the same."""
    number = data.draw(st.integers(1, 8), "max_new_tokens")
    same = {
        "max_new_tokens": number,
        "decoding": decoding,
        "block_length": data.draw(st.none() | st.integers(1, 5), "block_length"),
        "max_denoising_steps": data.draw(st.sampled_from([None, 9]), "max_denoising_steps"),
        "temperature": data.draw(st.sampled_from([0.0, 0.9]), "temperature"),
        "cfg_scale": data.draw(st.sampled_from([0.0, 0.0, 1.0]), "cfg_scale"),
        "top_p": data.draw(st.sampled_from([None, 0.8]), "top_p"),
        "deferred_tokens": data.draw(st.sampled_from([None, [3, 5]]), "deferred_tokens"),
        "seed": 4,
        "return_dict_in_generate": True,
        **KNOBS,
    }
    off = data.draw(st.sampled_from([{"refinement_ratio": 0.0}, {"refinement_top_p": 0.0}]), "off")
    steps = data.draw(st.sampled_from([0, 3]), "refinement_steps")
    refinement_kl = data.draw(st.sampled_from([0.0, 9.0]), "refinement_kl")
    ids = torch.tensor([data.draw(texts, "prompt")])
    plain = model.generate(ids, **same)
    out = model.generate(
        ids, latent_refinement=True, refinement_steps=steps, refinement_kl=refinement_kl, stop_kl=0.0, **off, **same
    )
    for name in ("sequences", "commit_step", "num_forward_passes", "commit_entropy", "leftmost_distance"):
        assert torch.equal(getattr(out, name).nan_to_num(-1), getattr(plain, name).nan_to_num(-1)), name
    assert out.num_refinement_passes.tolist() == [0]
    assert plain.belief_kl is None and plain.num_refinement_passes is None


@pytest.mark.parametrize("decoding", list(RULES))
@pytest.mark.parametrize("ratio", [1e-12, 1.0])
def test_any_ratio_writes_everything(model: nn.Module, decoding: str, ratio: float) -> None:
    """With a share too small for float32, and with no mask left in the embeddings; holds do not count as steps."""
    out = model.generate(
        torch.tensor([[1, 2, 3], [4, 5, 6]]),
        max_new_tokens=6,
        block_length=3,
        decoding=decoding,
        latent_refinement=True,
        refinement_ratio=ratio,
        refinement_steps=2,
        return_dict_in_generate=True,
        seed=0,
        **(KNOBS | NEVER),
    )
    assert MASK not in out.sequences
    assert (out.commit_step[:, 3:] >= 0).all()
    assert out.num_refinement_passes.tolist() == [4, 4]
    first = out.commit_step[:, 3:].unflatten(1, (2, 3)).amin(-1)
    assert (first[:, 0] == 2).all(), "two held forwards before the first commit"
    assert torch.equal(first[:, 1], out.commit_step[:, 3:6].amax(-1) + 3)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_change_phase_by_themselves(model: nn.Module, side: str) -> None:
    """The mean over a batch would hold a settled row, or let an unsettled one commit."""
    rows = [[1, 2, 3], [9, 8, 7, 6, 5], [20], [30, 31], [11, 12, 13, 14], [40, 2]]
    same = {
        "max_new_tokens": 8,
        "block_length": 4,
        "decoding": "med",
        "latent_refinement": True,
        "refinement_ratio": 0.2,
        "refinement_steps": 6,
        "refinement_kl": 0.3,
        "stop_kl": 0.3,
        "return_dict_in_generate": True,
        **KNOBS,
    }
    width = max(map(len, rows))
    fill = [[PAD] * (width - len(row)) for row in rows]
    padded = [f + r if side == "left" else r + f for f, r in zip(fill, rows, strict=True)]
    ids = torch.tensor(padded)
    batch = model.generate(ids, attention_mask=(ids != PAD).long(), **same)
    kinds = set()
    for i, row in enumerate(rows):
        alone = model.generate(torch.tensor([row]), **same)
        start = width - len(row) if side == "left" else 0
        forwards = int(alone.num_forward_passes)
        assert batch.sequences[i, start : start + len(row) + 8].tolist() == alone.sequences[0].tolist()
        assert batch.commit_step[i, start : start + len(row) + 8].tolist() == alone.commit_step[0].tolist()
        assert numbers(batch.belief_kl[i, :forwards]) == close(alone.belief_kl[0].tolist())
        assert batch.belief_kl[i, forwards:].isnan().all()
        assert batch.num_refinement_passes[i] == alone.num_refinement_passes[0]
        assert batch.num_forward_passes[i] == forwards
        kinds.add(int(alone.num_refinement_passes))
    assert len(kinds) > 1, "the rows are to take different numbers of held forwards"


@pytest.mark.parametrize("decoding", ["low_confidence", "entropy", "random"])
def test_a_stop_commits_the_most_likely_tokens_whatever_the_temperature(model: nn.Module, decoding: str) -> None:
    """The paper commits the rest by argmax; the token of the first forward is drawn."""
    prompts = torch.tensor([[1, 2, 3], [7, 8, 9], [20, 21, 22], [5, 5, 5]])
    knobs = {"refinement_top_p": 0.9, "refinement_ratio": 0.2}
    out = model.generate(
        prompts,
        max_new_tokens=8,
        decoding=decoding,
        temperature=3.0,
        seed=1,
        latent_refinement=True,
        refinement_steps=0,
        stop_kl=1e9,
        output_history=True,
        return_dict_in_generate=True,
        **KNOBS,
        **knobs,
    )
    assert out.num_forward_passes.tolist() == [2] * 4
    table = model.get_input_embeddings().weight.detach()
    for row in range(4):
        start = torch.tensor([*prompts[row].tolist(), *[MASK] * 8])
        after = out.history[0][row]
        assert int((start != after).sum()) == 1
        with torch.no_grad():
            first = model(start[None]).logits[0]
            first[:, MASK] = -math.inf
            embeddings = table[after].clone()
            for i in (after == MASK).nonzero().flatten().tolist():
                embeddings[i] = soft_embedding(first[i].softmax(-1), table, knobs)
            second = model(inputs_embeds=embeddings[None]).logits[0]
        second[:, MASK] = -math.inf
        assert out.sequences[row].tolist() == torch.where(after == MASK, second.argmax(-1), after).tolist()
    drawn = [int(out.candidate_history[1][row][c]) for row in range(4) for c in range(3, 11)]
    final = [int(out.sequences[row, c]) for row in range(4) for c in range(3, 11)]
    assert drawn != final, "the draws of the second forward are to differ from what is committed"


def test_a_stop_ends_the_block_whatever_the_schedule(llada: nn.Module) -> None:
    """Steps beyond the tokens are run idly without it."""
    same = {"max_new_tokens": 6, "block_length": 3, "latent_refinement": True, "refinement_steps": 0, "stop_kl": 1e9}
    out = llada.generate(
        torch.tensor([[1, 2]]), max_denoising_steps=20, return_dict_in_generate=True, **(KNOBS | same)
    )
    assert out.num_forward_passes.tolist() == [4]
    assert sorted(out.commit_step[0, 2:].tolist()) == [0, 1, 1, 2, 3, 3]


# What is remembered of a belief.


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes of the beliefs that the memory of the test's runs is given."""
    shapes: list[tuple[int, ...]] = []

    class Watched(RefinementState):
        def update(self, at: tuple, now: Distribution, *args: object) -> torch.Tensor:
            shapes.append(tuple(now.score.shape))
            return super().update(at, now, *args)

    monkeypatch.setattr(denoising, "RefinementState", Watched)
    return shapes


class Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(
        self, func: Callable, types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_only_open_positions_of_current_blocks_meet_the_vocabulary(
    make_model: Callable, remembered: list[tuple[int, ...]], family: str
) -> None:
    """Two rows of 44 over 1,000 tokens would be 88,000 logits a forward, and as many mixtures."""
    model = make_model(family, vocab_size=1000)
    prompts = torch.arange(80).view(2, 40) % 44
    with Largest() as largest:
        out = model.generate(
            prompts,
            max_new_tokens=4,
            block_length=2,
            decoding="left_to_right",
            latent_refinement=True,
            refinement_steps=1,
            return_dict_in_generate=True,
            **(KNOBS | NEVER),
        )
    # Each block: a held forward and a commit with two open positions a row, then one with one.
    assert remembered == [(4, 1000), (4, 1000), (2, 1000)] * 2
    assert out.num_forward_passes.tolist() == [6, 6]
    assert largest.elements < 1000 * 44


@pytest.mark.parametrize("decoding", ["low_confidence", "random"])
def test_forwards_that_only_refine_spend_no_noise(llada: torch.nn.Module, decoding: str) -> None:
    """With a mixture too small to see, a sampled run is the plain one, two forwards of each block later."""
    knobs = {"max_new_tokens": 8, "block_length": 4, "decoding": decoding, "temperature": 0.9, "seed": 5}
    knobs |= {"eos_token_id": None, "return_dict_in_generate": True}
    plain = llada.generate(torch.tensor([[1, 2, 3]]), **knobs)
    held = {"latent_refinement": True, "refinement_ratio": 1e-9, "refinement_steps": 2, "refinement_kl": 0.0}
    refined = llada.generate(torch.tensor([[1, 2, 3]]), **held, stop_kl=0.0, **knobs)
    assert torch.equal(refined.sequences, plain.sequences)
    late = refined.commit_step[0, 3:] - plain.commit_step[0, 3:]
    assert late.tolist() == [2] * 4 + [4] * 4
    assert refined.num_refinement_passes.tolist() == [4]
