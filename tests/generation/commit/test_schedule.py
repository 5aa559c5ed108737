"""Schedules against closed forms, torch.linspace and what the references recorded."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_latent.generation.commit.schedule import dream_quota, steps_of_block, uniform_quota


@given(num_masked=st.lists(st.integers(0, 300), min_size=1, max_size=5), num_steps=st.integers(1, 70))
@settings(max_examples=60)
def test_uniform_quotas_are_even_and_write_everything(num_masked: list[int], num_steps: int) -> None:
    quotas = torch.tensor([[uniform_quota(masked, i, num_steps) for i in range(num_steps)] for masked in num_masked])
    assert quotas.sum(-1).tolist() == num_masked
    assert (quotas.amax(-1) - quotas.amin(-1)).max() <= 1
    assert (quotas.diff(dim=-1) <= 0).all(), "the remainder belongs to the first steps"


@pytest.mark.parametrize("epsilon", [1e-3, 1e-5, 0.0, 0.01, 0.05, 0.1, 0.123, 0.3, 0.5, 1.0])
def test_dream_quotas_are_those_of_linspace(epsilon: float) -> None:
    """
    The reference floors `masks * (1 - s / t)` on the times of torch.linspace, so that a last bit moves a token to
    another step (10 steps, epsilon 0.1 did). Runs where linspace fuses multiply and add: x86-64 with AVX2, ARM, CUDA.
    """
    for num_steps in [*range(1, 25), 40, 64, 100, 255]:
        times = torch.linspace(1, epsilon, num_steps + 1)
        for num_masked in (1, 8, 31, 256):
            expected = [int(num_masked * (1 - times[i + 1] / times[i])) for i in range(num_steps - 1)] + [num_masked]
            quota = [dream_quota(num_masked, step, num_steps, epsilon) for step in range(num_steps)]
            assert quota == expected, (num_steps, num_masked)


@given(num_steps=st.integers(1, 200), num_blocks=st.lists(st.integers(1, 20), min_size=1, max_size=4))
@settings(max_examples=40)
def test_blocks_share_all_steps_fairly(num_steps: int, num_blocks: list[int]) -> None:
    for n in num_blocks:
        share = [steps_of_block(block, n, num_steps) for block in range(20)]
        assert sum(share[:n]) == num_steps
        assert max(share[:n]) - min(share[:n]) <= 1


@pytest.mark.parametrize("name", ["llada-tiny", "llada-tiny-gqa"])
def test_uniform_quotas_are_the_recorded_ones(fixtures_dir: Path, name: str) -> None:
    cases = json.loads((fixtures_dir / name / "expected.json").read_text())["num_transfer_tokens"]
    assert cases
    for case in cases:
        quotas = [uniform_quota(case["mask_count"], i, case["steps"]) for i in range(case["steps"])]
        assert quotas == case["counts"], case


def test_dream_quotas_are_the_recorded_ones(fixtures_dir: Path) -> None:
    cases = json.loads((fixtures_dir / "dream-tiny" / "expected.json").read_text())["transfer_schedule"]
    assert cases
    for case in cases:
        left, quotas = case["mask_count"], []
        for i in range(case["steps"]):
            quotas.append(dream_quota(left, i, case["steps"], case["eps"]))
            left -= quotas[-1]
        assert quotas == case["counts"], case
