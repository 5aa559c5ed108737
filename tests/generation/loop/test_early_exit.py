"""Early exit: the answer's entropy by hand, the first forward below the threshold, what is written and what left."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from hf_latent import DiffusionGenerateOutput, DiffusionGenerationConfig
from hf_latent.generation.commit.rules import RULES

EOS, PAD, MASK = 45, 46, 47
KNOBS = {"confidence_threshold": 0.7, "entropy_threshold": 0.8, "entropy_bound": 0.6, "seed": 2}
RowState = tuple[list[int], list[bool]]  # ids, which of them are the answer


def layout(question: list[int], reasoning: int, delimiter: list[int], answer: int, suffix: list[int]) -> RowState:
    ids = question + [MASK] * reasoning + delimiter + [MASK] * answer + suffix
    before = len(question) + reasoning + len(delimiter)
    return ids, [before <= i < before + answer for i in range(len(ids))]


ROWS: list[RowState] = [
    layout([1, 2, 3], 6, [4, 5], 3, [6]),
    layout([9], 4, [30], 2, []),
    layout([20, 21, 22, 23], 5, [], 1, [7, 7]),
    layout([11, 12], 8, [13, 14, 15], 2, []),
]
rows = st.builds(
    layout,
    st.lists(st.integers(0, 44), max_size=4),
    st.integers(1, 6),
    st.lists(st.integers(0, 44), max_size=2),
    st.integers(1, 3),
    st.lists(st.integers(0, 44), max_size=2),
)


def run(model: nn.Module, row: RowState, **knobs: object) -> DiffusionGenerateOutput:
    ids, answer = torch.tensor([row[0]]), torch.tensor([row[1]])
    return model.generate(ids, answer_mask=answer, return_dict_in_generate=True, **(KNOBS | knobs))


def beliefs(model: nn.Module, ids: list[int]) -> torch.Tensor:
    """Distributions `(L, V)` of a canvas, the mask never predicted."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    logits[:, MASK] = -math.inf
    return logits.softmax(-1)


def answer_entropy(model: nn.Module, ids: list[int], answer: list[bool], reduction: str) -> float:
    p = beliefs(model, ids)
    entropy = -torch.special.xlogy(p, p).sum(-1)
    values = [float(entropy[i]) for i, flag in enumerate(answer) if flag and ids[i] == MASK]
    return max(values, default=0.0) if reduction == "max" else sum(values)


@pytest.mark.parametrize("decoding", list(RULES))
@pytest.mark.parametrize("reduction", ["sum", "max"])
@given(data=st.data())
@settings(max_examples=5)
def test_the_entropy_of_the_answer_is_that_of_the_recorded_canvases(
    model: nn.Module, decoding: str, reduction: str, data: st.DataObject
) -> None:
    """
    And a row exits at the first of them below the threshold, not before: the answer is what the model finds most
    likely there, the reasoning is left as it is.
    """
    ids, answer = data.draw(rows, "row")
    knobs = {
        "decoding": decoding,
        "answer_entropy_reduction": reduction,
        "block_length": data.draw(st.none() | st.integers(1, 4), "block_length"),
        "max_denoising_steps": data.draw(st.sampled_from([None, 12]), "max_denoising_steps"),
        "output_history": True,
    }
    free = run(model, (ids, answer), **knobs)
    values = [
        answer_entropy(model, canvas, answer, reduction)
        for canvas in [ids, *(frame[0].tolist() for frame in free.history[:-1])]
    ]
    assert free.answer_entropy[0].tolist() == pytest.approx(values, abs=1e-4)
    assert free.exit_step.tolist() == [-1]
    canvases = [ids, *(frame[0].tolist() for frame in free.history)]
    threshold = data.draw(st.sampled_from([1.0, 2.0, 3.0, 5.0]), "threshold")
    final = data.draw(st.sampled_from([None, 0.0, 2.0, 9.0]), "final threshold")
    thresholds = [threshold] * len(values)
    if final is not None:
        size = sum(token == MASK and not flag for token, flag in zip(ids, answer, strict=True))
        left = [
            sum(token == MASK and not flag for token, flag in zip(canvas, answer, strict=True)) for canvas in canvases
        ]
        thresholds = [threshold + (final - threshold) * (1 - x / size) for x in left[:-1]]
    assume(min(abs(value - bar) for value, bar in zip(values, thresholds, strict=True)) > 1e-3)
    reasons = [any(i == MASK and not flag for i, flag in zip(canvas, answer, strict=True)) for canvas in canvases]
    below = [step for step, value in enumerate(values) if value < thresholds[step] and reasons[step]]
    out = run(model, (ids, answer), early_exit_threshold=threshold, early_exit_final_threshold=final, **knobs)
    if not below:
        assert out.exit_step.tolist() == [-1]
        assert torch.equal(out.sequences, free.sequences)
        assert torch.equal(out.commit_step, free.commit_step)
        return
    step = below[0]
    p = beliefs(model, canvases[step])
    expected = [
        token if token != MASK else int(p[i].argmax()) if answer[i] else PAD for i, token in enumerate(canvases[step])
    ]
    written = free.commit_step[0].tolist()
    assert out.sequences[0].tolist() == expected
    assert out.exit_step.tolist() == [step]
    assert out.num_forward_passes.tolist() == [step + 1]
    assert out.answer_entropy.shape == (1, step + 1)
    assert out.commit_step[0].tolist() == [
        step if answer[i] else written[i] if written[i] < step else -1 for i in range(len(ids))
    ]
    committed = sum(x >= 0 for x in out.commit_step[0].tolist())
    assert out.tokens_per_forward.tolist() == pytest.approx([committed / (step + 1)])


def test_the_thresholds_above_are_crossed_early_late_and_never(model: nn.Module) -> None:
    """Else the property would prove little."""
    steps = {int(run(model, row, early_exit_threshold=t).exit_step) for row in ROWS for t in (1.0, 2.0, 3.0, 5.0)}
    assert {-1, 0} < steps
    assert len(steps) > 3


@pytest.mark.parametrize("threshold", [None, 0.0])
def test_no_threshold_and_none_that_is_met_never_exit(model: nn.Module, threshold: float | None) -> None:
    for row in ROWS[:2]:
        for decoding in RULES:
            knobs = {"decoding": decoding, "block_length": 3}
            out = run(model, row, early_exit_threshold=threshold, **knobs)
            free = run(model, row, **knobs)
            assert out.exit_step.tolist() == [-1]
            assert torch.equal(out.sequences, free.sequences)
            assert torch.equal(out.commit_step, free.commit_step)
            assert (out.commit_step[0] >= 0).tolist() == [token == MASK for token in row[0]]


@pytest.mark.parametrize("cache", [None, "prefix", "dual"])
@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("decoding", list(RULES))
def test_a_threshold_above_everything_exits_at_the_first_forward(
    model: nn.Module, decoding: str, refined: bool, cache: str | None
) -> None:
    """Also while latent refinement commits nothing yet: that forward does, it counts as no refinement."""
    for row in ROWS[1:3]:
        p = beliefs(model, row[0])
        out = run(
            model,
            row,
            decoding=decoding,
            early_exit_threshold=math.inf,
            latent_refinement=refined,
            block_cache=cache,
            block_length=3,
        )
        assert out.exit_step.tolist() == [0]
        assert out.num_forward_passes.tolist() == [1]
        assert out.leftmost_share.isnan().all(), "no rule has chosen"
        for i, token in enumerate(row[0]):
            expected = token if token != MASK else int(p[i].argmax()) if row[1][i] else PAD
            assert int(out.sequences[0, i]) == expected
            assert int(out.commit_step[0, i]) == (0 if row[1][i] else -1)
        if refined:
            assert out.num_refinement_passes.tolist() == [0]


@pytest.mark.parametrize("method", ["generate", "infill"])
@pytest.mark.parametrize("decoding", list(RULES))
@given(data=st.data())
@settings(max_examples=4)
def test_a_row_exits_by_itself_in_any_batch(model: nn.Module, decoding: str, method: str, data: st.DataObject) -> None:
    """Padded left, padded right, alone; with everything that may go with it. No mask survives."""
    drawn = data.draw(st.lists(rows, min_size=2, max_size=3), "rows")
    knobs = KNOBS | {
        "decoding": decoding,
        "early_exit_threshold": data.draw(st.sampled_from([None, 1.0, 3.0]), "early_exit_threshold"),
        "answer_entropy_reduction": data.draw(st.sampled_from(["sum", "max"]), "reduction"),
        "block_length": data.draw(st.none() | st.integers(1, 4), "block_length"),
        "temperature": data.draw(st.sampled_from([0.0, 0.8]), "temperature"),
        "cfg_scale": data.draw(st.sampled_from([0.0, 1.0]), "cfg_scale"),
        "block_cache": data.draw(st.sampled_from([None, "prefix", "dual"]), "block_cache"),
        "latent_refinement": data.draw(st.booleans(), "latent_refinement"),
        "refinement_steps": 2,
        "return_dict_in_generate": True,
    }
    if knobs["early_exit_threshold"] is not None:
        knobs["early_exit_final_threshold"] = data.draw(st.sampled_from([None, 6.0]), "early_exit_final_threshold")
    width = max(len(ids) for ids, _ in drawn)
    call = getattr(model, method)
    alone = [
        call(torch.tensor([ids]), answer_mask=torch.tensor([flags]), row_indices=[i], **knobs)
        for i, (ids, flags) in enumerate(drawn)
    ]
    for side in ("left", "right"):

        def padded(values: list, filling: object, side: str = side) -> list:
            filler = [filling] * (width - len(values))
            return filler + values if side == "left" else values + filler

        batch = call(
            torch.tensor([padded(ids, PAD) for ids, _ in drawn]),
            attention_mask=torch.tensor([padded([1] * len(ids), 0) for ids, _ in drawn]),
            answer_mask=torch.tensor([padded(flags, False) for _, flags in drawn]),
            **knobs,
        )
        for i, (ids, _) in enumerate(drawn):
            columns = slice(width - len(ids), width) if side == "left" else slice(0, len(ids))
            forwards = int(alone[i].num_forward_passes)
            assert batch.sequences[i, columns].tolist() == alone[i].sequences[0].tolist()
            assert batch.commit_step[i, columns].tolist() == alone[i].commit_step[0].tolist()
            assert batch.num_forward_passes[i] == forwards
            assert batch.exit_step[i] == alone[i].exit_step[0]
            trace = batch.answer_entropy[i]
            assert trace[:forwards].tolist() == pytest.approx(alone[i].answer_entropy[0].tolist(), abs=1e-4)
            assert trace[forwards:].isnan().all()
        assert MASK not in batch.sequences
    if knobs.get("early_exit_final_threshold") is not None:
        return  # where such a row exits is held above
    for out, (ids, flags) in zip(alone, drawn, strict=True):
        check_order(out, ids, flags, knobs["early_exit_threshold"])


def check_order(out: DiffusionGenerateOutput, ids: list[int], flags: list[bool], threshold: float | None) -> None:
    """The answer comes last, or with the exit; the exit is where the trace says."""
    steps, written = out.commit_step[0].tolist(), out.sequences[0].tolist()
    answer = [steps[i] for i, flag in enumerate(flags) if flag]
    reasoning = [i for i, flag in enumerate(flags) if not flag and ids[i] == MASK]
    exit_step = int(out.exit_step)
    assert [written[i] for i, token in enumerate(ids) if token != MASK] == [token for token in ids if token != MASK]
    last = max(steps[i] for i in reasoning)
    trace = out.answer_entropy[0].tolist()
    if exit_step < 0:
        assert min(answer) > last >= 0
        assert all(steps[i] >= 0 for i in reasoning)
        assert threshold is None or all(value >= threshold for value in trace[: last + 1])
        return
    assert exit_step == next(step for step, value in enumerate(trace) if value < threshold)
    assert set(answer) == {exit_step} and int(out.num_forward_passes) == exit_step + 1
    assert last < exit_step
    left = [i for i in reasoning if steps[i] == -1]
    assert left and all(written[i] == PAD for i in left)
    assert all(written[i] != PAD or steps[i] == -1 for i in left)


def test_a_row_that_exits_costs_nothing_more(model: nn.Module) -> None:
    """Its neighbours go on without it."""
    ids, flags = ROWS[0]
    exits = int(run(model, ROWS[0], early_exit_threshold=math.inf).num_forward_passes)
    assert exits == 1
    first = answer_entropy(model, ids, flags, "sum")
    other = [25 if token == 2 else token for token in ids]
    second = answer_entropy(model, other, flags, "sum")
    low, high = sorted([first, second])
    assert high - low > 1e-3
    sizes = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    out = model.generate(
        torch.tensor([ids, other]),
        answer_mask=torch.tensor([flags, flags]),
        early_exit_threshold=(low + high) / 2,
        return_dict_in_generate=True,
    )
    hook.remove()
    assert sorted(out.exit_step.tolist())[0] in (-1, 0)
    assert (out.exit_step == 0).sum() == 1
    longest = int(out.num_forward_passes.max())
    assert sizes == [2] + [1] * (longest - 1)


def test_a_row_without_reasoning_writes_its_answer_by_the_rule(model: nn.Module) -> None:
    """Nothing to leave: the answer is decoded as ever."""
    row = layout([1, 2, 3], 0, [4], 4, [])
    out = run(model, row, early_exit_threshold=math.inf)
    assert out.exit_step.tolist() == [-1]
    assert sorted(out.commit_step[0, 4:].tolist()) == [0, 1, 2, 3]
    plain = model.infill(torch.tensor([row[0]]), **KNOBS)
    assert torch.equal(out.sequences, plain)


def test_an_answer_between_reasoning_is_written_last(model: nn.Module) -> None:
    """Wherever it stands; given tokens that the mask marks are not written anew."""
    ids = [1, MASK, MASK, 3, MASK, MASK, MASK]
    flags = [True, False, True, True, True, False, False]
    out = run(model, (ids, flags), block_length=2, decoding="left_to_right")
    assert out.commit_step[0].tolist() == [-1, 0, 3, -1, 4, 1, 2]


def test_an_end_of_sequence_in_the_reasoning_does_not_end_the_row(model: nn.Module) -> None:
    for row in ROWS:
        out = run(model, row, eos_token_id=list(range(46)))
        assert torch.equal(out.sequences, run(model, row, eos_token_id=None).sequences)
        assert (out.commit_step[0] >= 0).tolist() == [token == MASK for token in row[0]]


def test_several_samples_of_a_question_exit_by_themselves(model: nn.Module) -> None:
    ids, flags = torch.tensor([ROWS[0][0]]), torch.tensor([ROWS[0][1]])
    knobs = KNOBS | {"temperature": 2.0, "early_exit_threshold": 3.5, "return_dict_in_generate": True}
    out = model.generate(ids, answer_mask=flags, num_return_sequences=4, **knobs)
    for i in range(4):
        alone = model.generate(ids, answer_mask=flags, row_indices=[i], **knobs)
        assert torch.equal(out.sequences[i], alone.sequences[0])
        assert out.exit_step[i] == alone.exit_step[0]
    assert MASK not in out.sequences


IDS, FLAGS = torch.tensor([ROWS[0][0]]), torch.tensor([ROWS[0][1]])
PROMPT = torch.tensor([[1, 2, 3]])
NEEDS_ANSWER = "`early_exit_threshold`=0.1 needs an `answer_mask`"
# Method, what is passed, what the message says.
REFUSED = {
    "another shape": (
        "generate",
        {"inputs": IDS, "answer_mask": FLAGS[:, 1:]},
        r"`answer_mask` must have the shape of `input_ids`, \(1, 15\), got \(1, 14\)",
    ),
    "a list": ("generate", {"inputs": IDS, "answer_mask": FLAGS.tolist()}, "`answer_mask` must have .* got list"),
    "other values": ("generate", {"inputs": IDS, "answer_mask": FLAGS * 2}, "`answer_mask` must hold 0 and 1"),
    "an answer that is given": (
        "infill",
        {"inputs": IDS, "answer_mask": IDS == 1},
        "`answer_mask` marks no mask token of `input_ids` in row 0",
    ),
    "a row without": (
        "generate",
        {"inputs": IDS.repeat(2, 1), "answer_mask": torch.cat([FLAGS, FLAGS & False])},
        "`answer_mask` marks no mask token of `input_ids` in row 1",
    ),
    "nothing to write": (
        "generate",
        {"inputs": PROMPT, "answer_mask": PROMPT == 1},
        "`input_ids` has nothing to infill",
    ),
    "a length": (
        "generate",
        {"inputs": IDS, "answer_mask": FLAGS, "max_new_tokens": 4},
        "`max_new_tokens`=4 has no meaning for `infill` and with `answer_mask`",
    ),
    "a least length": (
        "generate",
        {"inputs": IDS, "answer_mask": FLAGS, "min_new_tokens": 4},
        "`min_new_tokens`=4 has no meaning",
    ),
    "appended blocks": (
        "generate",
        {"inputs": IDS, "answer_mask": FLAGS, "append_blocks": True},
        "`append_blocks`=True has no meaning for `infill` and with `answer_mask`",
    ),
    "generate without an answer": ("generate", {"inputs": PROMPT, "early_exit_threshold": 0.1}, NEEDS_ANSWER),
    "infill without an answer": ("infill", {"inputs": IDS, "early_exit_threshold": 0.1}, NEEDS_ANSWER),
    "generate without, by configuration": (
        "generate",
        {"inputs": PROMPT, "generation_config": DiffusionGenerationConfig(early_exit_threshold=0.1)},
        NEEDS_ANSWER,
    ),
    "infill without, by configuration": (
        "infill",
        {"inputs": IDS, "generation_config": DiffusionGenerationConfig(early_exit_threshold=0.1)},
        NEEDS_ANSWER,
    ),
    "a negative threshold": (
        "generate",
        {"inputs": IDS, "answer_mask": FLAGS, "early_exit_threshold": -1},
        "`early_exit_threshold` must be a number of at least 0.0, got -1",
    ),
    "a reduction": (
        "generate",
        {"inputs": IDS, "answer_mask": FLAGS, "answer_entropy_reduction": "mean"},
        "`answer_entropy_reduction` must be one of 'sum', 'max', got 'mean'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_makes_no_sense_is_refused_before_any_forward(
    llada: nn.Module, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    method, knobs, message = REFUSED[case]
    monkeypatch.setattr(llada, "forward", lambda *args, **kwargs: pytest.fail("a forward was run"))
    with pytest.raises(ValueError, match=message):
        getattr(llada, method)(**knobs)


def test_a_threshold_of_the_model_itself_waits_for_an_answer(llada: nn.Module) -> None:
    """A default of the checkpoint is no request: calls without an answer go on as ever."""
    expected = llada.generate(PROMPT, max_new_tokens=4), llada.infill(IDS)
    config = llada.generation_config
    try:
        llada.generation_config = DiffusionGenerationConfig(**(config.to_diff_dict() | {"early_exit_threshold": 99.0}))
        assert torch.equal(llada.generate(PROMPT, max_new_tokens=4), expected[0])
        assert torch.equal(llada.infill(IDS), expected[1])
        assert run(llada, ROWS[0]).exit_step.tolist() == [0]
    finally:
        llada.generation_config = config
