"""WINO (arXiv 2507.18578): written tokens become masks again. Against plain Python, and what it promises."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING
from transformers.generation.streamers import BaseStreamer

from hf_latent import LatentTokenConfig, LatentTokenForMaskedDiffusion
from hf_latent.generation.model_calls.predictor import ForwardRequest, Predictor, PredictorSettings
from hf_latent.generation.state.canvas import build_canvas

EOS, PAD, MASK = 45, 46, 47
PLAIN: dict[str, Any] = {"return_dict_in_generate": True, "eos_token_id": None}


def read_with_shadows(model: Any, ids: list[int], block: range) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities of the canvas and of the shadows of its block, the mask never; who sees whom spelled out."""
    length, total = len(ids), len(ids) + len(block)
    mask = torch.full((1, 1, total, total), -math.inf, dtype=torch.float64)
    for query in range(total):
        for key in range(total):
            own = query >= length and key == block[query - length]
            if (query >= length or key < length) and not own:
                mask[0, 0, query, key] = 0.0
    with torch.no_grad():
        states = model.model(
            input_ids=torch.tensor([ids + [MASK] * len(block)]),
            attention_mask=mask,
            position_ids=torch.tensor([[*range(length), *block]]),
            use_cache=False,
        ).last_hidden_state
        logits = model.project(states)[0]
    logits[:, MASK] = -math.inf
    p = logits.softmax(-1)
    return p[:length], p[length:]


def decode_plainly(
    model: Any, prompt: list[int], num_blocks: int, length: int, decoding: str, threshold: float, bar: float
) -> tuple[list[int], int, list[tuple[int, int]], float]:
    """Ids, forwards, what was taken back at which of them, the smallest gap of a decision."""
    ids, calls, taken, gap = prompt + [MASK] * (num_blocks * length), 0, [], math.inf
    for b in range(num_blocks):
        block, last = range(len(prompt) + b * length, len(prompt) + (b + 1) * length), 0
        while any(ids[i] == MASK for i in block):
            real, shadow = read_with_shadows(model, ids, block)
            left = [i for i in block if ids[i] == MASK]
            best = {i: real[i].topk(2).values.tolist() for i in left}
            order = sorted(left, key=lambda i: -best[i][0])
            gap = min([gap, *(x - y for x, y in best.values()), *(abs(x - threshold) for x, _ in best.values())])
            gap = min([gap, *(best[i][0] - best[j][0] for i, j in pairwise(order))])
            most = min(max(int(0.7 * len(left)), 5), 20) if decoding == "wide_in" else len(left)
            chosen = [i for i in order if best[i][0] > threshold][:most] or order[:1]
            doubt = {i: float(shadow[i - block[0], ids[i]]) for i in block if ids[i] != MASK}
            rising = sorted(doubt, key=lambda i: doubt[i])
            if last > 1:
                gap = min([gap, *(abs(v - bar) for v in doubt.values())])
                gap = min([gap, *(doubt[j] - doubt[i] for i, j in pairwise(rising))])
            back = [i for i in rising if doubt[i] < bar][: max(last - 1, 0) if len(chosen) > 1 else 0]
            for i in chosen:
                ids[i] = int(real[i].argmax())
            for i in back:
                ids[i] = MASK
                taken.append((calls, i))
            last, calls = len(chosen), calls + 1
    return ids, calls, sorted(taken), gap


@given(
    prompt=st.lists(st.integers(0, 44), min_size=1, max_size=5),
    shape=st.sampled_from([(1, 9), (2, 5)]),
    decoding=st.sampled_from(["confidence_threshold", "wide_in"]),
    threshold=st.sampled_from([0.1, 0.3]),
    bar=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
)
@settings(max_examples=30)
def test_agrees_with_a_sampler_in_plain_python(
    llada: Any,
    prompt: list[int],
    shape: tuple[int, int],
    decoding: str,
    threshold: float,
    bar: float,
) -> None:
    """Ids, forwards, and each token that was taken back, when."""
    ids, calls, taken, gap = decode_plainly(llada, prompt, *shape, decoding, threshold, bar)
    assume(gap > 1e-5)  # float32 statistics against float64
    out = llada.generate(
        torch.tensor([prompt]),
        max_new_tokens=math.prod(shape),
        block_length=shape[1],
        decoding=decoding,
        confidence_threshold=threshold,
        verification_threshold=bar,
        output_history=True,
        **PLAIN,
    )
    assert out.sequences[0].tolist() == ids
    assert out.num_forward_passes.tolist() == [calls]
    canvases = [canvas[0].tolist() for canvas in out.history]
    back = [
        (call, i)
        for call, (old, new) in enumerate(pairwise(canvases), 1)
        for i in range(len(new))
        if old[i] != MASK and new[i] == MASK
    ]
    assert back == taken
    assert out.num_remasked.tolist() == [len(taken)]
    written = [
        max(call for call in range(calls) if call == 0 or canvases[call - 1][i] == MASK) for i in range(len(ids))
    ]
    assert out.commit_step[0, len(prompt) :].tolist() == written[len(prompt) :]
    assert not out.commit_entropy[0, len(prompt) :].isnan().any()


def test_the_cases_above_take_tokens_back(llada: Any) -> None:
    """Else the property would prove little: at several forwards, and not the same tokens for every bar."""
    taken = [decode_plainly(llada, [1, 2, 3], 1, 9, "wide_in", 0.1, bar)[2] for bar in (0.0, 0.2, 1.0)]
    assert taken[0] == [] and len(taken[1]) > 0 and len({call for call, _ in taken[2]}) > 1
    assert taken[1] != taken[2]


@pytest.mark.parametrize("decoding", ["low_confidence", "med", "klass", "wide_in"])
def test_a_threshold_of_zero_takes_nothing_back(llada: Any, decoding: str) -> None:
    knobs = PLAIN | {"decoding": decoding, "max_new_tokens": 10, "block_length": 5, "confidence_threshold": 0.2}
    knobs |= {"max_denoising_steps": 6, "entropy_threshold": 2.0, "stability_kl": 9.0, "stability_steps": 1}
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    plain = llada.generate(ids, **knobs)
    out = llada.generate(ids, verification_threshold=0.0, **knobs)
    for name in ("sequences", "commit_step", "num_forward_passes"):
        assert torch.equal(getattr(out, name), getattr(plain, name))
    assert plain.num_remasked is None and out.num_remasked.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("decoding", "extra"),
    [
        ("low_confidence", {"max_denoising_steps": 6}),
        ("low_confidence", {"max_denoising_steps": 19}),
        ("confidence_threshold", {}),
        ("wide_in", {"temperature": 1.0, "top_k": 9, "seed": 1}),
        ("wide_in", {"max_denoising_steps": 5}),
        ("wide_in", {"steps_per_block": 5, "append_blocks": True}),
        ("klass", {"latent_refinement": True, "refinement_steps": 2, "stability_kl": 9.0, "stability_steps": 1}),
        ("med", {"cfg_scale": 1.0, "entropy_threshold": 1.5, "repetition_penalty": 1.3}),
        ("random", {"max_denoising_steps": 6, "seed": 1, "deferred_tokens": [3, 5, 7]}),
    ],
)
def test_a_row_ends_and_is_what_it_is_alone(
    llada: Any, check_rows_alone: Callable, decoding: str, extra: dict[str, Any]
) -> None:
    """
    A threshold of 1 doubts everything: a block has no more forwards than masks, beside those that only refine and
    those of a schedule, which stays the limit that it is. Given tokens are given.
    """
    knobs = PLAIN | {"decoding": decoding, "confidence_threshold": 0.3, "verification_threshold": 1.0} | extra
    rows, number, length = [[1, 2, 3], [4], [5, 6, 7, 8]], 12, 6
    out = llada.generate(torch.tensor([rows[0]]), max_new_tokens=number, block_length=length, **knobs)
    most = extra.get("max_denoising_steps", number + 2 * extra.get("refinement_steps", 0))
    assert out.num_forward_passes.item() <= most
    assert (out.num_remasked.item() > 0) == (most <= number or "refinement_steps" in extra)
    assert out.sequences[0, :3].tolist() == rows[0] and MASK not in out.sequences
    check_rows_alone(llada, rows, PAD, max_new_tokens=number, block_length=length, **knobs)
    given_ids = torch.tensor([[1, MASK, 2, MASK, MASK, 3, MASK, MASK, MASK]])
    knobs.pop("append_blocks", None)
    infilled = llada.infill(given_ids, block_length=length, **knobs).sequences
    assert (infilled == given_ids)[given_ids != MASK].all() and MASK not in infilled


def test_an_answer_exits_early_whatever_is_doubted(llada: Any) -> None:
    ids = torch.tensor([[1, MASK, MASK, MASK, MASK, 2, MASK, MASK]])
    answer = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1]])
    knobs = PLAIN | {"decoding": "wide_in", "confidence_threshold": 0.05, "verification_threshold": 1.0}
    out = llada.infill(ids, answer_mask=answer, early_exit_threshold=math.inf, **knobs)
    assert out.num_forward_passes.tolist() == [1] and MASK not in out.sequences
    out = llada.infill(ids, answer_mask=answer, **knobs)
    assert out.num_forward_passes.item() <= 6 and MASK not in out.sequences


@pytest.mark.parametrize("eos", [None, EOS, *range(3)])
def test_what_is_streamed_as_final_is_what_is_returned(llada: Any, eos: int | None) -> None:
    """A written token is a draft, and ends no row, as long as its block has masks."""

    class Recorder(BaseStreamer):
        def __init__(self) -> None:
            self.final: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.final += value.flatten().tolist()

        def end(self) -> None:
            pass

    knobs = {"max_new_tokens": 12, "block_length": 6, "decoding": "wide_in", "confidence_threshold": 0.1}
    knobs |= {"verification_threshold": 0.9, "eos_token_id": None}
    prompt, recorder = torch.tensor([[1, 2, 3, 4]]), Recorder()
    free = llada.generate(prompt, **knobs)
    if eos is not None and eos != EOS:
        knobs["eos_token_id"] = int(free[0, 5 + 3 * eos])
    out = llada.generate(prompt, streamer=recorder, **knobs)
    assert recorder.final == out[0].tolist()
    end = out[0, 4:].tolist().index(knobs["eos_token_id"]) + 5 if eos not in (None, EOS) else 16
    assert out[0, :end].tolist() == free[0, :end].tolist()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("family", "kinds"),
    [("llama", None), ("mistral", None), ("gemma3_text", ["sliding_attention", "full_attention"] * 2)],
)
def test_the_only_mask_of_a_block_is_its_own_shadow(family: str, kinds: list[str] | None, attention: str) -> None:
    """
    It stands in the same place and sees the same text: the same logits, in every layer's window, beside padding, and
    those are what they are without a shadow.
    """
    torch.manual_seed(0)
    fields: dict[str, Any] = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 4}
    fields |= {
        "num_key_value_heads": 2,
        "sliding_window": 3,
        "head_dim": 8,
        "num_hidden_layers": 4,
        "eos_token_id": None,
    }
    fields |= {"pad_token_id": PAD, "bos_token_id": None} | ({} if kinds is None else {"layer_types": kinds})
    config = LatentTokenConfig(text_config=CONFIG_MAPPING[family](**fields), mask_token_id=MASK, shift_logits=False)
    config._attn_implementation = attention
    model = LatentTokenForMaskedDiffusion(config).eval().double()
    ids = torch.tensor([[PAD, PAD, 1, 2, 3, 4, MASK, 5, 6, 7], [9, 8, 7, MASK, 6, 5, 4, 3, 2, 1]])
    canvas = build_canvas(ids, ids != PAD, ids == MASK, torch.arange(2), None)
    indices = (ids == MASK).nonzero(as_tuple=True)
    predictor = Predictor(model, PredictorSettings(mask_token_id=MASK, verifies=True))
    with torch.no_grad():
        plain = predictor(canvas, ForwardRequest(indices, ids == MASK, [0, 0], [1, 1]))
        both = predictor(canvas, ForwardRequest(indices, ids == MASK, [0, 0], [1, 1], verified=indices))
    assert plain.std() > 1e-3
    torch.testing.assert_close(both, torch.cat([plain, plain]), atol=1e-6, rtol=0)


def test_nothing_is_read_beside_the_canvas_where_nothing_can_be_taken_back(llada: Any) -> None:
    """A forward behind one that has committed one token, or none, is the plain one; others read the block twice."""
    widths: list[int] = []
    hook = llada.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    knobs = {"max_new_tokens": 8, "block_length": 4, "eos_token_id": None, "verification_threshold": 0.9}
    llada.generate(torch.tensor([[1, 2]]), **knobs)
    assert widths == [10] * 8
    widths.clear()
    llada.generate(torch.tensor([[1, 2]]), max_denoising_steps=4, **knobs | {"verification_threshold": 0.0})
    hook.remove()
    assert widths == [10, 14] * 2


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"verification_threshold": 1.5}, r"`verification_threshold` must be a number in \[0.0, 1.0\], got 1.5"),
        ({"editing_threshold": 0.5}, "`verification_threshold`=0.9 does not go with `editing_threshold`=0.5"),
        ({"block_cache": "dual"}, "`verification_threshold`=0.9 does not go with `block_cache`='dual'"),
    ],
)
def test_what_it_does_not_go_with_is_refused(llada: Any, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        llada.generate(torch.tensor([[1]]), max_new_tokens=2, **{"verification_threshold": 0.9} | knobs)


def test_models_that_give_no_shadows_are_refused(
    dream: Any, llada: Any, make_latent_token: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dream's states see the token that they predict; semi-causal text sees what was; a foreign model has no masks."""
    knobs = {"max_new_tokens": 2, "verification_threshold": 0.9}
    for model in (dream, make_latent_token("any")):
        monkeypatch.setattr(model, "forward", lambda *args, **kwargs: pytest.fail("a forward was run"))
        with pytest.raises(
            ValueError, match=f"`verification_threshold`=0.9 must be left out for {type(model).__name__}"
        ):
            model.generate(torch.tensor([[1]]), **knobs)
    with pytest.raises(ValueError, match="`verification_threshold` needs a model of hf-latent"):
        Predictor(torch.nn.Identity(), PredictorSettings(mask_token_id=MASK, verifies=True))  # type: ignore[arg-type]
    monkeypatch.setattr(llada.config, "_attn_implementation_internal", "flash_attention_2")
    with pytest.raises(ValueError, match=r"`attn_implementation` must be one of .*'sdpa'.* got 'flash_attention_2'"):
        Predictor(llada, PredictorSettings(mask_token_id=MASK, verifies=True))
