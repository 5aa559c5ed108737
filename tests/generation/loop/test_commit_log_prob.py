"""Log-probabilities of what was written, against forwards that are run again, one by one."""

from typing import Any

import pytest
import torch

from hf_latent.generation.commit.rules import RULES

MASK = 47
PROMPT = torch.tensor([[3, 9, 4]])
KNOBS = {"confidence_threshold": 0.5, "entropy_threshold": 0.8, "entropy_bound": 0.6, "stability_kl": 9.0}
SAMPLED = {"temperature": 1.7, "seed": 5}


def run_again(
    model: torch.nn.Module, output: Any, begin: torch.Tensor, temperature: float, top_k: int
) -> torch.Tensor:
    """`(1, L)`: log p of each position's token in the forward on the canvas before its last change."""
    expected = torch.full(begin.shape, float("nan"))
    before = begin
    for after in output.history:
        with torch.no_grad():
            logits = model(before).logits[0].double() / temperature
        logits[:, MASK] = -torch.inf
        kept = torch.full_like(logits, -torch.inf)
        for position in range(begin.shape[1]):
            best = logits[position].topk(top_k).indices
            kept[position, best] = logits[position, best]
        log_p = kept.log_softmax(-1)
        for position in (after != before)[0].nonzero().flatten().tolist():
            expected[0, position] = log_p[position, after[0, position]].float()
        before = after
    return expected.masked_fill(output.commit_step < 0, float("nan"))


def check(
    model: torch.nn.Module,
    begin: torch.Tensor,
    temperature: float | None = None,
    top_k: int | None = None,
    **knobs: Any,
) -> Any:
    knobs |= {"temperature": temperature, "top_k": top_k, "return_dict_in_generate": True}
    output = model.infill(begin, output_history=True, output_scores=True, **knobs)
    expected = run_again(model, output, begin, temperature or 1.0, top_k or 48)
    assert torch.equal(output.commit_log_prob.isnan(), begin != MASK), "nan where tokens were given, and only there"
    assert torch.allclose(output.commit_log_prob, expected, atol=2e-5, equal_nan=True)
    without = model.infill(begin, **knobs)
    assert without.commit_log_prob is None and torch.equal(without.sequences, output.sequences)
    return output


@pytest.fixture(scope="module")
def holed() -> torch.Tensor:
    """Given tokens before, between and behind what is open."""
    return torch.tensor([[3, 9, MASK, MASK, 4, MASK, MASK, MASK, 8, MASK, MASK, 2]])


@pytest.mark.parametrize("decoding", RULES)
@pytest.mark.parametrize("sampled", [False, True])
def test_each_token_has_the_log_probability_of_the_forward_that_wrote_it(
    llada: torch.nn.Module, holed: torch.Tensor, decoding: str, sampled: bool
) -> None:
    knobs = {name: value for name, value in KNOBS.items() if name == RULES[decoding].knob or name == "stability_kl"}
    noise = {"temperature": 1.7, "top_k": 9} if sampled else {}
    output = check(llada, holed, decoding=decoding, block_length=4, seed=5, **knobs, **noise)
    assert (output.commit_log_prob[holed == MASK] <= 0).all()
    if not sampled:  # the confidence that was shown
        shown = torch.stack(output.confidence_history).gather(0, output.commit_step.clamp(min=0)[None])[0]
        assert torch.allclose(output.commit_log_prob.exp()[holed == MASK], shown[holed == MASK], atol=1e-5)


def test_filters_count_without_sampling_too(llada: torch.nn.Module, holed: torch.Tensor) -> None:
    check(llada, holed, decoding="entropy", top_k=3)


def test_a_block_that_is_stopped_has_the_likeliest_tokens_under_what_was_drawn_from(
    llada: torch.nn.Module, holed: torch.Tensor
) -> None:
    """Latent refinement that mixes nothing, with a belief that counts as resting at once."""
    knobs = {"latent_refinement": True, "refinement_ratio": 0.0, "refinement_steps": 0, "stop_kl": 1e9}
    output = check(llada, holed, temperature=1.7, seed=5, **knobs)
    assert int(output.num_forward_passes) == 2


@pytest.mark.parametrize("temperature", [None, 1.7])
def test_an_edited_token_has_that_of_the_forward_that_wrote_it_last(
    llada: torch.nn.Module, holed: torch.Tensor, temperature: float | None
) -> None:
    knobs = {"decoding": "confidence_threshold", "confidence_threshold": 0.2, "block_length": 4, "seed": 5}
    output = check(llada, holed, temperature, editing_threshold=0.0, max_post_steps=2, **knobs)
    assert int(output.num_edits) > 0


def test_a_token_that_was_taken_back_has_that_of_the_one_written_instead(llada: torch.nn.Module) -> None:
    """WINO that commits half-hearted tokens and doubts most of them."""
    ids = torch.randint(0, 45, (1, 20), generator=torch.Generator().manual_seed(0))
    ids[:, 3:19] = MASK
    knobs = {"decoding": "confidence_threshold", "confidence_threshold": 0.3, "verification_threshold": 0.8}
    assert int(check(llada, ids, **knobs).num_remasked) > 0


def test_what_ends_and_pads_has_none(llada: torch.nn.Module) -> None:
    """Behind an end-of-sequence token nothing was written for good; a batch is its rows."""
    prompts = torch.tensor([[46, 3, 9, 4], [5, 1, 7, 2]])
    mask = (prompts != 46).long()
    knobs = {
        "max_new_tokens": 8,
        "return_dict_in_generate": True,
        "output_scores": True,
        "temperature": 1.3,
        "seed": 1,
    }
    ends = list(range(20))
    both = llada.generate(prompts, attention_mask=mask, eos_token_id=ends, **knobs)
    assert torch.equal(both.commit_log_prob.isnan(), both.commit_step < 0)
    assert (both.commit_step[:, 4:] < 0).any(), "a row ended"
    alone = llada.generate(prompts[:1, 1:], eos_token_id=ends, row_indices=[0], **knobs)
    width = alone.sequences.shape[1]
    assert torch.allclose(both.commit_log_prob[:1, 1 : width + 1], alone.commit_log_prob, atol=1e-5, equal_nan=True)


def test_scores_are_a_field_of_the_output(llada: torch.nn.Module) -> None:
    with pytest.raises(ValueError, match="`output_scores`=True needs `return_dict_in_generate=True`"):
        llada.generate(PROMPT, max_new_tokens=2, output_scores=True)
