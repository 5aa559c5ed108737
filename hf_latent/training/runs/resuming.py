"""How every trainer saves and goes on: whole checkpoints only, the newest by default, the same data and noise."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import broadcast_object_list
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import has_length, rotate_checkpoints

from hf_latent.modeling.atomic import Scratch, put_in_place, remove_leftovers, write_atomically
from hf_latent.training.runs.checkpoints import RECORD, STATE, find_newest, read_record, what_is_missing
from hf_latent.training.runs.launching import check_launch, check_strategy
from hf_latent.training.runs.passes import EndlessBatches, PassCounter, SeededLengthGroups, digest_batch
from hf_latent.training.runs.run_record import check_same_run, describe_run

logger = logging.getLogger(__name__)


class ResumableMixin:
    """
    Checkpoints and resumption of a trainer. Comes before transformers' `Trainer` among its bases.

    - `train()` goes on from the newest whole checkpoint in `output_dir`, if there is one, and says so, also which
      newer ones it passed over and why. `resume_from_checkpoint` (here or in the arguments) `False` begins anew,
      `True` asks for one, a path names it. A trainer that has taken steps goes on with what it holds.
    - A checkpoint is written beside and renamed: whoever is killed while saving leaves the one before whole.
    - A run goes on with its own settings, data and weights only, though for longer if wanted; changes are named.
    - The order of the data and the noise are a function of seed and pass: a resumed run meets what the uninterrupted
      one meets. A stream has to give the same examples each time that it is read from its start, which is checked.
    """

    args: Any
    state: Any
    accelerator: Any
    model: Any
    model_wrapped: Any
    train_dataset: Any
    is_fsdp_enabled: bool
    needed_files: Mapping[str, str] = {}  # of a checkpoint, beside those of transformers; see `what_is_missing`

    def __init__(self, *arguments: Any, args: Any, **kwargs: Any) -> None:
        check_launch(args)
        self.passes = PassCounter()
        self._stream: EndlessBatches | None = None
        self._saving_in: str | None = None
        self._resumed: dict[str, Any] = {}  # the record of the checkpoint that this run goes on from
        self._facts: dict[str, Any] | None = None
        self._plan: tuple[Path | None] | None = None  # the checkpoint that the next `train` goes on from
        self._begun = self._started = time.time()
        super().__init__(*arguments, args=args, **kwargs)  # type: ignore[call-arg]
        check_strategy(self)
        self.add_callback(self.passes)  # type: ignore[attr-defined]

    # Going on

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """
        Train as [`~transformers.Trainer.train`] does.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*):
                By default that of the arguments, else `"auto"`: the newest whole checkpoint in `output_dir`, or the
                start if there is none. `True` requires one, `False` begins anew, a path names a checkpoint.
        """
        if resume_from_checkpoint is not None or self._plan is None:
            self.plan(resume_from_checkpoint)
        checkpoint, self._plan = (None, None) if self._plan is None else (self._plan[0], None)
        self._begun = time.time()
        before = 0 if checkpoint is None else _step_of(checkpoint)
        if self.args.world_size > 1 and self.model_wrapped is self.model and not self.is_fsdp_enabled:
            # An evaluation before the first step marks the model as prepared; it would then never be wrapped in DDP,
            # and each process would train on its own gradients.
            self.model._is_accelerate_prepared = False
        output = super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)  # type: ignore[misc]
        if output.global_step == before:  # nothing was left to do, and a mean over no steps is no loss
            output.metrics.pop("train_loss", None)
        return output._replace(training_loss=output.metrics.get("train_loss", float("nan")))

    def plan(self, resume_from_checkpoint: str | bool | None = None) -> Path | None:
        """
        Which checkpoint the next `train` goes on from; None for a new run.

        Raises:
            ValueError: for a checkpoint that is not whole or of another run, before anything is written.
        """
        checkpoint = self._choose_checkpoint(resume_from_checkpoint)
        self._resumed = {} if checkpoint is None else read_record(checkpoint)
        self._started = float(self._resumed.get("started", time.time()))
        self.passes.shift = int(self._resumed.get("pass_shift", 0))
        self._facts = describe_run(self) if checkpoint is not None or self._saves() else None
        if checkpoint is not None:
            self._go_on_from(checkpoint)
        self._plan = (checkpoint,)
        return checkpoint

    @property
    def train_seconds(self) -> float:
        """Wall time in training, with what was done before an interruption and saved."""
        return float(self._resumed.get("seconds", 0.0)) + time.time() - self._begun

    def _saves(self) -> bool:
        return str(getattr(self.args.save_strategy, "value", self.args.save_strategy)) != "no"

    def _choose_checkpoint(self, given: str | bool | None) -> Path | None:
        given = self.args.resume_from_checkpoint if given is None else given
        wanted = "auto" if given is None else str(given)
        if wanted.lower() not in ("auto", "true", "false"):
            path = Path(wanted)
            if not path.is_dir():
                raise ValueError(
                    "`resume_from_checkpoint` must be true, false, auto or the folder of a checkpoint, got "
                    f"{wanted!r}, which does not exist"
                )
            if (reason := what_is_missing(path, self.needed_files)) is not None:
                raise ValueError(
                    f"`resume_from_checkpoint`: {path} is not whole ({reason}), a run cannot go on from it. `true` "
                    "takes the newest whole one; its weights, if they are whole, can be the model of a new run"
                )
            return path
        if wanted.lower() == "false" or getattr(self, "hp_search_backend", None) is not None:
            return None
        if wanted.lower() == "auto" and self.state.global_step > 0:
            return None
        names: list[Any] = [None, []]
        if self.args.process_index == 0:
            if self.args.should_save:
                self._remove_leftovers()
            found = find_newest(self.args.output_dir, self.needed_files)
            names = [found.checkpoint, found.skipped]
            for path, reason in found.skipped:
                logger.warning("Skipped %s, which is not whole: %s", path, reason)
        if self.args.world_size > 1:
            broadcast_object_list(names)
        checkpoint, skipped = names
        if checkpoint is None and wanted.lower() == "true":
            about = "; ".join(f"{path.name}: {reason}" for path, reason in skipped) or "there is none"
            raise ValueError(f"`resume_from_checkpoint`: no whole checkpoint in {self.args.output_dir} ({about})")
        return checkpoint

    def _remove_leftovers(self) -> None:
        for path in Path(self.args.output_dir).glob(".*.????????.tmp"):
            remove_leftovers(path.with_name(path.name[1:].rsplit(".", 2)[0]))

    def _go_on_from(self, checkpoint: Path) -> None:
        ignores_data = bool(self.args.ignore_data_skip)
        check_same_run(checkpoint, self._facts or {}, ignores_data=ignores_data)
        if self.args.process_index == 0:
            logger.warning(
                "Going on from %s (step %d); `resume_from_checkpoint=False` begins anew",
                checkpoint,
                _step_of(checkpoint),
            )
        if ignores_data:
            logger.warning("`ignore_data_skip`: the data are read from the start of a pass, not from where they were")
            self.passes.shift += 1
        elif self.passes.shift:
            logger.warning(
                "This run went on with `ignore_data_skip` before: which data it has met since is not known, and it "
                "goes on with other ones than the uninterrupted run"
            )

    def _init_training_state(self, max_steps: int, steps: int, epochs: int, *args: Any, **kwargs: Any) -> Any:
        """A run that has taken all of its steps takes none more."""
        begun = super()._init_training_state(max_steps, steps, epochs, *args, **kwargs)  # type: ignore[misc]
        return (epochs, 0) if 0 < max_steps <= self.state.global_step else begun

    # Data

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler = super()._get_train_sampler(*args, **kwargs)  # type: ignore[misc]
        return SeededLengthGroups(sampler, self._data_seed) if type(sampler) is LengthGroupedSampler else sampler

    @property
    def _data_seed(self) -> int:
        return self.args.seed if self.args.data_seed is None else self.args.data_seed

    def get_train_dataloader(self) -> Any:
        """As in transformers; without a length, pass after pass: see [`EndlessBatches`]."""
        loader = super().get_train_dataloader()  # type: ignore[misc]
        self._stream = None
        if has_length(loader):
            return loader
        known = self._resumed.get("stream") or {}
        first = known.get("passes_begun", 0) if self.args.ignore_data_skip else known.get("first_pass", 0)
        self._stream = EndlessBatches(loader, seed=self._data_seed, first_pass=first)
        if known and not self.args.ignore_data_skip and not self.passes.shift and self.args.process_index == 0:
            self._stream.expect(known["consumed"], known["digest"])
        return self._stream

    # Saving

    def _get_output_dir(self, *args: Any, **kwargs: Any) -> str:
        return self._saving_in or super()._get_output_dir(*args, **kwargs)  # type: ignore[misc]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint beside, add what it takes to go on from it, put it in place, drop what is too many."""
        run_dir = Path(self._get_output_dir(trial=trial))
        run_dir.mkdir(parents=True, exist_ok=True)
        final = run_dir / f"checkpoint-{self.state.global_step}"
        with self._beside(final) as folder:
            self._saving_in = str(folder)
            try:
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
            finally:
                self._saving_in = None
            best = self.state.best_model_checkpoint
            if best is not None and Path(best).parent == folder:
                self.state.best_model_checkpoint = str(final)
            if self.args.should_save:
                self.state.save_to_json(str(folder / final.name / STATE))
                write_atomically(folder / final.name / RECORD, json.dumps(self._describe_progress(), indent=1) + "\n")
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    @contextmanager
    def _beside(self, final: Path) -> Iterator[Path]:
        """One hidden folder for all processes; what they write there is put in place once all are done."""
        is_first = self.args.process_index == 0
        scratch = Scratch(final) if is_first else None
        try:
            names = [None if scratch is None else str(scratch.folder)]
            if self.args.world_size > 1:
                broadcast_object_list(names)
            folder = Path(str(names[0]))
            yield folder
            self.accelerator.wait_for_everyone()
            if is_first:
                put_in_place(folder / final.name, final)
            self.accelerator.wait_for_everyone()
            if self.args.local_process_index == 0 and (folder / final.name).is_dir():  # a disk of another machine
                put_in_place(folder / final.name, final)
                folder.rmdir()
        finally:
            if scratch is not None:
                scratch.close()

    def _describe_progress(self) -> dict[str, Any]:
        stream = self._stream
        if self._facts is None:
            self._facts = describe_run(self) | {"weights": None}  # those it started from are gone
        return {
            "started": self._started,
            "seconds": self.train_seconds,
            "num_processes": self.args.world_size,
            "pass_shift": self.passes.shift,
            "stream": None
            if stream is None or stream.last is None
            else {
                "consumed": stream.consumed,
                "digest": digest_batch(stream.last),
                "first_pass": stream.first_pass,
                "passes_begun": stream.passes_begun,
            },
            "facts": self._facts,
        }

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        """Model and tokenizer; in a folder that others read, each file is written beside."""
        if self._saving_in is not None or not self.args.should_save:
            super()._save(output_dir, state_dict=state_dict)  # type: ignore[misc]
            return
        with replacing_files(Path(output_dir or self.args.output_dir)) as beside:
            super()._save(str(beside), state_dict=state_dict)  # type: ignore[misc]


@contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """
    Where to write a model whose files then take the place of those of `folder`, the weights first; the rest of
    `folder` stays, but for parts of earlier weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with Scratch(folder / "model") as scratch:
        beside = scratch / "model"
        beside.mkdir()
        card = folder / "README.md"
        if card.is_file():  # peft brings an existing card up to date
            (beside / card.name).write_bytes(card.read_bytes())
        yield beside
        written = sorted(
            beside.rglob("*"), key=lambda path: (path.suffix != ".safetensors", path.name == "config.json")
        )
        for path in written:
            target = folder / path.relative_to(beside)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
        for path in written:
            if path.is_file():
                put_in_place(path, folder / path.relative_to(beside))
        names = {str(path.relative_to(beside)) for path in written}
    if any(name.endswith(".safetensors") and name.startswith("model") for name in names):
        for old in (*folder.glob("model-*-of-*.safetensors"), *folder.glob("model.safetensors*")):
            if old.name not in names:
                old.unlink()


def _step_of(checkpoint: Path) -> int:
    return int(json.loads((checkpoint / STATE).read_text(encoding="utf-8"))["global_step"])


__all__ = ["ResumableMixin", "replacing_files"]
