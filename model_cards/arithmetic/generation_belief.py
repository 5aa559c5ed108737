# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""
What the loop reads from logits: candidate, confidence, entropy, margin.

`N` selected positions, `V` vocabulary. Only what a rule reads is computed, in float32, for positions that are read.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import LogitsProcessorList

from .generation_distribution import Distribution, distribution_of, entropy_of
from .generation_maxima import block_maxima, find_best
from .generation_rules import Statistic


class Belief(NamedTuple):
    """
    The model's prediction at `N` positions.

    Args:
        token (`torch.LongTensor` of shape `(N,)`): candidate, greedy or sampled.
        statistic (`torch.FloatTensor` of shape `(N,)`, *optional*): what the commit rule reads.
        entropy (`torch.FloatTensor` of shape `(N,)`, *optional*): nats, if asked for.
        confidence (`torch.FloatTensor` of shape `(N,)`, *optional*): probability of `token`, if asked for.
        distribution (`Distribution`, *optional*):
            after suppression and processors, before filters and temperature, if asked for.
        most_likely (`torch.LongTensor` of shape `(N,)`, *optional*): their argmax, where `token` may be another.
    """

    token: torch.Tensor
    statistic: torch.Tensor | None
    entropy: torch.Tensor | None
    confidence: torch.Tensor | None = None
    distribution: Distribution | None = None
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
        with_distribution (`bool`): whether to give the distribution, and the most likely token when sampling.
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
    with_distribution: bool = False
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
        greedy = self.temperature == 0
        tempered = logits if greedy else logits / self.temperature
        best = token = distribution = likeliest = None
        if self.with_distribution:
            maxima = block_maxima(logits)
            best, token = find_best(logits, maxima)
            distribution = distribution_of(logits if self._may_shift else logits.clone(), best, maxima)
            likeliest = None if greedy else token
        if self.filters:
            filtered = self.filters(canvas_ids, tempered)
            logits = logits.masked_fill(filtered == float("-inf"), float("-inf"))
            tempered, best, token = filtered, None, None
        if not greedy:
            token = sample(tempered, noise)
        elif token is None:
            best, token = find_best(logits, None)
        entropy = None
        if self.with_entropy or self.reads == "entropy":
            shared = distribution is not None and not self.filters
            entropy = distribution.entropy if shared else entropy_of(logits, best, self._may_shift)
        confidence = _at(logits.softmax(-1), token) if self.with_confidence else None
        statistic = self._statistic(logits, token, entropy)
        return Belief(token, statistic, entropy, confidence, distribution, likeliest)

    @property
    def _may_shift(self) -> bool:
        """Whether only the order, the softmax and the entropy of logits are read, which a shift leaves to the bit."""
        return self.reads in (None, "entropy", "noise") and not self.filters and self.deferred is None

    def _suppress(self, logits: torch.Tensor, offset: torch.Tensor | None) -> None:
        logits.select(-1, self.mask_token_id).fill_(float("-inf"))
        if self.suppressed is not None:
            logits[:, self.suppressed] = float("-inf")
        if self.ends_later and self.ends is not None and offset is not None:
            early = (offset < self.min_new_tokens)[:, None]
            logits[:, self.ends] = logits[:, self.ends].masked_fill(early, float("-inf"))

    def _statistic(
        self, logits: torch.Tensor, token: torch.Tensor, entropy: torch.Tensor | None
    ) -> torch.Tensor | None:
        """What the rule reads `(N,)`, given the entropies, if known, of `logits`; those may be overwritten."""
        is_deferred = None
        if self.deferred is not None:
            is_deferred = torch.isin(token, self.deferred)
            logits[:, self.deferred] = float("-inf")
        if self.reads == "entropy":
            statistic = entropy if is_deferred is None else entropy_of(logits)
        elif self.reads == "confidence":
            statistic = _at(logits.softmax(-1), token)
        elif self.reads == "margin":
            best = logits.topk(2, dim=-1).values
            statistic = (best - logits.logsumexp(-1, keepdim=True)).exp().diff(dim=-1).squeeze(-1).neg()
        else:
            return None
        if is_deferred is None:
            return statistic
        return statistic.masked_fill(is_deferred, float("inf") if self.reads == "entropy" else 0.0)


def _at(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, token[:, None]).squeeze(-1)


def sample(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution of softmax(`logits`), `(N, V)`, at `noise`, `(N,)` in (0, 1)."""
    cumulative = logits.softmax(-1).cumsum(-1)
    # The first index that reaches a positive target has positive probability.
    return torch.searchsorted(cumulative, (noise * cumulative[:, -1])[:, None]).squeeze(-1)


__all__ = ["Belief", "BeliefReader", "sample"]
