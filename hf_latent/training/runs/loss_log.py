"""What is logged as a loss is one: NaN is said and counted, and a step without a supervised token has none."""

import logging
import math
from typing import Any

import torch

logger = logging.getLogger(__name__)


class TrueLossMixin:
    """
    The losses in a trainer's log. Comes before transformers' `Trainer` among its bases.

    Trainer replaces a loss that is not finite by a mean of others (`logging_nan_inf_filter`), 0.0 if there are none:
    here the logged mean is NaN then, and `nonfinite_losses` says of how many batches. Steps without a supervised token
    have a loss of 0 and no gradient: the mean is over the others, and nothing is logged if there are none.

    A trainer calls `_note_items` once a step and `_note_loss` once a batch; both add on the device.
    """

    accelerator: Any
    model: Any

    _steps_noted = 0
    _empty_steps: torch.Tensor | int = 0
    _nonfinite: torch.Tensor | int = 0  # since the last log, of this process
    _nonfinite_in_all = 0

    def _note_items(self, num_items: torch.Tensor) -> None:
        self._steps_noted += 1
        self._empty_steps = self._empty_steps + (num_items == 0).long()

    def _note_loss(self, loss: torch.Tensor) -> None:
        self._nonfinite = self._nonfinite + (~torch.isfinite(loss.detach())).long()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As in transformers, with true losses. Collective where it logs losses: every process has to call it."""
        if "loss" in logs and isinstance(self._nonfinite, torch.Tensor):
            logs = self._correct(dict(logs))
        if "train_loss" in logs and self._nonfinite_in_all:
            logs["train_loss"] = math.nan
        super().log(logs, start_time)  # type: ignore[misc]

    def _correct(self, logs: dict[str, float]) -> dict[str, float]:
        here = torch.stack([torch.as_tensor(self._nonfinite), torch.as_tensor(self._empty_steps).to(self._nonfinite)])
        nonfinite, empty = self.accelerator.gather(here[None]).unbind(1)
        count, steps = int(nonfinite.sum()), self._steps_noted
        if count:
            self._nonfinite_in_all += count
            logs |= {"loss": math.nan, "nonfinite_losses": float(count)}
            logger.warning("The loss of %d batches since the last log was not finite", count)
        elif (with_loss := steps - int(empty.max())) < steps:
            if with_loss:
                logs["loss"] *= steps / with_loss
            else:
                del logs["loss"]
        self._steps_noted, self._empty_steps, self._nonfinite = 0, 0, 0
        return logs


def ratio(total: float, count: float) -> float:
    """The mean; NaN, not 0, of nothing."""
    return total / count if count else math.nan


def without_empty(means: dict[str, float], sums: dict[Any, float]) -> dict[str, float]:
    """Without means of nothing; NaN that comes from what was summed stays."""
    is_finite = all(map(math.isfinite, sums.values()))
    return {name: mean for name, mean in means.items() if not (is_finite and math.isnan(mean))}


__all__ = ["TrueLossMixin", "ratio", "without_empty"]
