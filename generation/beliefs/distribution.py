"""
Softmax, entropy and Kullback-Leibler divergence over a vocabulary, without what need not be computed.

`N` positions, `V` vocabulary.
"""

from dataclasses import dataclass

import torch

# Rows of the vocabulary are worked on so many elements at a time: on a CPU as many as stay in its cache, elsewhere as
# many as there is room for.
ELEMENTS_AT_ONCE, ELEMENTS_ELSEWHERE = 2**17, 2**24
# Those of a part of a `Distribution`, with which dozens of operations are done.
ELEMENTS_OF_A_PART = 2**18
# Log-probabilities below are as good as impossible; a floor spares the arithmetic of infinities.
LEAST_LOG_PROBABILITY = -1e4


@dataclass(frozen=True)
class Distribution:
    """
    Probabilities `p` and log-probabilities `score - log_normalizer`, in float32.

    Args:
        score (`torch.FloatTensor` of shape `(N, V)`): logits less the row's maximum, bounded from below.
        p (`torch.FloatTensor` of shape `(N, V)`): their softmax.
        log_normalizer (`torch.FloatTensor` of shape `(N,)`): logarithm of the sum of their exponentials, in nats.
        mean_score (`torch.FloatTensor` of shape `(N,)`): expectation of the score, in nats.
        block_max (`torch.FloatTensor` of shape `(N, V / 64)`, *optional*): see `block_maxima`; of the logits.
    """

    score: torch.Tensor
    p: torch.Tensor
    log_normalizer: torch.Tensor
    mean_score: torch.Tensor
    block_max: torch.Tensor | None

    def __len__(self) -> int:
        return len(self.score)

    @property
    def entropy(self) -> torch.Tensor:
        """In nats `(N,)`, that of `entropy_of` to the bit."""
        return self.log_normalizer - self.mean_score

    def split(self) -> "list[Distribution]":
        """Views of a few positions each."""
        size = _rows(self.score, ELEMENTS_OF_A_PART)
        if len(self) <= size:
            return [self]
        fields = [None if value is None else value.split(size) for value in vars(self).values()]
        count = len(fields[0] or ())
        return [Distribution(*(None if field is None else field[i] for field in fields)) for i in range(count)]


def distribution_of(logits: torch.Tensor, best: torch.Tensor, block_max: torch.Tensor | None) -> Distribution:
    """
    The distribution of `logits` `(N, V)`, float32 with possible -inf, which are overwritten with its scores, given the
    rows' largest `(N, 1)` and `block_maxima(logits)`.
    """
    p = torch.empty_like(logits)
    log_normalizers, means = [], []
    for part, target, largest in zip(*_split(logits, p, best), strict=True):
        torch.softmax(part, -1, out=target)
        score = part.sub_(largest).clamp_(min=LEAST_LOG_PROBABILITY)
        log_normalizers.append(_log_normalizer(target))
        means.append((target * score).sum(-1))
    return Distribution(logits, p, concatenate(log_normalizers), concatenate(means), block_max)


def entropy_of(logits: torch.Tensor, best: torch.Tensor | None = None, overwrite: bool = False) -> torch.Tensor:
    """
    Entropy in nats of softmax(`logits`), `(N, V)` float32 with possible -inf to `(N,)`.

    `log Z - sum_v p_v s_v` with scores `s` that are 0 at the largest: no second exponential, as of a log-softmax.

    Args:
        best: the rows' largest `(N, 1)`, if known.
        overwrite: whether `logits` may become scores, as in a `Distribution`; the same entropies to the bit.
    """
    best = logits.amax(-1, keepdim=True) if best is None else best
    entropies = []
    # A few rows at a time: temporaries of a 126k vocabulary would cost more than the arithmetic.
    for part, largest in zip(*_split(logits, best), strict=True):
        p = part.softmax(-1)  # on a CPU quicker than `exp` alone
        score = part.sub_(largest) if overwrite else part - largest
        log_normalizer = _log_normalizer(p)
        entropies.append(log_normalizer - p.mul_(score.clamp_(min=LEAST_LOG_PROBABILITY)).sum(-1))
    return concatenate(entropies)


def kl_divergence(now: Distribution, score: torch.Tensor, log_normalizer: torch.Tensor) -> torch.Tensor:
    """KL(`now` || another) in nats `(N,)`, of another's score `(N, V)` and log_total `(N,)`; 0 of the same."""
    cross = torch.linalg.vecdot(now.p, score)
    return (now.mean_score - cross + (log_normalizer - now.log_normalizer)).clamp_(min=0.0)


def js_divergence(now: Distribution, score: torch.Tensor, log_normalizer: torch.Tensor) -> torch.Tensor:
    """
    Jensen-Shannon divergence in nats `(N,)`, at most log 2, of `now` and another of this score `(N, V)` and
    log_normalizer `(N,)`: the entropy of their mean less the mean of their entropies.
    """
    p = (score - log_normalizer[:, None]).exp_()
    entropy = log_normalizer - torch.linalg.vecdot(p, score)
    mean = p.add_(now.p).mul_(0.5)
    return (-torch.special.xlogy(mean, mean).sum(-1) - 0.5 * (entropy + now.entropy)).clamp_(min=0.0)


def _log_normalizer(p: torch.Tensor) -> torch.Tensor:
    # The score of the most likely token is 0: its probability is 1 / total.
    return p.amax(-1).log_().neg_()


def concatenate(parts: list[torch.Tensor]) -> torch.Tensor:
    """`torch.cat(parts)`, without a copy of a single one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _split(values: torch.Tensor, *others: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
    """Tensors `(N, ...)`, the first `(N, V)`, in parts of a few rows each."""
    size = _rows(values, ELEMENTS_AT_ONCE)
    if values.shape[0] <= size:
        return [(tensor,) for tensor in (values, *others)]
    return [tensor.split(size) for tensor in (values, *others)]


def _rows(values: torch.Tensor, num_elements: int) -> int:
    """How many rows of `(N, V)` have so many elements."""
    return max(1, (num_elements if values.is_cpu else ELEMENTS_ELSEWHERE) // values.shape[-1])


__all__ = ["Distribution", "concatenate", "distribution_of", "entropy_of", "js_divergence", "kl_divergence"]
