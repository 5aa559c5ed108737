"""The objective against enumeration, closed forms and hand-computed sums."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_latent.generation.state.noise import mix
from hf_latent.training.common.objectives import (
    LOSS_WEIGHTINGS,
    MASK_SCHEDULES,
    corrupt,
    count_items,
    masked_diffusion_loss,
    normalize_rows,
    sample_noise,
    sample_times,
    weigh,
)

MASK, LENGTH, VOCABULARY = 3, 3, 4  # three tokens and the mask


def table_logits(input_ids: torch.Tensor) -> torch.Tensor:
    """A "model" of ten lines: an arbitrary table from noisy rows `[B, 3]` to logits `[B, 3, 4]`."""
    table = 2 * torch.randn(VOCABULARY**LENGTH, LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(1))
    return table[(input_ids * VOCABULARY ** torch.arange(LENGTH)).sum(-1)]


def enumerate_masks(clean: torch.Tensor) -> list[tuple[int, float]]:
    """`(number of masked positions, sum of their cross entropies)` of every non-empty mask of `clean`."""
    found = []
    for bits in itertools.product((False, True), repeat=LENGTH):
        masked = torch.tensor(bits)
        log_p = table_logits(clean.masked_fill(masked, MASK)[None])[0].double().log_softmax(-1)
        if masked.any():
            found.append((int(masked.sum()), -sum(log_p[i, clean[i]].item() for i in range(LENGTH) if bits[i])))
    return found


def exact_bound(clean: torch.Tensor) -> float:
    """
    Negative ELBO by enumeration: with `u = m(t)`, `int m'/m m^k (1-m)^(L-k) dt = int u^(k-1) (1-u)^(L-k) du`
    `= (k-1)! (L-k)! / L!`, which is also that of a uniformly random generation order (arXiv 2502.09992, eq. 6).
    """
    weight = {k: math.factorial(k - 1) * math.factorial(LENGTH - k) / math.factorial(LENGTH) for k in (1, 2, 3)}
    return sum(weight[k] * ce for k, ce in enumerate_masks(clean))


def exact_uniform(clean: torch.Tensor) -> float:
    """`E_t sum_masked CE` under the linear schedule: `int t^k (1-t)^(L-k) dt = k! (L-k)! / (L+1)!`."""
    return sum(
        math.factorial(k) * math.factorial(LENGTH - k) / math.factorial(LENGTH + 1) * ce
        for k, ce in enumerate_masks(clean)
    )


def estimate(clean: torch.Tensor, num: int, **options: str) -> tuple[float, float]:
    """Mean over `num` examples of the loss per row, and its standard error, through the functions under test."""
    ids = torch.arange(num)
    input_ids = clean.expand(num, LENGTH)
    maskable = torch.ones_like(input_ids, dtype=torch.bool)
    times = sample_times(ids, seed=0, epoch=0, sampling=options.get("sampling", "independent"))
    schedule = options.get("schedule", "linear")
    noise = sample_noise(ids, maskable, seed=0, epoch=0)
    noisy, masked = corrupt(input_ids, maskable, MASK_SCHEDULES[schedule].mask_probability(times), noise, MASK)
    weights = weigh(times, schedule=schedule, weighting=options.get("weighting", "nelbo"))
    row = masked.nonzero()[:, 0]
    score = masked_diffusion_loss(table_logits(noisy)[masked], input_ids[masked], weights[row], num)
    per_row = torch.zeros(num).index_add_(0, row, weights[row] * score.nll)
    torch.testing.assert_close(per_row.mean(), score.loss)
    return score.loss.item(), per_row.std().item() / math.sqrt(num)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("sampling", ["independent", "antithetic", "low_discrepancy"])
def test_expected_loss_is_the_exact_bound_of_every_schedule(schedule: str, sampling: str) -> None:
    """A wrong weight, a wrong schedule or a forced mask shows here. 5 standard errors: chance failure below 1e-6, and
    the noise is a fixed hash."""
    clean = torch.tensor([0, 2, 1])
    loss, error = estimate(clean, 100_000, schedule=schedule, sampling=sampling)
    assert error < 0.03 * exact_bound(clean)
    assert abs(loss - exact_bound(clean)) < 5 * error


def test_expected_uniform_loss_is_exact() -> None:
    clean = torch.tensor([1, 1, 2])
    loss, error = estimate(clean, 100_000, weighting="uniform")
    assert abs(loss - exact_uniform(clean)) < 5 * error


@pytest.mark.parametrize("name", sorted(MASK_SCHEDULES))
def test_weight_of_a_schedule_is_the_derivative_of_its_log(name: str) -> None:
    """`w = m' / m = (log m)'`, by automatic differentiation; and the schedule runs from 0 to 1."""
    schedule = MASK_SCHEDULES[name]
    times = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(schedule.mask_probability(times).log().sum(), times)
    torch.testing.assert_close(schedule.nelbo_weight(times.detach()), expected)
    torch.testing.assert_close(schedule.mask_probability(torch.tensor([0.0, 1.0])), torch.tensor([0.0, 1.0]))


def test_inverse_t_is_the_bound_of_the_linear_schedule_only() -> None:
    times = torch.tensor([0.25, 0.5])
    assert weigh(times, weighting="inverse_t").tolist() == [4.0, 2.0]
    assert torch.equal(weigh(times, weighting="inverse_t"), weigh(times, weighting="nelbo"))
    with pytest.raises(ValueError, match="'inverse_t' with schedule 'cosine'"):
        weigh(times, schedule="cosine", weighting="inverse_t")


@pytest.mark.parametrize("weighting", LOSS_WEIGHTINGS)
def test_weights_are_finite_at_time_zero(weighting: str) -> None:
    assert weigh(torch.zeros(1), weighting=weighting).isfinite().all()


def test_hash_is_splitmix64() -> None:
    """The first outputs of SplitMix64 for seed 1234567, as published with the generator (Rosetta Code)."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    states = 1234567 + torch.arange(1, 5) * (0x9E3779B97F4A7C15 - 2**64)
    assert [value % 2**64 for value in mix(states).tolist()] == expected


def test_noise_is_uniform_and_uncorrelated_between_positions_examples_epochs_and_seeds() -> None:
    """Kolmogorov-Smirnov distance and correlations of 64,000 numbers, at 5 standard errors."""
    maskable = torch.ones(1000, 64, dtype=torch.bool)
    noise = sample_noise(torch.arange(1000), maskable, seed=0, epoch=0)
    flat = noise.flatten().sort().values.double()
    bound = 5 / math.sqrt(flat.numel())
    assert (flat - (torch.arange(flat.numel()) + 0.5) / flat.numel()).abs().max() < bound / 2
    others = {
        "position": noise.roll(1, 1),
        "example": noise.roll(1, 0),
        "epoch": sample_noise(torch.arange(1000), maskable, seed=0, epoch=1),
        "evaluation": sample_noise(torch.arange(1000), maskable, seed=0, epoch=-1),
        "seed": sample_noise(torch.arange(1000), maskable, seed=1, epoch=0),
        "time": sample_times(torch.arange(1000), seed=0, epoch=0)[:, None].expand_as(noise),
    }
    for name, other in others.items():
        correlation = torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1].abs()
        assert correlation < bound, name


@given(
    lengths=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    left=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    right=st.integers(0, 4),
    order=st.randoms(use_true_random=False),
)
def test_noise_of_an_example_depends_on_neither_padding_nor_batch(lengths, left, right, order) -> None:
    ids = list(range(40, 40 + len(lengths)))
    width = 13 + right
    maskable = torch.zeros(len(lengths), width, dtype=torch.bool)
    for i, length in enumerate(lengths):
        maskable[i, left[i] : left[i] + length] = True
    shuffled = order.sample(range(len(lengths)), len(lengths))
    noise = sample_noise(torch.tensor(ids)[shuffled], maskable[shuffled], seed=3, epoch=2)
    for place, i in enumerate(shuffled):
        alone = torch.ones(1, lengths[i], dtype=torch.bool)
        expected = sample_noise(torch.tensor([ids[i]]), alone, seed=3, epoch=2)[0]
        assert torch.equal(noise[place][maskable[i]], expected)


@pytest.mark.parametrize("axis", ["examples", "epochs"])
@pytest.mark.parametrize("num", [2, 7, 64, 1000])
def test_low_discrepancy_times_leave_no_wide_gap(axis: str, num: int) -> None:
    """2.1 / n, as documented. Independent times leave gaps of about log(n) / n: 6.9 / n for 1000."""
    times = []
    for i in range(num):
        example, epoch = (500 + i, 3) if axis == "examples" else (500, i)
        times.append(sample_times(torch.tensor([example]), seed=1, epoch=epoch).item())
    ordered = sorted(times)
    gaps = [b - a for a, b in itertools.pairwise([*ordered, ordered[0] + 1])]
    assert max(gaps) < 2.1 / num


@pytest.mark.parametrize("sampling", ["independent", "antithetic", "low_discrepancy"])
def test_times_respect_epsilon_and_do_not_depend_on_the_batch(sampling: str) -> None:
    ids = torch.tensor([5, 2**40, 17])
    times = sample_times(ids, seed=0, epoch=4, sampling=sampling, epsilon=0.25)
    assert ((times >= 0.25) & (times < 1)).all()
    alone = [sample_times(ids[i : i + 1], seed=0, epoch=4, sampling=sampling, epsilon=0.25) for i in range(3)]
    assert torch.equal(times, torch.cat(alone))
    with pytest.raises(ValueError, match="'sobol'"):
        sample_times(ids, seed=0, epoch=0, sampling="sobol")


@given(
    maskable=st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4),
    probability=st.floats(0, 1),
    seed=st.integers(0, 2**63 - 1),
)
def test_only_maskable_tokens_change_and_only_into_the_mask(maskable, probability: float, seed: int) -> None:
    maskable = torch.tensor(maskable)
    ids = torch.arange(maskable.numel()).view(maskable.shape) + 100
    noise = sample_noise(torch.arange(len(maskable)), maskable, seed=seed, epoch=0)
    noisy, masked = corrupt(ids, maskable, torch.full((len(maskable),), probability), noise, MASK)
    assert not (masked & ~maskable).any()
    assert torch.equal(noisy[~masked], ids[~masked])
    assert (noisy[masked] == MASK).all()
    if probability in (0, 1):
        assert torch.equal(masked, maskable & (probability == 1))


def test_loss_equals_the_sum_written_out_by_hand() -> None:
    """p = (1/4, 3/4) and (1/2, 1/2); weights 2 and 3; four items."""
    logits = torch.tensor([[0.0, math.log(3)], [5.0, 5.0]], requires_grad=True)
    score = masked_diffusion_loss(logits, torch.tensor([0, 1]), torch.tensor([2.0, 3.0]), 4)
    assert score.loss.item() == pytest.approx((2 * math.log(4) + 3 * math.log(2)) / 4)
    assert score.nll.tolist() == pytest.approx([math.log(4), math.log(2)])
    assert score.correct.tolist() == [False, False]  # a tie goes to the first token
    score.loss.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[-0.375, 0.375], [0.375, -0.375]]))


def test_an_empty_batch_gives_a_finite_zero_with_a_graph() -> None:
    """Truncation that leaves nothing to supervise gave 0 / 0 elsewhere (trl pull request 6003)."""
    logits = torch.zeros(0, 7, requires_grad=True)
    score = masked_diffusion_loss(logits, torch.zeros(0, dtype=torch.long), torch.zeros(0), torch.tensor(0))
    score.loss.backward()
    assert score.loss.item() == 0
    assert logits.grad.shape == (0, 7)


def test_cross_entropy_of_half_precision_logits_is_computed_in_float32() -> None:
    logits = torch.randn(50, 30, generator=torch.Generator().manual_seed(0)).bfloat16()
    targets = torch.arange(50) % 30
    half = masked_diffusion_loss(logits, targets, torch.ones(50), 50)
    full = masked_diffusion_loss(logits.float(), targets, torch.ones(50), 50)
    assert half.loss.dtype == torch.float32
    assert torch.equal(half.loss, full.loss)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [("token", (1 + 2 + 6) / 4), ("sequence", ((1 + 2) / 3 + 6 / 1) / 2), ("batch", (1 + 2 + 6) / 2)],
)
def test_normalizations_by_hand(normalization: str, expected: float) -> None:
    """Three rows with 3, 1 and 0 supervised tokens; losses 1 and 2 in the first, 6 in the second."""
    supervised = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 0, 0]], dtype=torch.bool)
    weights = normalize_rows(torch.ones(3), supervised, normalization)
    summed = (weights[torch.tensor([0, 0, 1])] * torch.tensor([1.0, 2.0, 6.0])).sum()
    assert (summed / count_items(supervised, normalization).sum()).item() == pytest.approx(expected)


def test_antithetic_times_mirror_each_other() -> None:
    times = sample_times(torch.arange(1000), seed=3, epoch=1, sampling="antithetic")
    assert torch.equal(times[0::2] + times[1::2], torch.full((500,), 1 - 2.0**-24))
    assert len(times.unique()) > 990
