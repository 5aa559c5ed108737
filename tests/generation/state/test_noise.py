"""The counter-based noise: what it depends on, and that it is uniform."""

import pytest
import torch

from hf_latent.generation.state import noise
from hf_latent.generation.state.noise import uniform


def p_value(observed: torch.Tensor, expected: torch.Tensor) -> float:
    """Of Pearson's chi-square test."""
    statistic = ((observed - expected) ** 2 / expected).sum()
    return float(torch.special.gammaincc(torch.tensor((len(observed) - 1) / 2.0), statistic / 2))


def grid(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    axis = torch.arange(size)
    return axis[:, None, None], axis[None, :, None], axis[None, None, :]


@pytest.mark.parametrize("seed", [0, 1, 2**40, 2**63 - 1])
def test_noise_is_uniform_along_and_across_counters(seed: int) -> None:
    """
    Weak mixing of small counters shows in the marginals or between neighbours. Fixed seeds: no chance of failure from
    run to run; a good generator would have failed with odds of 16 x 1e-6.
    """
    u = uniform(seed, 0, *grid(48))
    bins = (u * 16).long()
    assert p_value(bins.flatten().bincount(minlength=16).float(), torch.full((16,), u.numel() / 16)) > 1e-6
    for axis in range(3):
        n = bins.shape[axis]
        pairs = bins.narrow(axis, 0, n - 1) * 16 + bins.narrow(axis, 1, n - 1)
        counts = pairs.flatten().bincount(minlength=256).float()
        assert p_value(counts, torch.full((256,), pairs.numel() / 256)) > 1e-6


def test_noise_depends_on_seed_stream_and_every_counter() -> None:
    base = torch.tensor([3])
    values = [
        uniform(seed, stream, base + row, base + step, base + position)
        for seed in (0, 1)
        for stream in (0, 1)
        for row in (0, 1)
        for step in (0, 1)
        for position in (0, 1)
    ]
    assert len({float(value) for value in values}) == 32


def test_counters_do_not_stand_in_for_each_other() -> None:
    """A sum of counters instead of a chain of mixes would give the anti-diagonals equal numbers."""
    row, step, position = grid(24)
    assert uniform(5, 0, row, step, position).unique().numel() > 24**3 * 0.99


def test_an_element_does_not_depend_on_the_shape_around_it() -> None:
    row, step, position = grid(6)
    whole = uniform(7, 1, row, step, position)
    assert uniform(7, 1, torch.tensor([4]), torch.tensor([2]), torch.tensor([5])) == whole[4, 2, 5]


def test_noise_is_inside_the_open_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    """At 0 a candidate of no probability could be drawn; the largest of 24-bit numbers used to round up to 1."""
    for bits in (0, 1):
        monkeypatch.setattr(
            noise, "_shift_right", lambda x, n, bits=bits: torch.full_like(x, bits * (2 ** (64 - n) - 1))
        )
        assert 0.0 < float(uniform(0, 0, torch.tensor([0]))) < 1.0


def test_noise_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    uniform(1, 0, torch.arange(5))
    assert torch.equal(torch.get_rng_state(), before)
