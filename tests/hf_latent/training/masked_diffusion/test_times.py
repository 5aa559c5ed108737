"""Times of rows and of blocks, bells of them, and block sizes: their laws, and what they are a function of."""

from pathlib import Path

import pytest
import torch

from hf_latent.data.corruption import TIME_SAMPLINGS, sample_block_sizes, sample_times, time_density
from hf_latent.training import MaskedDiffusionConfig
from hf_latent.training.masked_diffusion.noising import add_noise

DRAW = {"seed": 3, "epoch": 2}


@pytest.mark.parametrize("sampling", TIME_SAMPLINGS)
def test_positions_of_a_block_share_a_time_and_blocks_do_not(sampling: str) -> None:
    blocks = torch.arange(24).expand(2, -1) // 3
    times = sample_times(torch.tensor([4, 9]), sampling=sampling, blocks=blocks, **DRAW)
    assert torch.equal(times[:, ::3], times[:, 1::3]) and torch.equal(times[:, ::3], times[:, 2::3])
    assert len(set(times.flatten().tolist())) == 16
    alone = sample_times(torch.tensor([9]), sampling=sampling, blocks=blocks[:1, 6:], **DRAW)
    assert torch.equal(alone, times[1:, 6:])


@pytest.mark.parametrize("sampling", ["low_discrepancy", "bell"])
def test_the_first_block_has_the_time_of_the_row(sampling: str) -> None:
    """Then a block of the whole row is the bidirectional objective, draw by draw."""
    ids = torch.arange(5)
    whole = sample_times(ids, sampling=sampling, **DRAW)
    assert torch.equal(sample_times(ids, sampling=sampling, blocks=torch.zeros(5, 2).long(), **DRAW)[:, 1], whole)


@pytest.mark.parametrize("number", [2, 5, 12, 33])
def test_times_of_consecutive_blocks_leave_no_wide_gap(number: int) -> None:
    times = sample_times(torch.tensor([7]), blocks=torch.arange(60)[None], **DRAW)[0]
    for window in times.unfold(0, number, 1).sort(-1).values:
        gaps = torch.cat([window.diff(), window[:1] + 1 - window[-1:]])
        assert gaps.max() <= 3 / number


def test_a_bell_has_its_distribution_and_its_density() -> None:
    """20,000 evenly spread draws: the distribution function 3 x^2 - 2 x^3 is met within a thousandth."""
    interval = {"epsilon": 0.2, "largest": 0.7}
    times = sample_times(torch.arange(20_000), sampling="bell", **interval, **DRAW)
    assert times.min() >= 0.2 and times.max() < 0.7
    for x in (0.1, 0.35, 0.5, 0.8):
        share = (times < 0.2 + 0.5 * x).float().mean().item()
        assert share == pytest.approx(3 * x**2 - 2 * x**3, abs=1e-3)
    # Divided by the density, a mean is the mean over uniform times: of t that is 0.45.
    density = time_density(times, sampling="bell", **interval)
    assert (times / density).mean().item() == pytest.approx(0.45, abs=0.005)
    assert time_density(times, sampling="independent", **interval) == 1


def test_block_sizes_are_drawn_equally_often_and_again_the_same() -> None:
    """6,000 draws of one in three: 0.03 is five standard errors."""
    choices = [4, 8, 32]
    rows = sample_block_sizes(choices, seed=1, step=0, example_ids=torch.arange(6000))
    steps = torch.tensor([sample_block_sizes(choices, seed=1, step=step) for step in range(600)])
    for size in choices:
        assert (rows == size).float().mean().item() == pytest.approx(1 / 3, abs=0.03)
        assert (steps == size).float().mean().item() == pytest.approx(1 / 3, abs=0.1)
    assert torch.equal(rows[40:50], sample_block_sizes(choices, seed=1, step=0, example_ids=torch.arange(40, 50)))
    assert not torch.equal(rows, sample_block_sizes(choices, seed=2, step=0, example_ids=torch.arange(6000)))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"time_sampling": "bell"},
        {"time_sampling": "independent", "time_epsilon": 0.3, "time_max": 0.8},
        {"complementary_masks": True},
        {"complementary_masks": True, "time_sampling": "bell", "loss_weighting": "uniform"},
    ],
)
@pytest.mark.parametrize("has_blocks", [False, True])
def test_a_token_weighs_one_in_the_bound_on_average(options: dict, has_blocks: bool, tmp_path: Path) -> None:
    """
    E[w(t) m(t)] is 1 at every time, over the times drawn, whatever their density: 0.06 is three standard errors of
    the bell, whose density vanishes at both ends, and many of the others. In a pair of masks every token has its
    turn, so that the loss weighs it once.
    """
    args = MaskedDiffusionConfig(str(tmp_path), use_cpu=True, **({"time_epsilon": 0.05} | options))
    number = 16_000
    example_ids = torch.arange(number).repeat(2 if args.complementary_masks else 1)
    ids = torch.ones(len(example_ids), 6, dtype=torch.int64)
    blocks = torch.arange(6).expand_as(ids) // 2 if has_blocks else None
    supervised = torch.ones_like(ids, dtype=torch.bool)
    rows = add_noise(ids, supervised, example_ids, args, mask_token_id=9, blocks=blocks, **DRAW)
    assert torch.equal(rows.input_ids == 9, rows.masked)
    assert (rows.bound * rows.masked).sum().item() / number == pytest.approx(6, abs=6 * 0.06)
    if args.complementary_masks:
        first, second = rows.masked.chunk(2)
        assert (first ^ second).all()
    if args.complementary_masks and args.loss_weighting == "uniform":
        assert (rows.weights * rows.masked).sum() == 6 * number
