"""
Passes over the training data: which one a batch belongs to, in which order it comes, and where a resumed run goes on.
"""

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info
from transformers import TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

logger = logging.getLogger(__name__)

PASS = "data_pass"  # in a batch of a stream: the number of its pass, which seeds noise


class EndlessBatches(IterableDataset):
    """
    Batches of a loader without a length, pass after pass, each with the number of its pass under `data_pass`.

    Trainer counts the passes of such a loader as one: its own end of a pass would leave gradients of an unfilled
    accumulation behind, and it resumes by counting batches, which this makes right in every pass.

    Args:
        loader: prepared by accelerate.
        seed: of what workers draw.
        first_pass: number of the first pass.
    """

    # What accelerate's `skip_first_batches` asks a loader for: batches come ready, in this process.
    batch_size, num_workers, drop_last, prefetch_factor, pin_memory = None, 0, False, None, False

    def __init__(self, loader: Any, *, seed: int, first_pass: int = 0) -> None:
        self.loader, self.seed, self.first_pass = loader, seed, first_pass
        self.consumed, self.passes_begun = 0, first_pass
        self.last: dict[str, Any] | None = None
        self._check: Callable[[int, dict[str, Any]], None] | None = None
        self._is_exhausted = False

    @property
    def dataset(self) -> "EndlessBatches":
        """Itself: what is skipped is skipped here, over the ends of passes."""
        return self

    @staticmethod
    def collate_fn(batch: Any) -> Any:
        """Batches come ready."""
        return batch

    def expect(self, consumed: int, digest: str) -> None:
        """Raise `ValueError` unless the batch number `consumed` is the one it was when a checkpoint was written."""

        def check(number: int, batch: dict[str, Any]) -> None:
            if number == consumed and digest_batch(batch) != digest:
                raise ValueError(
                    f"the run cannot go on as it was: batch {consumed} of `train_dataset` is another one than before "
                    "the interruption. Read again from its start, the stream has to give the same examples in the "
                    "same order (shuffle with a seed; a generator begins anew for each pass). Start anew with "
                    "`resume_from_checkpoint=False`, or go on with other data with `ignore_data_skip=True`."
                )

        self._check = check

    def __iter__(self) -> Iterator[dict[str, Any]]:
        self.consumed = 0
        for number in itertools.count(self.first_pass):
            if self._is_exhausted:
                return
            if hasattr(self.loader, "set_epoch"):
                self.loader.set_epoch(number)
            self.passes_begun = number + 1
            is_empty = True
            for batch in self._one_pass(number):
                is_empty = False
                self.consumed += 1
                if self._check is not None:
                    self._check(self.consumed, batch)
                self.last = batch
                yield {**batch, PASS: number}
            if is_empty:
                if number == self.first_pass:
                    raise ValueError("`train_dataset` is a stream without an example: nothing can be trained on")
                self._is_exhausted = True
                logger.warning("Pass %d over `train_dataset` has no example: it can be read once only", number + 1)

    def _one_pass(self, number: int) -> Iterator[dict[str, Any]]:
        # A loader draws a seed for its workers when it begins. From a state of its own: the generator that dropout
        # uses is then, after a resume at the end of a pass, where it was.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed((self.seed + number) % 2**63)
            batches = iter(self.loader)
            first = next(batches, None)
        if first is not None:
            yield first
            yield from batches


class SeededLengthGroups(LengthGroupedSampler):
    """transformers' `LengthGroupedSampler` with an order that is a function of seed and pass: runs can be resumed."""

    def __init__(self, sampler: LengthGroupedSampler, seed: int) -> None:
        super().__init__(sampler.batch_size, lengths=sampler.lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator = torch.Generator().manual_seed((self.seed + self.epoch) % 2**63)
        return super().__iter__()


class PassCounter(TrainerCallback):
    """
    Count the passes over data of known length. `current` is the number of the one that runs.

    `shift` is the number of passes that were begun twice: a run that was resumed with `ignore_data_skip` reads a pass
    from its start again, which must not meet the same noise.
    """

    def __init__(self) -> None:
        self.current, self.shift = 0, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stand before the pass in which the run begins or goes on: data of known length give it as `epoch`."""
        self.current = int(state.epoch or 0) + self.shift - 1

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        """Go on to the next pass, and tell the sampler: accelerate's loaders for a resumed pass do not reach it."""
        self.current += 1
        inner = getattr(train_dataloader, "batch_sampler", None)
        while inner is not None:
            sampler = getattr(inner, "sampler", None)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(self.current - self.shift)
            inner = getattr(inner, "batch_sampler", None)


def digest_batch(batch: dict[str, Any]) -> str:
    """16 hexadecimal digits of the tokens of a batch, on any device."""
    found = hashlib.sha256()
    for name in ("input_ids", "labels"):
        if isinstance(batch.get(name), torch.Tensor):
            found.update(f"{name} {tuple(batch[name].shape)}".encode())
            found.update(batch[name].cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def number_examples(ids: list[int]) -> list[int]:
    """
    Numbers of a stream's examples that no two have in common, from their places `ids` in what this worker reads.

    Workers of a loader all count from 0.
    """
    worker = get_worker_info()
    if worker is not None:
        return [number * worker.num_workers + worker.id for number in ids]
    return ids


__all__ = ["PASS", "EndlessBatches", "PassCounter", "SeededLengthGroups", "digest_batch", "number_examples"]
