"""
Three ways to the likelihood of text under a masked diffusion model, and their draws. `B` rows (one draw of one text
each), `L` positions, `S` scored tokens of a text, `K` draws, `N` predicted positions.

`"masked_count"`: the bound by the number of masked tokens, with which LLaDA (arXiv 2502.09992) is evaluated:

    -log p(x | c) <= E_{l ~ U{1..S}} E_{l of S tokens masked} S / l sum_{masked} CE

`"continuous_time"`: the same bound over the time, each token masked with probability t, as in training:

    -log p(x | c) <= E_{t ~ U(0, 1)} E_{masked ~ t} 1 / t sum_{masked} CE

`"chain"`: no bound but a chain of conditionals, exact for the model that writes from left to right, one token a
forward, with masks for all that follows:

    -log p(x | c) = sum_i CE(x_i | c, x_<i, masks)

The expectations of the first two are equal (arXiv 2406.03736). Draws are stratified: the k-th of `K` has
`u in [k / K, (k + 1) / K)`, where `u` is the time, or chooses the number `l = 1 + floor(u S)`.

At small times nearly every draw of the second masks nothing, and a rare one has a weight without bound: the variance
would be infinite, and the spread of the draws would not show it. The first stratum is therefore drawn given that at
least one token is masked, of which the probability `1 - (1 - t)^S` is known: the same expectation, with a weight
`(1 - (1 - t)^S) / t` of at most `S`.

Probabilities are those of decoding: the mask token, which is never written, has none (in the losses of training it has
its share, as published).
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hf_latent.data.corruption import MASK_SCHEDULES, corrupt, sample_noise, sample_times, weigh
from hf_latent.evaluation.scoring.encoding import ScoredText
from hf_latent.generation.arguments.devices import find_device
from hf_latent.modeling.mode import in_evaluation_mode

ESTIMATORS = ("masked_count", "continuous_time", "chain")


class Draw(NamedTuple):
    """What is masked and what of it is predicted, bool `[B, L]` each, and the weight `[B]` of its cross entropy."""

    masked: torch.Tensor
    read: torch.Tensor
    weights: torch.Tensor


def draw(
    estimator: str, keys: torch.Tensor, scored: torch.Tensor, number: torch.Tensor, *, num_samples: int, seed: int
) -> Draw:
    """
    The `number`-th draw of each row: a function of (seed, key, number, rank among the scored tokens), whatever the
    batch.

    Args:
        keys (`torch.LongTensor` of shape `(B,)`): identities of the texts.
        scored (`torch.BoolTensor` of shape `(B, L)`): tokens that may be masked.
        number (`torch.LongTensor` of shape `(B,)`): from 0 to `num_samples - 1`, or, for `"chain"`, to `S - 1`.
    """
    rank = scored.cumsum(-1) - 1  # [B, L]
    if estimator == "chain":
        at = number[:, None]
        return Draw(scored & (rank >= at), scored & (rank == at), torch.ones(len(keys), dtype=torch.float64))
    epoch = -1 - number  # below 0: never the noise of training
    u = sample_times(keys, seed=seed, epoch=epoch, sampling="independent").double()  # [B]
    u = (number + u) / num_samples
    noise = sample_noise(keys, scored, seed=seed, epoch=epoch)  # [B, L]
    if estimator == "continuous_time":
        first = number == 0
        noise = torch.where(first[:, None], given_a_mask(noise, scored, u), noise.double())
        probability = MASK_SCHEDULES["linear"].mask_probability(u)
        masked = corrupt(torch.zeros_like(rank), scored, probability, noise, mask_token_id=1).masked
        return Draw(masked, masked, weigh(u) * torch.where(first, any_below(u, scored.sum(-1)), 1.0))
    length = scored.sum(-1)  # [B]
    count = ((u * length).floor().long() + 1).minimum(length)
    order = noise.masked_fill(~scored, float("inf")).argsort(dim=-1, stable=True).argsort(dim=-1)
    masked = scored & (order < count[:, None])
    return Draw(masked, masked, length / count.double())


def any_below(x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """Probability `[B]` that the least of `count` uniform numbers is below `x`, both `[B]`: 1 - (1 - x)^count."""
    return -torch.expm1(count * torch.log1p(-x))


def given_a_mask(noise: torch.Tensor, scored: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
    """
    Uniform `noise` `[B, L]` made such that at least one of the `scored` is below the time `[B]`, as if those rows were
    all that had been drawn: float64.

    The least is moved by its distribution function to where it is, given that; the others, uniform above it, follow.
    """
    noise, count = noise.double().masked_fill(~scored, 1.0), scored.sum(-1)
    least, place = noise.min(-1, keepdim=True)  # [B, 1]
    share = any_below(least.squeeze(-1), count) * any_below(times, count)
    moved = -torch.expm1(torch.log1p(-share) / count)[:, None]  # [B, 1]
    others = moved + (1 - moved) * (noise - least) / (1 - least)
    return others.scatter(-1, place, moved)


def check_estimator(estimator: str, num_samples: int) -> None:
    """Raise `ValueError` for an unknown estimator or no draws."""
    if estimator not in ESTIMATORS:
        raise ValueError(f"`estimator` must be one of {ESTIMATORS}, got {estimator!r}.")
    if not isinstance(num_samples, int) or isinstance(num_samples, bool) or num_samples < 1:
        raise ValueError(f"`num_samples` must be an integer of at least 1, got {num_samples!r}.")


def check_texts(model: PreTrainedModel, texts: Sequence[ScoredText]) -> None:
    """Raise `ValueError` for texts that `model` cannot score: a mask among the tokens, nothing to score, too long."""
    mask, limit = mask_token_id(model), getattr(model.config, "max_position_embeddings", None)
    for number, text in enumerate(texts):
        if mask in text.ids:
            raise ValueError(f"Text {number} holds the mask token ({mask}).")
        if not any(text.scored):
            raise ValueError(f"Text {number} has no token to score.")
        if limit is not None and len(text.ids) > limit:
            raise ValueError(
                f"Text {number} has {len(text.ids)} tokens, more than the {limit} positions of the model."
            )


def mask_token_id(model: PreTrainedModel) -> int:
    """The mask of `model`; `ValueError` if its configuration names none."""
    mask = getattr(model.config, "mask_token_id", None)
    if mask is None:
        raise ValueError("`model.config.mask_token_id` must name the mask token, got None.")
    return int(mask)


def batch_rows(
    texts: Sequence[ScoredText], rows: Sequence[tuple[int, int]]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, existing and scored positions `[B, L]`, keys and numbers `[B]` of rows (text, number), padded right."""
    chosen = [texts[i] for i, _ in rows]
    ids = pad_sequence([torch.tensor(text.ids) for text in chosen], batch_first=True)
    scored = pad_sequence([torch.tensor(text.scored) for text in chosen], batch_first=True)
    lengths = torch.tensor([len(text.ids) for text in chosen])
    exists = torch.arange(ids.shape[1]) < lengths[:, None]
    return ids, exists, scored, torch.tensor([text.key for text in chosen]), torch.tensor([k for _, k in rows])


@in_evaluation_mode
@torch.no_grad()
def predict(
    model: PreTrainedModel, ids: torch.Tensor, exists: torch.Tensor, masked: torch.Tensor, read: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross entropy `[N]` (float32, nats) of `ids` at `read`, with masks at `masked`, and whether it is the argmax."""
    device = find_device(model)
    inputs = {"input_ids": ids.masked_fill(masked, mask_token_id(model)).to(device)}
    if not exists.all():
        inputs["attention_mask"] = exists.long().to(device)
    at = tuple(index.to(device) for index in read.nonzero(as_tuple=True))
    logits = model(**inputs, logits_to_keep=at).logits  # [N, V]
    logits = logits.float()
    logits[:, mask_token_id(model)] = float("-inf")  # never written
    targets = ids[read].to(logits.device)
    nll = F.cross_entropy(logits, targets, reduction="none")
    return nll.cpu(), (logits.argmax(-1) == targets).cpu()


def chunks(rows: Sequence[tuple[int, int]], texts: Sequence[ScoredText], size: int) -> Iterator[list[tuple[int, int]]]:
    """Batches of rows of similar length, the longest first: what does not fit in memory fails at once."""
    ordered = sorted(rows, key=lambda row: -len(texts[row[0]].ids))
    for first in range(0, len(ordered), size):
        yield ordered[first : first + size]


@in_evaluation_mode
def estimate(
    model: PreTrainedModel,
    texts: Sequence[ScoredText],
    *,
    estimator: str = "masked_count",
    num_samples: int = 32,
    seed: int = 0,
    batch_size: int = 32,
    on_batch: Callable[[int], None] | None = None,
) -> list[torch.Tensor]:
    """
    The draws of -log p of each text, in nats: float64 `[K]` for the bounds, whose mean is the estimate; `[S]` for
    `"chain"`, whose sum is it. Logits exist for predicted positions only.

    Args:
        batch_size (`int`): rows of a forward; changes no result beyond float reordering.
        on_batch: called with the number of draws done since the last call.
    """
    check_estimator(estimator, num_samples)
    check_texts(model, texts)
    counts = [sum(text.scored) if estimator == "chain" else num_samples for text in texts]
    nats = [torch.zeros(count, dtype=torch.float64) for count in counts]
    rows = [(i, k) for i, count in enumerate(counts) for k in range(count)]
    for batch in chunks(rows, texts, batch_size):
        ids, exists, scored, keys, number = batch_rows(texts, batch)
        drawn = draw(estimator, keys, scored, number, num_samples=num_samples, seed=seed)
        open_ = drawn.read.any(-1)  # a draw without masks is worth 0 and needs no forward
        if open_.any():
            nll, _ = predict(model, ids[open_], exists[open_], drawn.masked[open_], drawn.read[open_])
            row = drawn.read.nonzero()[:, 0]
            sums = torch.zeros(len(batch), dtype=torch.float64).index_add_(0, row, nll.double())
            for (i, k), value in zip(batch, (sums * drawn.weights).tolist(), strict=True):
                nats[i][k] = value
        if on_batch is not None:
            on_batch(len(batch))
    return nats


@in_evaluation_mode
def would_write(model: PreTrainedModel, texts: Sequence[ScoredText], *, batch_size: int = 32) -> list[bool]:
    """
    Whether greedy decoding from left to right, one token a forward, writes exactly the scored tokens of each text.

    A text is given up at the first token that is another.
    """
    check_texts(model, texts)
    lengths = [sum(text.scored) for text in texts]
    alive = [True] * len(texts)
    for step in range(max(lengths, default=0)):
        rows = [(i, step) for i, length in enumerate(lengths) if alive[i] and step < length]
        for batch in chunks(rows, texts, batch_size):
            ids, exists, scored, keys, number = batch_rows(texts, batch)
            drawn = draw("chain", keys, scored, number, num_samples=1, seed=0)
            _, right = predict(model, ids, exists, drawn.masked, drawn.read)
            for (i, _), is_right in zip(batch, right.tolist(), strict=True):
                alive[i] = is_right
    return alive


__all__ = ["ESTIMATORS", "Draw", "check_estimator", "draw", "estimate", "would_write"]
