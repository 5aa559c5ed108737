"""How the drafts of self-speculative decoding are made and judged (speculative sampling, arXiv 2211.17192)."""

from dataclasses import dataclass

import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)
from transformers.generation import EpsilonLogitsWarper, EtaLogitsWarper

# Processors that look at scores only, not at the text.
WARPERS = (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)


@dataclass(frozen=True)
class DraftScoring:
    """How drafts are made and judged."""

    processors: LogitsProcessorList
    do_sample: bool
    mask_token_id: int
    batch_size: int

    def draft(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Drafts `(A, K)` from logits `(A, K, V)` and, sampled, the probabilities `(A, K, V)` they were drawn from."""
        logits[..., self.mask_token_id] = float("-inf")
        if not self.do_sample:
            return logits.argmax(-1), None
        # Any proposal keeps the distribution; one that is warped like the target is kept more often.
        warpers = LogitsProcessorList(p for p in self.processors if isinstance(p, WARPERS))
        p = warpers(None, logits.flatten(0, 1)).softmax(-1)
        return sample_from(p).view(logits.shape[:2]), p.view(logits.shape)

    def verify(
        self,
        logits: torch.Tensor,
        drafts: torch.Tensor | None,
        draft_p: torch.Tensor | None,
        prefixes: list[tuple[int, torch.Tensor]],
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        How many drafts each row keeps, `(A,)`, the token behind them, `(A,)`, and what is finite where that token
        could be chosen, `(A,)`; `logits` `(A, 1 + drafts, V)`.
        """
        scores = self._process(logits, prefixes)
        rows = torch.arange(len(scores), device=scores.device)
        none = torch.zeros_like(rows)
        if not self.do_sample:
            highest, best = scores.max(-1)
            agrees = none if drafts is None else (best[:, :-1] == drafts) & highest[:, :-1].isfinite()
            accepted = none if drafts is None else agrees.long().cumprod(-1).sum(-1)
            return accepted, best[rows, accepted], highest[rows, accepted]
        p = scores.softmax(-1)
        normalizer = p[..., 0]  # nan as all of a row is that is no distribution
        if drafts is None or draft_p is None:
            return none, sample_from(p[:, -1]), normalizer[:, -1]
        # Keep a draft with probability min(1, p / q); behind the last one kept draw from max(0, p - q), and behind
        # all of them from p.
        ratio = _at(p[:, :-1], drafts) / _at(draft_p, drafts)
        accepted = (torch.rand_like(ratio) < ratio).long().cumprod(-1).sum(-1)
        q = torch.cat([draft_p, torch.zeros_like(draft_p[:, :1])], dim=1)[rows, accepted]
        p, normalizer = p[rows, accepted], normalizer[rows, accepted]
        rest = (p - q).clamp(min=0)
        rest = torch.where(rest.sum(-1, keepdim=True) > 0, rest, p)  # equal but for rounding
        return accepted, sample_from(rest), normalizer

    def _process(self, logits: torch.Tensor, prefixes: list[tuple[int, torch.Tensor]]) -> torch.Tensor:
        """Scores of `(A, N, V)`: processors see the text up to each token, and the row where it is in the batch."""
        if all(isinstance(processor, WARPERS) for processor in self.processors):
            return self.processors(None, logits.flatten(0, 1)).view(logits.shape)
        count = logits.shape[1]
        rows = []
        size = self.batch_size
        for row, (number, text) in zip(logits, prefixes, strict=True):
            ends = range(len(text) - count + 1, len(text) + 1)
            # Some hold one value for each row of the batch: they get the row as often as there are rows.
            scores = [
                self.processors(text[:end].repeat(size, 1), row[i].repeat(size, 1)) for i, end in enumerate(ends)
            ]
            rows.append(torch.stack([each[number] for each in scores]))
        return torch.stack(rows)


def sample_from(p: torch.Tensor) -> torch.Tensor:
    """Draw from `p` `(N, V)`; any token where it holds nan, of which a device would die."""
    return torch.multinomial(torch.where(p[:, :1].isnan(), 1.0, p), 1).squeeze(-1)


def _at(p: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    return p.gather(-1, tokens[..., None]).squeeze(-1)


__all__ = ["DraftScoring"]
