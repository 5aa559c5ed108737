"""
Three ways to the likelihood of text under a masked diffusion model. `B` rows (one draw of one text each), `L`
positions, `S` scored tokens of a text, `K` draws, `N` predicted positions.

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

A model with block-causal attention (arXiv 2503.09573) writes a text block by block, each given those before it, so
that log p is a sum over the blocks, and exactly so:

    log p(x | c) = sum_b log p(x_b | c, x_<b)

Each of the three is then that of every block by itself, given the blocks before it without noise. One forward reads
all blocks, as `[x_t | x_0]`; for families whose state predicts the next token two do, of every other block each, since
a block's first token is read from the block before, which has to be as it is when it is written: finished.

Probabilities are those of decoding: the mask token, which is never written, has none (in the losses of training it has
its share, as published).
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from hf_latent.evaluation.scoring.draws import ESTIMATORS, draw, draw_in_blocks
from hf_latent.evaluation.scoring.encoding import ScoredText
from hf_latent.generation.arguments.devices import find_device
from hf_latent.modeling.mode import in_evaluation_mode


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
    size = block_size_of(model)
    if size is None:
        return _predict(model, ids, exists, masked, read)
    if not getattr(model, "reads_previous_state", False):
        return _predict(model, ids, exists, masked, read, clean=True)
    nll, right = torch.zeros(read.shape), torch.zeros_like(read)
    is_odd = torch.arange(ids.shape[1]) // size % 2 == 1
    for half in (is_odd, ~is_odd):
        if (read & half).any():
            nll[read & half], right[read & half] = _predict(model, ids, exists, masked & half, read & half, clean=True)
    return nll[read], right[read]


def _predict(
    model: PreTrainedModel,
    ids: torch.Tensor,
    exists: torch.Tensor,
    masked: torch.Tensor,
    read: torch.Tensor,
    clean: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As [`predict`], in one forward; with `clean`, of `[x_t | x_0]`."""
    device = find_device(model)
    inputs = {"input_ids": ids.masked_fill(masked, mask_token_id(model)).to(device)}
    if clean:
        inputs["clean_ids"] = ids.to(device)
    if not exists.all():
        inputs["attention_mask"] = exists.long().to(device)
    at = tuple(index.to(device) for index in read.nonzero(as_tuple=True))
    logits = model(**inputs, logits_to_keep=at).logits  # [N, V]
    logits = logits.float()
    logits[:, mask_token_id(model)] = float("-inf")  # never written
    targets = ids[read].to(logits.device)
    nll = F.cross_entropy(logits, targets, reduction="none")
    return nll.cpu(), (logits.argmax(-1) == targets).cpu()


def block_size_of(model: PreTrainedModel) -> int | None:
    """Positions of a block of a model with block-causal attention; None for others."""
    return int(model.config.block_size) if getattr(model, "is_block_causal", False) else None


def chain_length(text: ScoredText, block_size: int | None) -> int:
    """Forwards in which a chain reads all scored tokens of `text`: one each, or one of every block in each."""
    size = len(text.ids) if block_size is None else block_size
    return max(sum(text.scored[start : start + size]) for start in range(0, len(text.ids), size))


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
    `"chain"`, whose sum is it, or of block-causal models one for each token of a block. Logits exist for predicted
    positions only.

    Args:
        batch_size (`int`): rows of a forward; changes no result beyond float reordering.
        on_batch: called with the number of draws done since the last call.
    """
    check_estimator(estimator, num_samples)
    check_texts(model, texts)
    size = block_size_of(model)
    counts = [chain_length(text, size) if estimator == "chain" else num_samples for text in texts]
    nats = [torch.zeros(count, dtype=torch.float64) for count in counts]
    rows = [(i, k) for i, count in enumerate(counts) for k in range(count)]
    for batch in chunks(rows, texts, batch_size):
        ids, exists, scored, keys, number = batch_rows(texts, batch)
        sampling = {"num_samples": num_samples, "seed": seed}
        if size is None:
            drawn = draw(estimator, keys, scored, number, **sampling)
        else:
            drawn = draw_in_blocks(estimator, keys, scored, number, block_size=size, **sampling)
        open_ = drawn.read.any(-1)  # a draw without masks is worth 0 and needs no forward
        if open_.any():
            nll, _ = predict(model, ids[open_], exists[open_], drawn.masked[open_], drawn.read[open_])
            row = drawn.read.nonzero()[:, 0]
            weighted = nll.double() * drawn.weights.expand(drawn.read.shape)[drawn.read]
            sums = torch.zeros(len(batch), dtype=torch.float64).index_add_(0, row, weighted)
            for (i, k), value in zip(batch, sums.tolist(), strict=True):
                nats[i][k] = value
        if on_batch is not None:
            on_batch(len(batch))
    return nats


@in_evaluation_mode
def would_write(model: PreTrainedModel, texts: Sequence[ScoredText], *, batch_size: int = 32) -> list[bool]:
    """
    Whether greedy decoding from left to right, one token a forward, writes exactly the scored tokens of each text.

    A text is given up at the first token that is another; of block-causal models all blocks are read at once.
    """
    check_texts(model, texts)
    size = block_size_of(model)
    lengths = [chain_length(text, size) for text in texts]
    alive = [True] * len(texts)
    for step in range(max(lengths, default=0)):
        rows = [(i, step) for i, length in enumerate(lengths) if alive[i] and step < length]
        for batch in chunks(rows, texts, batch_size):
            ids, exists, scored, keys, number = batch_rows(texts, batch)
            drawn = draw_in_blocks(
                "chain", keys, scored, number, block_size=size or ids.shape[1], num_samples=1, seed=0
            )
            _, right = predict(model, ids, exists, drawn.masked, drawn.read)
            for place, is_right in zip(drawn.read.nonzero()[:, 0].tolist(), right.tolist(), strict=True):
                alive[batch[place][0]] &= is_right
    return alive


__all__ = ["ESTIMATORS", "block_size_of", "chain_length", "check_estimator", "estimate", "would_write"]
