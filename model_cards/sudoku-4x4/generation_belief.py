# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""
What the loop reads from logits: candidate, confidence, entropy, margin.

`N` selected positions, `V` vocabulary. Only what a rule reads is computed, in float32, for positions that are read.
"""

from dataclasses import dataclass, replace

import torch
from transformers import LogitsProcessorList

from .generation_rules import Statistic

# Rows of the vocabulary are worked on so many elements at a time, which stay in a processor's cache.
ELEMENTS_AT_ONCE = 2**18
# Log-probabilities below are as good as impossible; a floor spares the arithmetic of infinities.
LEAST_LOG_PROBABILITY = -1e4
# Vocabularies are padded to multiples of 64 nearly everywhere.
ARGMAX_BLOCK = 64


@dataclass(frozen=True)
class Belief:
    """
    The model's prediction at `N` positions.

    Args:
        token (`torch.LongTensor` of shape `(N,)`): candidate, greedy or sampled.
        statistic (`torch.FloatTensor` of shape `(N,)`, *optional*): what the commit rule reads.
        entropy (`torch.FloatTensor` of shape `(N,)`, *optional*): nats, if asked for.
        confidence (`torch.FloatTensor` of shape `(N,)`, *optional*): probability of `token`, if asked for.
        log_p (`torch.FloatTensor` of shape `(N, V)`, *optional*):
            log-probabilities in nats after suppression and processors, before filters and temperature, if asked for.
        log_p_entropy (`torch.FloatTensor` of shape `(N,)`, *optional*): theirs, in nats.
        most_likely (`torch.LongTensor` of shape `(N,)`, *optional*): their argmax, where `token` may be another.
    """

    token: torch.Tensor
    statistic: torch.Tensor | None
    entropy: torch.Tensor | None
    confidence: torch.Tensor | None = None
    log_p: torch.Tensor | None = None
    log_p_entropy: torch.Tensor | None = None
    most_likely: torch.Tensor | None = None


@dataclass(frozen=True)
class BeliefReader:
    """
    Turns logits into a `Belief`.

    The statistics are those of the distribution before temperature and after processors and filters, as MED
    (arXiv 2510.19990) defines its entropies; the candidate is drawn from the tempered one.

    Args:
        mask_token_id (`int`): never predicted.
        temperature (`float`): 0 takes the most likely token.
        processors (`LogitsProcessorList`): applied to the logits first, e.g. suppression.
        filters (`LogitsProcessorList`): keep a part of the tempered distribution, e.g. top-p.
        suppressed (`torch.LongTensor`, *optional*): ids that are never predicted.
        deferred (`torch.LongTensor`, *optional*): ids whose probability counts as nothing in the statistics, so that
            positions that predict them are committed last.
        reads (`str`, *optional*): the statistic to compute.
        with_entropy (`bool`): whether to give the entropy whatever the rule reads.
        with_confidence (`bool`): whether to give the probability of the candidate whatever the rule reads.
        with_log_p (`bool`): whether to give log-probabilities, and the most likely token when sampling.
        ends (`torch.LongTensor`, *optional*): ids that are not predicted at the first `min_new_tokens` positions.
        min_new_tokens (`int`): counted from the row's first writable position.
    """

    mask_token_id: int
    temperature: float
    processors: LogitsProcessorList
    filters: LogitsProcessorList
    suppressed: torch.Tensor | None
    deferred: torch.Tensor | None
    reads: Statistic | None
    with_entropy: bool
    with_confidence: bool = False
    with_log_p: bool = False
    ends: torch.Tensor | None = None
    min_new_tokens: int = 0

    @property
    def ends_later(self) -> bool:
        """Whether `offset` is looked at."""
        return self.min_new_tokens > 0 and self.ends is not None

    @property
    def reads_canvas(self) -> bool:
        """Whether `canvas_ids` is looked at: filters read scores only."""
        return len(self.processors) > 0

    def __call__(
        self,
        logits: torch.Tensor,
        canvas_ids: torch.Tensor | None,
        noise: torch.Tensor | None,
        offset: torch.Tensor | None = None,
    ) -> Belief:
        """
        Read `(N, V)` logits, which are overwritten.

        Args:
            canvas_ids: `(N, L)`, each position's row, for `processors`; not needed without them.
            noise: `(N,)` uniform numbers, for sampling.
            offset: `(N,)` int64, tokens between the row's first writable position and this one; for `ends_later`.
        """
        logits = logits.float()
        self._suppress(logits, offset)
        if self.processors:
            logits = self.processors(canvas_ids, logits)
            self._suppress(logits, offset)  # one that writes all scores anew does not bring them back
        kept: dict[str, torch.Tensor] = {}
        if self.with_log_p:
            kept["log_p"], kept["log_p_entropy"] = log_probabilities(logits)
            if self.temperature > 0:
                kept["most_likely"] = most_likely(logits)
        tempered = logits / self.temperature if self.temperature > 0 else logits
        if self.filters:
            filtered = self.filters(canvas_ids, tempered)
            logits = logits.masked_fill(filtered == float("-inf"), float("-inf"))
            tempered = filtered
        token = sample(tempered, noise) if self.temperature > 0 else most_likely(logits)
        entropy = None
        if self.with_entropy or self.reads == "entropy":
            entropy = kept["log_p_entropy"] if kept and not self.filters else entropy_of(logits)
        return replace(self._with_statistics(logits, token, entropy), **kept)

    def _suppress(self, logits: torch.Tensor, offset: torch.Tensor | None) -> None:
        logits[:, self.mask_token_id] = float("-inf")
        if self.suppressed is not None:
            logits[:, self.suppressed] = float("-inf")
        if self.ends_later and self.ends is not None and offset is not None:
            early = (offset < self.min_new_tokens)[:, None]
            logits[:, self.ends] = logits[:, self.ends].masked_fill(early, float("-inf"))

    def _with_statistics(self, logits: torch.Tensor, token: torch.Tensor, entropy: torch.Tensor | None) -> Belief:
        confidence = _at(logits.softmax(-1), token) if self.with_confidence else None
        statistic = is_deferred = None
        if self.deferred is not None:
            is_deferred = torch.isin(token, self.deferred)
            logits[:, self.deferred] = float("-inf")
        if self.reads == "confidence":
            statistic = _at(logits.softmax(-1), token)
        elif self.reads == "entropy":
            statistic = entropy if is_deferred is None else entropy_of(logits)
        elif self.reads == "margin":
            best = logits.topk(2, dim=-1).values
            statistic = (best - logits.logsumexp(-1, keepdim=True)).exp().diff(dim=-1).squeeze(-1).neg()
        if is_deferred is not None and statistic is not None:
            last = float("inf") if self.reads == "entropy" else 0.0
            statistic = statistic.masked_fill(is_deferred, last)
        return Belief(token, statistic, entropy, confidence)


def _at(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, token[:, None]).squeeze(-1)


def entropy_of(logits: torch.Tensor) -> torch.Tensor:
    """Entropy in nats of softmax(`logits`), `(N, V)` float32 with possible -inf to `(N,)`."""
    # A few rows at a time: temporaries of a 126k vocabulary would cost more than the arithmetic.
    return torch.cat([_shift(rows)[2] for rows in split_rows(logits)])


def log_probabilities(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-softmax of `(N, V)` in nats, bounded from below, and its entropy `(N,)`, that of `entropy_of` to the bit."""
    log_p, entropies = torch.empty_like(logits), []
    for rows, target in zip(split_rows(logits), split_rows(log_p), strict=True):
        shifted, log_total, entropy = _shift(rows)
        torch.sub(shifted, log_total[:, None], out=target)
        entropies.append(entropy)
    return log_p, torch.cat(entropies)


def split_rows(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Views of `(N, V)`, a few rows each."""
    return values.split(max(1, ELEMENTS_AT_ONCE // values.shape[-1]))


def _shift(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """
    `(N, V)` less each row's maximum and bounded from below, the logarithm of the sum of its exponentials `(N,)`, and
    the entropy `(N,)`: `log Z - sum_v e^v v / Z`, which takes half to two thirds of the time of a
    log-softmax and a softmax.
    """
    shifted = logits - logits.amax(-1, keepdim=True)
    weight = shifted.exp()
    total = weight.sum(-1)
    log_total = total.log()
    entropy = log_total - torch.linalg.vecdot(weight, shifted.clamp_(min=LEAST_LOG_PROBABILITY)) / total
    return shifted, log_total, entropy


def most_likely(logits: torch.Tensor) -> torch.Tensor:
    """`logits.argmax(-1)` of `(N, V)`, the first of several."""
    if logits.device.type != "cpu" or logits.shape[-1] % ARGMAX_BLOCK != 0:
        return logits.argmax(-1)
    # A CPU finds maxima many at a time, but their indices one by one: first the block, then the index within.
    blocks = logits.unflatten(-1, (-1, ARGMAX_BLOCK))
    best = blocks.amax(-1).argmax(-1, keepdim=True)
    within = blocks.take_along_dim(best[..., None], 1).argmax(-1)
    return (best * ARGMAX_BLOCK + within).squeeze(-1)


def sample(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution of softmax(`logits`), `(N, V)`, at `noise`, `(N,)` in (0, 1)."""
    cumulative = logits.softmax(-1).cumsum(-1)
    # The first index that reaches a positive target has positive probability.
    return torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None]).squeeze(-1)


__all__ = ["Belief", "BeliefReader", "entropy_of", "log_probabilities", "most_likely", "sample", "split_rows"]
