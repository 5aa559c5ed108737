"""Noise: seeds, orders that are random, and what is sampled follows the model."""

import math

import pytest
import torch

EOS, PAD, MASK = 45, 46, 47


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
