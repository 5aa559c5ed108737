"""One call of `hf-latent eval`: every metric with every setting, shared among processes, reported as it comes."""

import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.data.identity import identify, record_or_check
from hf_latent.evaluation.comparison.compare import compare
from hf_latent.evaluation.metrics import Metric, Settings
from hf_latent.evaluation.reports.report import (
    describe_settings,
    model_label,
    put_comparisons,
    put_entry,
    read_entries,
    write_report,
)
from hf_latent.evaluation.sharded_runs import (
    Shard,
    collect,
    count_missing,
    process_state,
    run,
    run_key,
    store_of,
)

Advance = Callable[[int], None]


@dataclass
class Evaluator:
    """
    What all measurements of a call share.

    Under one name (and adapter) a folder holds results of one model: `models/NAME.json` says what decides its output,
    and an evaluator with other weights, settings or versions is refused by a `ValueError` that names them.

    Args:
        folder: for `models/`, `results.json`, `results.md`, plots and `records/`.
        header: of every entry: command, model, environment.
        batch_size: rows of a forward.
        entries: of the results file, after each measurement.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path
    header: dict[str, Any]
    batch_size: int = 32
    show_progress: bool = True
    entries: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = process_state()
        self.shard = Shard(self.state.process_index, self.state.num_processes)
        self.identity = identify(self.model, self.tokenizer)
        if self.is_main:
            self._check_model()
        self.state.wait_for_everyone()

    @property
    def is_main(self) -> bool:
        """Whether this process reports."""
        return self.state.is_main_process

    def _check_model(self) -> None:
        about = self.header.get("model") or {}
        known = self.folder / "models"
        if not known.is_dir() and (self.folder / "results.json").is_file():
            raise ValueError(
                f"`output` ({self.folder}) holds results but not of which weights: it was begun by an earlier "
                "version, and results of two models do not mix. Give another folder."
            )
        record_or_check(known / f"{model_label(about)}.json", {"model": self.identity}, about=about)

    def evaluate(self, metric: Metric, settings: Settings) -> dict[str, Any] | None:
        """Make what is missing, wait for the other processes, report. The entry; None but in the main process."""
        key = run_key(self.identity, metric, settings)
        store = store_of(self.folder, key, self.shard)
        missing = count_missing(metric, store, self.shard)
        worded = {} if metric.wording is None else {"wording": metric.wording.name}
        title = " ".join([metric.name, *worded.values(), describe_settings(settings)])
        with self._bar(title, missing) as advance:
            run(
                metric,
                settings,
                self.model,
                self.tokenizer,
                store,
                batch_size=self.batch_size,
                shard=self.shard,
                on_done=advance,
            )
        self.state.wait_for_everyone()
        if not self.is_main:
            return None
        summary = collect(metric, settings, store)
        about = {"task": metric.name, "measure": metric.kind, **worded, "settings": settings}
        origin = {"examples": metric.question_digest, "identity": metric.identity, "source": metric.source}
        return self.put({**about, **summary, "run": key, **origin})

    def put(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Write an entry into the results file, with the header."""
        entry = {**entry, **self.header, "num_processes": self.shard.num_processes}
        self.entries = put_entry(self.folder / "results.json", entry)
        return entry

    def report(self) -> list[Path]:
        """Write table and plots of everything in the results file."""
        if not (self.is_main and self.entries):
            return []
        path = self.folder / "results.json"
        self.entries = read_entries(path)  # another evaluation may have added to it
        put_comparisons(path, compare(self.entries))
        return write_report(self.folder, self.entries)

    @contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Advance | None]:
        """A progress bar on standard error, of the main process's shard."""
        if not (self.is_main and self.show_progress and total):
            with nullcontext():
                yield None
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda num: progress.advance(task, num)


def shown_command(arguments: Sequence[str]) -> str:
    """The command as it can be typed again."""
    name = Path(arguments[0]).name
    program = ["python", "-m", "hf_latent.cli"] if name == "__main__.py" else [name]
    return shlex.join([*program, *arguments[1:]])


__all__ = ["Evaluator", "shown_command"]
