"""
Positions at which no token has a finite score, or a score is nan: found on the device, told by name on the host.

`N` positions read in a forward, `A` rows, `L` columns, `V` vocabulary.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

NOTHING_LEFT = (
    "no token is left to write: `suppress_tokens`, `min_new_tokens`, filters and logits processors together forbid "
    "every one"
)
NOT_A_NUMBER = (
    "the model or a logits processor gives {value}: look for nan or inf in the weights, and for an overflow of the "
    "dtype (float16 ends at 65504)"
)


def first_invalid_column(
    indices: tuple[torch.Tensor, torch.Tensor], normalizer: torch.Tensor, num_rows: int, length: int
) -> torch.Tensor:
    """
    The first column `(A,)`, int64, of each row at which no token can be chosen; `length` if there is none.

    Args:
        indices: rows and columns `(N,)` of the positions.
        normalizer: `(N,)`, finite where the scores are a distribution: a `Belief`'s.
    """
    column = torch.where(normalizer.isfinite(), length, indices[1])
    return column.new_full((num_rows,), length).scatter_reduce_(0, indices[0], column, "amin")


def raise_invalid_scores(row: int, column: int, value: float, greedy: bool = True) -> None:
    """
    Raise `ValueError` for a position at which no token can be chosen.

    Args:
        value: the largest score there; sampled, where it is not looked for, nan stands for all.
    """
    if not greedy:
        cause = f"{NOT_A_NUMBER.format(value='nan or inf')}; or {NOTHING_LEFT}"
    elif value == -math.inf:
        cause = NOTHING_LEFT
    else:
        cause = NOT_A_NUMBER.format(value=value)
    raise ValueError(f"No token has a finite score at row {row}, position {column}: {cause}.")


class FiniteScoresLogitsProcessor(LogitsProcessor):
    """
    The same for transformers' own `generate`, as the last of its logits processors.

    On a CPU, where a look costs nothing, and where a streamer waits, a bad score raises at once. Elsewhere
    `StopAtInvalidScores` ends the run by the sync that the stopping criteria need anyway; `raise_if_invalid` then says
    what was seen.

    Args:
        raise_at_once: whether to raise at once on every device.
        beam_search: whether scores are those of beams, which may end with nothing left.
        eos_token_ids: a row that has written one of these is over, whatever its scores.
    """

    def __init__(
        self, raise_at_once: bool = False, beam_search: bool = False, eos_token_ids: Sequence[int] = ()
    ) -> None:
        self.raise_at_once, self.beam_search, self.eos_token_ids = raise_at_once, beam_search, eos_token_ids
        self.invalid: torch.Tensor | None = None  # (B,) bool: rows that have had one
        self._first_column: torch.Tensor | None = None  # (B,): the column of the first
        self._value: torch.Tensor | None = None  # (B,): the largest score there
        self._finished: torch.Tensor | None = None  # (B,) bool

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Look at scores `(B, V)`, which stay as they are but where they are bad."""
        best = scores.amax(-1)
        bad = best.isnan() | (best == math.inf) if self.beam_search else ~best.isfinite()
        finished = torch.zeros_like(bad)
        if (
            self._finished is not None
            and len(self._finished) == len(bad)
            and not self.beam_search
            and self.eos_token_ids
        ):
            ends = torch.tensor(self.eos_token_ids, device=input_ids.device)
            finished = self._finished | torch.isin(input_ids[:, -1], ends)
        self._finished, bad = finished, bad & ~finished
        if self.invalid is None or len(self.invalid) != len(bad):
            self.invalid = torch.zeros_like(bad)
            self._first_column, self._value = torch.zeros_like(bad, dtype=torch.long), torch.zeros_like(best)
        new = bad & ~self.invalid
        self._first_column = torch.where(new, input_ids.shape[1], self._first_column)
        self._value = torch.where(new, best, self._value)
        self.invalid = self.invalid | bad
        if self.raise_at_once or scores.is_cpu:
            self.raise_if_invalid()
        # What is drawn from it must not end the process of the device; it is never returned.
        return scores if scores.is_cpu else scores.masked_fill(bad[:, None], 0.0)

    def raise_if_invalid(self) -> None:
        """Raise `ValueError` for the first row that has met a bad score."""
        if self.invalid is None or not bool(self.invalid.any()):
            return
        row = int(self.invalid.nonzero()[0])
        assert self._first_column is not None and self._value is not None
        raise_invalid_scores(row, int(self._first_column[row]), float(self._value[row]))


class StopAtInvalidScores(StoppingCriteria):
    """Ends a run of transformers' `generate` at the first score that `check` finds bad."""

    def __init__(self, check: FiniteScoresLogitsProcessor) -> None:
        self.check = check

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: Any) -> torch.BoolTensor:
        """All rows `(B,)` or none."""
        if self.check.invalid is None:
            return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        return self.check.invalid.any().expand(len(input_ids))


__all__ = ["FiniteScoresLogitsProcessor", "StopAtInvalidScores", "first_invalid_column", "raise_invalid_scores"]
