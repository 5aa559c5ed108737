"""Steps of `MaskedDiffusionTrainer` on a fixed batch, and what is timed beside them."""

import statistics
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from datasets import Dataset
from parts.report import timed

from hf_latent.tasks import sudoku_tokenizer
from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer

BATCH_SIZE, LENGTH, PROMPT_LENGTH = 8, 256, 64
BATCH = f"batch {BATCH_SIZE} x {LENGTH}, of which {PROMPT_LENGTH} are prompt"
# Sizes of the models that are trained, in Llama's names.
SIZES = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8}


def special_ids(vocab_size: int) -> dict[str, int]:
    """Mask, end-of-sequence and padding: the last ids of the vocabulary."""
    return {"mask_token_id": vocab_size - 1, "eos_token_id": vocab_size - 2, "pad_token_id": vocab_size - 2}


class TrainerStep:
    """
    Called, it makes a step of the trainer on random rows, with labels behind the prompt.

    Args:
        ids: the rows, `(BATCH_SIZE, LENGTH)`.
        finish: backward and optimizer for a loss, with the optimizer of the step.
        seen: what the trainer gives the model.
    """

    def __init__(self, model: Any) -> None:
        generator = torch.Generator().manual_seed(0)
        self.ids = torch.randint(0, model.config.vocab_size - 2, (BATCH_SIZE, LENGTH), generator=generator)
        labels = self.ids.clone()
        labels[:, :PROMPT_LENGTH] = -100
        rows = [{"input_ids": i, "labels": k} for i, k in zip(self.ids.tolist(), labels.tolist(), strict=True)]
        tokenizer = sudoku_tokenizer(4)  # for padding, of which there is none
        tokenizer.mask_token = None
        with tempfile.TemporaryDirectory() as folder:
            args = MaskedDiffusionConfig(folder, use_cpu=True, report_to="none", max_length=LENGTH, disable_tqdm=True)
            self._trainer = MaskedDiffusionTrainer(
                model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
            )
        self._trainer.model.train()
        self._model = model
        self._batch = self._trainer.data_collator([{**row, "example_id": i} for i, row in enumerate(rows)])
        self.finish = optimizing(model)
        self.seen: dict[str, Any] = {}
        hook = model.register_forward_pre_hook(lambda _, args, kwargs: self.seen.update(kwargs), with_kwargs=True)
        with torch.no_grad():
            self._loss()
        hook.remove()

    def _loss(self) -> torch.Tensor:
        return self._trainer.compute_loss(self._model, dict(self._batch))

    def __call__(self) -> None:
        self.finish(self._loss())


def optimizing(model: torch.nn.Module) -> Callable[[torch.Tensor], None]:
    """Backward and a step of an optimizer of its own for the losses of `model`."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def finish(loss: torch.Tensor) -> None:
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return finish


def take_turns(steps: Mapping[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every step of each kind, in turns whose order alternates; the first turn warms up."""
    times: dict[str, list[float]] = {kind: [] for kind in steps}
    for repeat in range(repeats + 1):
        for kind in list(steps)[:: 1 if repeat % 2 else -1]:
            seconds = timed(steps[kind])
            if repeat:
                times[kind].append(seconds)
    return times


def median_seconds(times: Mapping[str, list[float]]) -> dict[str, float]:
    """Median of each kind."""
    return {kind: round(statistics.median(values), 4) for kind, values in times.items()}
