"""Metrics that are sums over all rows, of a logging interval or of an evaluation set, whatever the batch size."""

from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import EvalLoopOutput

from hf_latent.training.runs.loss_log import TrueLossMixin, ratio


class SummedMetricsMixin(TrueLossMixin):
    """
    What trainers sum over rows, and the divisor of a step. Comes before transformers' `Trainer` among the bases.

    A trainer names its `parts`, the first two of which are the loss and what it is divided by, and has `_count_items`
    and `summarize`; its `compute_loss` with `return_outputs` gives the parts of every row and calls `_note_parts`.
    """

    args: Any
    parts: tuple[str, ...]
    _train_sums: torch.Tensor | None = None  # [len(parts)], since the last log, this process
    _eval_sums: torch.Tensor  # of the running evaluation, all processes

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device) -> Any:
        """Divisor of one optimizer step: every item counts, whatever the name of the model's class."""
        if not batch_samples:
            return None
        count: Any = self._count_items  # type: ignore[attr-defined]
        num_items = torch.stack([torch.as_tensor(count(batch)) for batch in batch_samples]).sum()
        num_items = num_items.to(device)
        if self.args.average_tokens_across_devices:
            num_items = self.accelerator.gather(num_items).sum() / self.get_tp_size()  # type: ignore[attr-defined]
        self._note_items(num_items)
        return num_items

    def _undo_averaging(self, loss: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        """The loss times the processes that DDP averages over, where its divisor counts the items of all of them."""
        if num_items_in_batch is None or not self.args.average_tokens_across_devices:
            return loss
        return loss * (self.accelerator.num_processes // self.get_tp_size())  # type: ignore[attr-defined]

    def _note_parts(self, parts: torch.Tensor, loss: torch.Tensor) -> None:
        """Sum the parts `[B, len(self.parts)]` of a training batch for the log."""
        if self.model.training:
            self._note_loss(loss)
            self._train_sums = parts.sum(0) if self._train_sums is None else self._train_sums + parts.sum(0)

    def _take_train_sums(self) -> dict[str, float] | None:
        """Sums since the last log, over all processes; None in an evaluation. Collective."""
        if not self.model.training or self._train_sums is None:
            return None
        sums = self.accelerator.gather(self._train_sums[None]).sum(0).tolist()
        self._train_sums = None
        return dict(zip(self.parts, sums, strict=True))

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor, None, None]:
        """Loss of a batch; its sums are added to those of the evaluation. There are no predictions to return."""
        trainer: Any = self
        inputs = trainer._prepare_inputs(inputs)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            loss, parts = trainer.compute_loss(model, inputs, return_outputs=True)
        self._eval_sums += self.accelerator.gather_for_metrics(parts).cpu().double().sum(0)
        return loss, None, None

    def evaluation_loop(
        self, dataloader: DataLoader, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Trainer's loop, with metrics that are sums over the whole set: they do not depend on the batch size."""
        self._eval_sums = torch.zeros(len(self.parts), dtype=torch.float64)
        output = super().evaluation_loop(  # type: ignore[misc]
            dataloader, *args, metric_key_prefix=metric_key_prefix, **kwargs
        )
        sums = dict(zip(self.parts, self._eval_sums.tolist(), strict=True))
        means = self.summarize(sums)  # type: ignore[attr-defined]
        metrics = {"loss": ratio(sums["loss"], sums["items"]), **means}
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in metrics.items()})
        return output


__all__ = ["SummedMetricsMixin"]
