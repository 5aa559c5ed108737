"""
What the loop reads from logits: candidate, confidence, entropy, margin.

`N` selected positions, `V` vocabulary. Only what a rule reads is computed, in float32, for positions that are read.
In float32 a probability above 1 - 3e-8 is 1, whether it is 18 nats sure or 30: rules read confidence and margin as log
odds, which order what is nearly certain, too (the reference samplers take float64 for it).
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import LogitsProcessorList

from hf_latent.generation.beliefs.distribution import Distribution, distribution_of, entropy_of
from hf_latent.generation.beliefs.top_k import block_maxima, max_and_argmax
from hf_latent.generation.commit.rules import Statistic

# Nats by which a token is made less likely to read its log odds. They are exact to the rounding of the logits up to 40
# nats and in order up to 46, beyond what float64's probabilities tell apart; more would cost precision everywhere.
MADE_UNLIKELY = 30.0


class Belief(NamedTuple):
    """
    The model's prediction at `N` positions.

    Args:
        token (`torch.LongTensor` of shape `(N,)`): candidate, greedy or sampled.
        statistic (`torch.FloatTensor` of shape `(N,)`, *optional*):
            what the commit rule reads, in nats: entropy, or the log odds log(x / (1 - x)) of confidence or margin x.
        entropy (`torch.FloatTensor` of shape `(N,)`, *optional*): nats, if asked for.
        confidence (`torch.FloatTensor` of shape `(N,)`, *optional*): probability of `token`, if asked for.
        distribution (`Distribution`, *optional*):
            after suppression and processors, before filters and temperature, if asked for.
        most_likely (`torch.LongTensor` of shape `(N,)`, *optional*): the likeliest, where `token` may be another.
        most_likely_odds (`torch.FloatTensor` of shape `(N,)`, *optional*): log odds of the likeliest, if asked for.
        normalizer (`torch.FloatTensor` of shape `(N,)`):
            finite where the scores were a distribution; see `score_check`.
        deferred (`torch.BoolTensor` of shape `(N,)`, *optional*): where `token` is to be written last, if any is.
        log_prob, most_likely_log_prob (`torch.FloatTensor` of shape `(N,)`, *optional*):
            nats, of `token` and `most_likely` under the distribution that `token` is drawn from, if asked for.
    """

    token: torch.Tensor
    statistic: torch.Tensor | None
    entropy: torch.Tensor | None
    confidence: torch.Tensor | None = None
    distribution: Distribution | None = None
    most_likely: torch.Tensor | None = None
    normalizer: torch.Tensor | None = None
    deferred: torch.Tensor | None = None
    most_likely_odds: torch.Tensor | None = None
    log_prob: torch.Tensor | None = None
    most_likely_log_prob: torch.Tensor | None = None


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
        with_odds (`bool`): whether to give the log odds of the likeliest token, and that token when sampling.
        with_log_prob (`bool`): whether to give the log-probability of the candidate, after temperature and filters.
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
    with_odds: bool = False
    with_log_prob: bool = False
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
        logits = self._process(logits, canvas_ids, offset)
        greedy = self.temperature == 0
        tempered = logits if greedy else logits / self.temperature
        best = token = distribution = likeliest = None
        if self.with_distribution:
            block_max = block_maxima(logits)
            best, token = max_and_argmax(logits, block_max)
            distribution = distribution_of(logits if self._may_shift else logits.clone(), best, block_max)
            likeliest = None if greedy else token
        if self.filters:
            filtered = self.filters(canvas_ids, tempered)
            logits = logits.masked_fill(filtered == float("-inf"), float("-inf"))
            tempered, best, token = filtered, None, None
        if not greedy:
            if self.with_odds and likeliest is None:
                likeliest = max_and_argmax(logits, None)[1]
            token, normalizer = draw(tempered, noise)
        else:
            if token is None:
                best, token = max_and_argmax(logits, None)
            normalizer = best.squeeze(-1).clone()
        log_prob = likeliest_log_prob = None
        if self.with_log_prob:
            log_total = tempered.logsumexp(-1)
            log_prob = _at(tempered, token) - log_total
            likeliest_log_prob = None if likeliest is None else _at(tempered, likeliest) - log_total
        entropy = None
        if self.with_entropy or self.reads == "entropy":
            shared = distribution is not None and not self.filters
            entropy = distribution.entropy if shared else entropy_of(logits, best, self._may_shift)
        confidence = _at(logits.softmax(-1), token) if self.with_confidence else None
        deferred = None if self.deferred is None else torch.isin(token, self.deferred)
        odds = None
        shares_odds = greedy and self.reads == "confidence"
        if self.with_odds and not shares_odds:
            odds = self._confidence(logits.clone(), token if greedy else likeliest)
        statistic = self._statistic(logits, token, entropy, deferred)
        odds = statistic if self.with_odds and shares_odds else odds
        return Belief(
            token,
            statistic,
            entropy,
            confidence,
            distribution,
            likeliest,
            normalizer,
            deferred,
            odds,
            log_prob,
            likeliest_log_prob,
        )

    def read_odds(
        self,
        logits: torch.Tensor,
        token: torch.Tensor,
        canvas_ids: torch.Tensor | None,
        offset: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Log odds in nats `(N,)` of given tokens `(N,)` under `(N, V)` logits, which are overwritten, after processors
        and filters; a deferred token counts as what it is. See `__call__` for the rest.
        """
        logits = self._process(logits, canvas_ids, offset)
        if self.filters:
            greedy = self.temperature == 0
            filtered = self.filters(canvas_ids, logits if greedy else logits / self.temperature)
            logits = logits.masked_fill(filtered == float("-inf"), float("-inf"))
        return confidence_log_odds(logits, token)

    def _process(
        self, logits: torch.Tensor, canvas_ids: torch.Tensor | None, offset: torch.Tensor | None
    ) -> torch.Tensor:
        logits = logits.float()
        self._suppress(logits, offset)
        if self.processors:
            logits = self.processors(canvas_ids, logits)
            self._suppress(logits, offset)  # one that writes all scores anew does not bring them back
        return logits

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
        self,
        logits: torch.Tensor,
        token: torch.Tensor,
        entropy: torch.Tensor | None,
        is_deferred: torch.Tensor | None,
    ) -> torch.Tensor | None:
        """What the rule reads `(N,)`, given the entropies, if known, of `logits`; those may be overwritten."""
        if self.reads == "confidence":
            return self._confidence(logits, token)
        if self.deferred is not None:
            logits[:, self.deferred] = float("-inf")
        if self.reads == "entropy":
            statistic = entropy if is_deferred is None else entropy_of(logits)
        elif self.reads == "margin":
            statistic = margin_log_odds(logits)
        else:
            return None
        if is_deferred is None:
            return statistic
        return statistic.masked_fill(is_deferred, float("inf") if self.reads == "entropy" else float("-inf"))

    def _confidence(self, logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        """Log odds `(N,)` of `token`, which count as nothing where that is deferred; `logits` may be overwritten."""
        if self.deferred is None:
            return confidence_log_odds(logits, token)
        logits[:, self.deferred] = float("-inf")
        odds = confidence_log_odds(logits, token)
        return odds.masked_fill(torch.isin(token, self.deferred), float("-inf"))


def confidence_log_odds(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """
    log p - log(1 - p) `(N,)` in nats of the probability p of `token` `(N,)` under `(N, V)` logits, which are
    overwritten.

    One softmax, as p itself takes: that of logits whose token is `MADE_UNLIKELY`, so that its probability q does not
    round to 1. log odds of p = log odds of q + `MADE_UNLIKELY`.
    """
    q = _at(logits.scatter_(-1, token[:, None], -MADE_UNLIKELY, reduce="add").softmax(-1), token)
    return q.logit_().add_(MADE_UNLIKELY)


def margin_log_odds(logits: torch.Tensor) -> torch.Tensor:
    """
    log m - log(1 - m) `(N,)` in nats of the margin m = p1 - p2 of the two likeliest tokens of `(N, V)` logits, which
    are overwritten.

    With the likeliest made as likely as the second, their probability q gives the rest: for the gap d of their logits
    m / (1 - m) = (e^d - 1) q.
    """
    best, tokens = logits.topk(2, dim=-1)
    q = _at(logits.scatter_(-1, tokens[:, :1], best[:, 1:]).softmax(-1), tokens[:, 0])
    gap = best[:, 0] - best[:, 1]
    odds = gap + gap.neg().expm1_().neg_().log_() + q.log_()
    return odds.masked_fill_(best[:, 1] == float("-inf"), float("inf"))  # one candidate is left


def _at(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    return logits.gather(-1, token[:, None]).squeeze(-1)


def sample(logits: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution of softmax(`logits`), `(N, V)`, at `noise`, `(N,)` in (0, 1)."""
    return draw(logits, noise)[0]


def draw(logits: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`sample`, and the sum of the probabilities `(N,)`, nan where the logits are no distribution."""
    cumulative = logits.softmax(-1).cumsum(-1)
    normalizer = cumulative[:, -1].clone()  # not a view, which would keep the whole of it
    # The first index that reaches a positive target has positive probability; there is none of nan.
    place = torch.searchsorted(cumulative, (noise * normalizer)[:, None]).squeeze(-1)
    return place.clamp_(max=logits.shape[-1] - 1), normalizer


__all__ = ["Belief", "BeliefReader", "confidence_log_odds", "draw", "margin_log_odds", "sample"]
