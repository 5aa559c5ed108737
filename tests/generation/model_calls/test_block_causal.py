"""Decoding block-causal models: the cache is exact, rows are their own, and nothing is read that need not be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

MASK, EOS, PAD = 63, 61, 62
SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
KNOBS: dict[str, Any] = {
    "pad_token_id": PAD,
    "return_dict_in_generate": True,
    "eos_token_id": None,
    "suppress_tokens": [PAD],
}
RULES: list[dict[str, Any]] = [
    {"decoding": "low_confidence"},
    {"decoding": "low_confidence", "steps_per_block": 2},
    {"decoding": "entropy", "max_denoising_steps": 30},
    {"decoding": "margin"},
    {"decoding": "random"},
    {"decoding": "left_to_right"},
    {"decoding": "confidence_threshold", "confidence_threshold": 0.4},
    {"decoding": "confidence_threshold", "confidence_threshold": 0.4, "steps_per_block": 3},
    {"decoding": "confidence_threshold", "confidence_threshold": 0.6, "min_tokens_per_step": 2},
    {"decoding": "entropy_bound", "entropy_bound": 1.0},
    {"decoding": "med", "entropy_threshold": 2.0, "max_tokens_per_step": 3},
    {"decoding": "med_left_to_right", "entropy_threshold": 2.0},
]
EXTRAS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"cfg_scale": 1.0},
    {"latent_refinement": True, "refinement_steps": 2},
    {"latent_refinement": True, "refinement_steps": 2, "cfg_scale": 0.5, "temperature": 0.7},
    {"editing_threshold": 0.3, "max_post_steps": 2},
    {"editing_threshold": 0.2, "max_post_steps": 1, "temperature": 1.0, "latent_refinement": True},
    {"eos_token_id": list(range(0, 60, 7))},
    {"eos_token_id": list(range(0, 60, 7)), "editing_threshold": 0.3},
    {"deferred_tokens": list(range(0, 60, 2)), "min_new_tokens": 5, "eos_token_id": list(range(0, 60, 7))},
    {"block_length": 3},
    {"block_length": 6, "sub_block_length": 2},
    {"sub_block_length": 2, "latent_refinement": True, "refinement_steps": 1},
]


@pytest.fixture(scope="module")
def make_block_causal(make_decoder: Callable[..., Any]) -> Callable[..., Any]:
    """`make_block_causal(shifts, family, ...)`: blocks of 4; in float64, as batches round differently in float32."""

    def make(shifts: bool, family: str = "llama", attention: str | None = None, **fields: Any) -> Any:
        from hf_latent import LatentTokenForMaskedDiffusion

        decoder = make_decoder(family, attention, **fields)
        knobs = {"attention": "block_causal", "block_size": 4, "shift_logits": shifts, "mask_token_id": MASK}
        return LatentTokenForMaskedDiffusion.from_backbone(decoder, **knobs).double()

    return make


@pytest.fixture(scope="module", params=[False, True], ids=["same", "shifted"])
def model(request: pytest.FixtureRequest, make_block_causal: Callable[..., Any]) -> Any:
    return make_block_causal(request.param, **SMALL)


def check_equal(a: Any, b: Any) -> None:
    for name in ("sequences", "commit_step", "num_forward_passes", "num_edits", "exit_step"):
        mine, others = getattr(a, name), getattr(b, name)
        assert (mine is None and others is None) or torch.equal(mine, others), name


@settings(max_examples=25)
@given(data=st.data())
def test_the_cache_is_exact_and_rows_are_their_own(
    model: Any, padded: Callable, check_rows_alone: Callable, data: st.DataObject
) -> None:
    """With all rules and knobs, on either side's padding, prompts ending in mid-block and rows at different blocks."""
    rows = data.draw(st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=9), min_size=1, max_size=3), "rows")
    knobs = KNOBS | data.draw(st.sampled_from(RULES), "rule") | data.draw(st.sampled_from(EXTRAS), "extra")
    knobs |= {"max_new_tokens": data.draw(st.integers(1, 11), "new"), "seed": data.draw(st.integers(0, 3), "seed")}
    ids, mask = padded(rows, data.draw(st.sampled_from(["left", "right"]), "side"), PAD)
    out = model.generate(ids, attention_mask=mask, **knobs)
    check_equal(out, model.generate(ids, attention_mask=mask, use_cache=False, **knobs))
    check_rows_alone(model, rows, PAD, **knobs)


@pytest.mark.parametrize("extra", EXTRAS[:8], ids=str)
def test_rows_are_their_own_with_the_block_cache(
    model: Any, check_rows_alone: Callable, extra: dict[str, Any]
) -> None:
    """It is no exact one; Fast-dLLM v2's own reads whole blocks when any row of the batch needs it."""
    knobs = KNOBS | extra | {"block_cache": "dual", "sub_block_length": 2, "seed": 1, "max_new_tokens": 10}
    check_rows_alone(
        model, [[5, 6, 7, 8, 9], [10], [11, 12, 13, 14]], PAD, decoding="med", entropy_threshold=2, **knobs
    )


def decode_plainly(model: Any, prompt: list[int], number: int, threshold: float | None) -> tuple[list[int], list[int]]:
    """
    One row by the model's own masks: each forward reads everything up to its block's end. Returns the ids and the
    forward that wrote each.
    """
    shifts, ids, steps, calls = model.config.shift_logits, list(prompt), [-1] * len(prompt), 0
    while len(ids) < len(prompt) + number:
        start = len(ids)
        block = list(range(start, start // 4 * 4 + 4))
        ids, steps = ids + [MASK] * len(block), steps + [-1] * len(block)
        while left := [i for i in block if ids[i] == MASK]:
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0]
            logits[:, [MASK, PAD]] = -torch.inf
            p, token = logits.softmax(-1).max(-1)
            if shifts and left[0] % 4 == 0:  # predicted by the finished block, before the others are
                left = left[:1]
            best = max(left, key=lambda i: float(p[i]))
            for i in left:
                if i == best or (threshold is not None and p[i] >= threshold):
                    ids[i], steps[i] = int(token[i]), calls
            calls += 1
    return ids[: len(prompt) + number], steps[: len(prompt) + number]


@pytest.mark.parametrize("threshold", [None, 0.5])
@pytest.mark.parametrize("length", [1, 3, 4, 6, 8])
def test_decoding_is_that_of_a_plain_sampler(model: Any, length: int, threshold: float | None) -> None:
    """Also where the prompt is one whole block, which Fast-dLLM v2's own code never reads."""
    prompt = list(range(7, 7 + length))
    rule = {} if threshold is None else {"decoding": "confidence_threshold", "confidence_threshold": threshold}
    out = model.generate(torch.tensor([prompt]), max_new_tokens=9, **KNOBS | rule)
    ids, steps = decode_plainly(model, prompt, 9, threshold)
    assert (out.sequences[0].tolist(), out.commit_step[0].tolist()) == (ids, steps)
    assert out.num_forward_passes.item() == max(steps) + 1  # none but what writes what is asked for


def test_a_block_of_one_is_autoregressive_decoding(make_block_causal: Callable[..., Any], make_decoder: Any) -> None:
    decoder = make_decoder("llama", **SMALL).double()
    expected = decoder.generate(
        torch.tensor([[5, 6, 7]]), max_new_tokens=8, do_sample=False, eos_token_id=None, suppress_tokens=[PAD]
    )
    model = make_block_causal(True, **SMALL)
    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=8, block_length=1, **KNOBS)
    assert out.sequences.tolist() == expected.tolist()
    assert out.num_forward_passes.tolist() == [8]


FAMILIES = ["qwen2", "mistral", "gemma2", "gemma3_text", "gpt2", "qwen3"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_decoders_of_other_families(
    make_block_causal: Callable[..., Any], padded: Callable, family: str, attention: str
) -> None:
    """With windows of 4 in some layers or in all, whose masks are needed where plain layers need none."""
    if family == "gemma2" and attention == "sdpa":
        attention = "eager"
    model = make_block_causal(family in ("qwen2", "gpt2"), family, attention, num_hidden_layers=2)
    for rows in ([[5, 6, 7, 8, 9]], [[5, 6, 7, 8, 9], [10, 11]]):
        ids, mask = padded(rows, "left", PAD)
        knobs = KNOBS | {"max_new_tokens": 9, "decoding": "confidence_threshold", "confidence_threshold": 0.5}
        out = model.generate(ids, attention_mask=mask, **knobs)
        check_equal(out, model.generate(ids, attention_mask=mask, use_cache=False, **knobs))


@pytest.mark.parametrize("rule", RULES[::3], ids=lambda rule: rule["decoding"])
def test_reasoning_with_an_answer_exits_early(model: Any, padded: Callable, rule: dict[str, Any]) -> None:
    """The answer, of three blocks here, is predicted from drafts of the blocks before it, whose keys are replaced."""
    rows = [[5, 6, 7, *[MASK] * 7, 9, *[MASK] * 6], [8, 4, *[MASK] * 3, 9, 9, MASK, MASK]]
    answers = [[False] * 11 + [True] * 6, [False] * 7 + [True] * 2]
    for side in ("left", "right"):
        ids, mask = padded(rows, side, PAD)
        answer = padded([[int(x) for x in row] for row in answers], side, 0)[0].bool()
        for extra in ({}, {"latent_refinement": True, "refinement_steps": 1}, {"cfg_scale": 0.5, "block_length": 3}):
            knobs = KNOBS | rule | extra | {"seed": 1, "attention_mask": mask, "answer_mask": answer}
            full = model.generate(ids, **knobs)
            assert MASK not in full.sequences and (full.exit_step == -1).all()
            check_equal(full, model.generate(ids, use_cache=False, **knobs))
            threshold = float(full.answer_entropy[:, 2:4].nan_to_num(0).mean())
            early = model.generate(ids, early_exit_threshold=threshold, **knobs)
            check_equal(early, model.generate(ids, early_exit_threshold=threshold, use_cache=False, **knobs))
    assert (model.generate(ids, early_exit_threshold=1e9, **knobs).exit_step == 0).all()
    with pytest.raises(ValueError, match=r"`answer_mask` must mark the last masks .* got masks behind .* row 0"):
        model.generate(torch.tensor([[5, MASK, MASK]]), answer_mask=torch.tensor([[False, True, False]]))


@given(data=st.data())
@settings(max_examples=15)
def test_infilling_reads_what_is_before_and_within_the_block(model: Any, data: st.DataObject) -> None:
    row = data.draw(st.lists(st.sampled_from([5, 6, 7, MASK, MASK]), min_size=2, max_size=14), "row")
    ids = torch.tensor([[*row, MASK], [*row[::-1], MASK]])
    knobs = {"return_dict_in_generate": True, "seed": 1} | data.draw(st.sampled_from(RULES), "rule")
    out = model.infill(ids, **knobs)
    check_equal(out, model.infill(ids, use_cache=False, **knobs))
    assert (out.sequences == ids)[ids != MASK].all() and MASK not in out.sequences
    longer = model.infill(torch.cat([ids, ids.new_full((2, 4), 9)], 1), **knobs)
    blocks = (ids.shape[1]) // 4 * 4  # later blocks are not seen
    if "max_denoising_steps" not in knobs:
        assert torch.equal(longer.sequences[:, :blocks], out.sequences[:, :blocks])


@pytest.mark.parametrize("extra", EXTRAS[::2], ids=str)
@pytest.mark.parametrize("number", [3, 8, 11])
def test_streaming_sends_what_is_returned(
    model: Any, make_recorder: Callable, extra: dict[str, Any], number: int
) -> None:
    """Not what completes the last block beyond it."""
    recorder = make_recorder()
    knobs = KNOBS | {"decoding": "med", "entropy_threshold": 2.0, "max_new_tokens": number, "seed": 1} | extra
    out = model.generate(torch.tensor([[5, 6, 7, 8, 9]]), streamer=recorder, output_history=True, **knobs)
    assert recorder.final == out.sequences[0].tolist()
    assert {canvas.shape[1] for canvas in out.history} == {out.sequences.shape[1]}


def test_whole_blocks_are_decoded_and_cut_off(model: Any, padded: Callable) -> None:
    """
    What is asked for does not depend on how much of its last block is, and rows are done when it is written. SDAR's
    own code returns whole blocks, LLaDA2's cuts them off.
    """
    ids, mask = padded([[5, 6, 7, 8, 9], [10, 11]], "right", PAD)
    for rule in ({"decoding": "low_confidence"}, {"decoding": "confidence_threshold", "confidence_threshold": 0.4}):
        whole = [
            model.generate(ids[i : i + 1, :n], max_new_tokens=11 + i, **KNOBS, **rule) for i, n in ((0, 5), (1, 2))
        ]
        for number in (1, 4, 6):
            out = model.generate(ids, attention_mask=mask, max_new_tokens=number, output_history=True, **KNOBS, **rule)
            assert out.sequences.shape == (2, 5 + number)
            assert torch.equal(out.history[-1], out.sequences)
            for i, length in ((0, 5), (1, 2)):
                asked = slice(length, length + number)
                assert out.sequences[i, :length].tolist() == ids[i, :length].tolist()
                assert out.sequences[i, asked].tolist() == whole[i].sequences[0, asked].tolist()
                assert out.commit_step[i, asked].tolist() == whole[i].commit_step[0, asked].tolist()
                assert out.num_forward_passes[i] == whole[i].commit_step[0, asked].max() + 1
                assert (out.sequences[i, length + number :] == PAD).all()
                assert (out.commit_step[i, length + number :] == -1).all()


def test_appended_blocks_end_with_the_last_row(model: Any) -> None:
    """Without `block_length`, as the model has its own; and without what completes the last block."""
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    knobs = KNOBS | {"max_new_tokens": 30}
    free = model.generate(ids, **knobs).sequences
    assert torch.equal(model.generate(ids, append_blocks=True, **knobs).sequences, free)
    ending = free[0, 10].item()
    ended = model.generate(ids, append_blocks=True, **knobs | {"eos_token_id": ending}).sequences
    full = model.generate(ids, **knobs | {"eos_token_id": ending}).sequences
    assert ended.shape[1] % 4 == 0 and ended.shape[1] < full.shape[1]
    assert torch.equal(ended, full[:, : ended.shape[1]]) and (full[:, ended.shape[1] :] == PAD).all()


def test_a_row_goes_no_further_than_the_models_positions(make_block_causal: Callable[..., Any]) -> None:
    model = make_block_causal(False, **SMALL, max_position_embeddings=14)
    out = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=11, **KNOBS)
    check_equal(out, model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=11, use_cache=False, **KNOBS))


def read_widths(model: Any) -> tuple[list[tuple[int, int, bool]], Any]:
    """Of every forward: columns read, columns seen, and whether a mask was needed."""
    found: list[tuple[int, int, bool]] = []

    def note(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        cache = kwargs["cache"]
        found.append((kwargs["input_ids"].shape[1], cache.target.length, kwargs["attention_mask"] is not None))

    return found, model.register_forward_pre_hook(note, with_kwargs=True)


def test_the_block_cache_reads_a_part_alone_once_its_first_token_is_written(
    make_block_causal: Callable[..., Any],
) -> None:
    model = make_block_causal(True, **SMALL)
    found, hook = read_widths(model)
    knobs = KNOBS | {"decoding": "left_to_right", "block_cache": "dual", "sub_block_length": 2}
    model.generate(torch.tensor([[5, 6, 7, 8]]), max_new_tokens=4, **knobs)
    hook.remove()
    # The finished block and its last again; the whole block, as its second token is the first that is read in it; the
    # whole block while the second part's first token is open; that part.
    assert found == [(5, 4, False), (4, 8, False), (4, 8, False), (2, 8, False)]


def test_a_step_reads_its_block_alone(make_block_causal: Callable[..., Any]) -> None:
    """
    One that enters a block reads the finished one with it, masked; there is no forward to store a block. A shifted
    model reads the finished block alone, and its last state twice: behind the second the next token is predicted.
    """
    for shifts in (False, True):
        model = make_block_causal(shifts, **SMALL)
        found, hook = read_widths(model)
        model.generate(torch.tensor([list(range(9))]), max_new_tokens=11, **KNOBS)
        hook.remove()
        first = [(12, 12, True), (4, 12, False), (4, 12, False)]
        if shifts:
            later = [[(5, end, False), *[(4, end + 4, False)] * 3] for end in (12, 16)]
        else:
            later = [[(8, end, True), *[(4, end, False)] * 3] for end in (16, 20)]
        assert found == [*first, *later[0], *later[1]]


def test_a_second_turn_goes_on_from_the_cache_of_the_first(model: Any, padded: Callable) -> None:
    """Its whole final blocks are not read again; in rows that ended and in those that did not."""
    for side in ("left", "right"):
        ids, mask = padded([[5, 9, 2, 30, 7], [11, 12]], side, PAD)
        first = model.generate(ids, attention_mask=mask, max_new_tokens=9, **KNOBS)
        assert first.past_key_values.get_seq_length() == first.sequences.shape[1]
        if side == "right":  # the next turn begins behind the longest; a shorter row would have a gap
            continue
        more = torch.tensor([[20, 21, 22], [23, 24, 25]])
        text = torch.cat([first.sequences, more], 1)
        mask = torch.cat([mask, torch.ones(2, 12, dtype=torch.long)], 1)
        knobs = KNOBS | {"attention_mask": mask, "max_new_tokens": 6}
        found, hook = read_widths(model)
        second = model.generate(text, past_key_values=first.past_key_values, **knobs)
        hook.remove()
        check_equal(second, model.generate(text, **knobs))
        assert found[0][0] < 12
        third = model.generate(
            second.sequences[:, :-1],
            past_key_values=first.past_key_values,
            **KNOBS
            | {"attention_mask": torch.ones_like(second.sequences[:, :-1]).copy_(second.sequences[:, :-1] != PAD)},
            max_new_tokens=2,
        )
        assert third.sequences.shape[1] == second.sequences.shape[1] + 1


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"block_cache": "prefix"}, "`block_cache`='prefix' must be left out for a block-causal model"),
        ({"block_cache": "dual"}, "'dual' needs `sub_block_length`"),
        ({"cache_refresh_interval": 2}, "`cache_refresh_interval`=2 must be left out for a block-causal model"),
        ({"block_cache": "dual", "sub_block_length": 2, "use_cache": False}, "`use_cache`=False .* `block_cache`"),
        ({"sub_block_length": 3}, r"`sub_block_length` must divide `block_length` \(4\), got 3"),
        ({"num_candidates": 2}, "`num_candidates` is for semi-causal models"),
        ({"past_key_values": object()}, "`past_key_values` must be what .* block-causal model .* got object"),
    ],
)
def test_what_a_block_causal_model_cannot_do_is_refused(model: Any, knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=6, **knobs)


def test_a_cache_of_another_text_or_block_is_refused(model: Any) -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    past = model.generate(ids, max_new_tokens=7, **KNOBS).past_key_values
    for knobs, message in (
        ({"block_length": 2}, "`past_key_values` are of blocks of 4 tokens, this call's have 2"),
        ({"cfg_scale": 1.0}, "`past_key_values` must be left out with `cfg_scale`=1.0"),
        ({"use_cache": False}, "leave out `past_key_values`"),
        ({}, "`past_key_values` must be those of the first tokens of `input_ids`"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(torch.flip(past.ids, [1]), past_key_values=past, max_new_tokens=4, **knobs)
    assert model.generate(ids, max_new_tokens=7, cfg_scale=1.0, **KNOBS).past_key_values is None
