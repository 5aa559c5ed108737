"""Examples of a metric shared among processes; every record is kept, an interrupted run goes on where it stopped."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.evaluation.metrics import Metric, Record, Settings
from hf_latent.evaluation.reports.records import RecordStore, digest

PATIENCE = timedelta(days=7)  # shards differ in length, and the first to be done waits


@dataclass(frozen=True)
class Shard:
    """The examples of one process of `num_processes`: example `n` is the business of process `n % num_processes`."""

    process: int = 0
    num_processes: int = 1


def process_state() -> PartialState:
    """
    This process among those of `torchrun` or `accelerate launch`; alone without them.

    Without an accelerator accelerate must be told that processes are to meet on the CPU: each would else believe that
    it is alone, and do the work of all.
    """
    is_launched = "LOCAL_RANK" in os.environ
    return PartialState(cpu=is_launched and not torch.accelerator.is_available(), timeout=PATIENCE)


def run_key(identity: Mapping[str, Any], metric: Metric, settings: Settings) -> str:
    """Digest of what the records of a measurement are a function of, beside the examples; see `identify`."""
    return digest([identity, metric.identity, settings])


def example_keys(metric: Metric) -> list[str]:
    """Identity of each example: its place, which its noise depends on, and all of its content."""
    return [f"{number}-{digest(example)}" for number, example in enumerate(metric.examples)]


def run(
    metric: Metric,
    settings: Settings,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    store: RecordStore,
    *,
    batch_size: int,
    shard: Shard = Shard(),
    on_done: Callable[[int], None] | None = None,
) -> None:
    """
    Make the records of this process's examples that `store` lacks, and keep each list of them as it comes.

    Args:
        on_done: called with the number of records made since the last call.
    """
    keys, known = example_keys(metric), store.read()
    if not keys:
        raise ValueError(f"{metric.name} has no examples to measure.")
    numbers = [n for n in range(shard.process, len(keys), shard.num_processes) if keys[n] not in known]
    if not numbers:
        return
    done = 0
    for records in metric.records(model, tokenizer, numbers, settings, batch_size):
        some = numbers[done : done + len(records)]
        store.append({"key": keys[n], **record} for n, record in zip(some, records, strict=True))
        done += len(records)
        if on_done is not None:
            on_done(len(records))


def count_missing(metric: Metric, store: RecordStore, shard: Shard = Shard()) -> int:
    """How many records `run` would make."""
    keys, known = example_keys(metric), store.read()
    return sum(keys[n] not in known for n in range(shard.process, len(keys), shard.num_processes))


def collect(metric: Metric, settings: Settings, store: RecordStore) -> dict[str, Any]:
    """
    The summary of all examples.

    Raises:
        ValueError: if records are missing.
    """
    keys, known = example_keys(metric), store.read()
    if not keys:
        raise ValueError(f"{metric.name} has no examples to measure.")
    missing = sum(key not in known for key in keys)
    if missing:
        raise ValueError(f"{missing} of {len(keys)} examples of {metric.name} are not measured yet in {store.folder}.")
    return metric.summarize(settings, [_content(known[key]) for key in keys])


def _content(record: Record) -> Record:
    return {name: value for name, value in record.items() if name != "key"}


def settings_of(metric: Metric, grid: Sequence[Settings], samples: Settings, seed: int) -> list[Settings]:
    """What to run a metric with: every decoder of the grid, or the draws."""
    return [{**settings, "seed": seed} for settings in grid] if metric.decodes else [{**samples, "seed": seed}]


def store_of(folder: Path, key: str, shard: Shard) -> RecordStore:
    """Where records of a measurement are kept in the `folder` of an evaluation."""
    return RecordStore(folder / "records" / key, shard.process)


__all__ = [
    "Shard",
    "collect",
    "count_missing",
    "example_keys",
    "process_state",
    "run",
    "run_key",
    "settings_of",
    "store_of",
]
