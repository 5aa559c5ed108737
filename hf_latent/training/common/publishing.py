"""What trainers push: a repository that stands alone, without the pickles that a training run keeps."""

import logging
import os
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import PreTrainedModel
from transformers.trainer import PushInProgress
from transformers.trainer_utils import HubStrategy

from hf_latent.hub.bundles.bundling import PICKLE_SUFFIXES, is_checkpoint, write_code_record
from hf_latent.hub.cards.card import write_card
from hf_latent.hub.transfer.pushing import push
from hf_latent.modeling.atomic import Scratch, write_atomically
from hf_latent.modeling.travel import TravellingConfigMixin

logger = logging.getLogger(__name__)

CARD = "README.md"
PUSHED = "push"  # names what is being uploaded, beside the run's files
# Beside what a bundle replaces: of adapters and of tokenizers that are not one file.
OTHER_FILES = {"adapter_config.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.txt", CARD}
# Strategies that upload optimizer states, so that a run can be resumed from the Hub.
REFUSED = (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS)


class SelfContainedPushMixin:
    """
    `push_to_hub` of a trainer as `hf_latent.hub.push` does it. Comes first among the bases of a trainer.

    Transformers uploads the whole output folder, with `training_args.bin`, which is a pickle, and during training
    without the code that `config.json` names. Here it is the checkpoint (weights, configurations, tokenizer, code)
    and the card, in one commit; `hub_strategy` "every_save" and "end" mean what they do there. A push that fails
    during training is a warning, because the training is worth more; the next one makes up for it.
    """

    args: Any
    model: Any
    state: Any
    hub_model_id: str | None
    push_in_progress: Any

    def __init__(self, *arguments: Any, args: Any, **kwargs: Any) -> None:
        check_hub_strategy(args)  # before the base class creates the repository
        self._pushes = HfApi()  # one after the other, in the background
        super().__init__(*arguments, args=args, **kwargs)  # type: ignore[call-arg]

    def create_model_card(self, model_name: str | None = None, **kwargs: Any) -> None:
        """The card of a bundle where there is none; of adapters as the base class writes it."""
        if not isinstance(self.model, PreTrainedModel) or not _writes_text(self.model):
            folder = Path(self.args.output_dir)
            name = model_name or str(self.hub_model_id or folder.name)
            super().create_model_card(model_name=name, **kwargs)  # type: ignore[misc]
            if self.is_world_process_zero() and (folder / CARD).is_file():  # type: ignore[attr-defined]
                card = name_base(folder / CARD, name)
                write_atomically(folder / CARD, card)
            return
        folder = Path(self.args.output_dir)
        if self.is_world_process_zero() and not (folder / CARD).exists():  # type: ignore[attr-defined]
            folder.mkdir(parents=True, exist_ok=True)
            write_card(folder, self.model, title=model_name or folder.name)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        base_model: str | None = None,
        **kwargs: Any,
    ) -> Any:
        """
        Save model and tokenizer in `output_dir` and push them with their code and card; as in transformers otherwise.

        Args:
            commit_message, token, revision, private: as in [`hf_latent.hub.push`].
            blocking: whether to wait; otherwise a future is returned.
            base_model: of an adapter that was trained from a folder: its base model's name on the Hub.
            kwargs: for `create_model_card`.

        Returns:
            [`~hf_latent.hub.PushPlan`], or a future of it; None in processes other than the first.
        """
        trainer: Any = self
        trainer.callback_handler.on_push_begin(self.args, self.state, trainer.control)
        token = token or self.args.hub_token
        if self.hub_model_id is None:
            trainer.init_hf_repo(token=token, private=private)
        trainer.save_model(_internal_call=True)
        if not trainer.is_world_process_zero():
            return None
        name = kwargs.pop("model_name", None) or str(self.hub_model_id).rsplit("/", 1)[-1]
        self.create_model_card(model_name=name, **kwargs)
        trainer._finish_current_push()
        output = Path(self.args.output_dir)
        scratch = gather_files(output, output, may_link=blocking)
        revision = revision or self.args.hub_revision
        job = self._pushes.run_as_future(self._push_folder, scratch, commit_message, token, revision, base_model)
        return job.result() if blocking else job

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push a checkpoint in the background, as transformers does it between two steps."""
        trainer: Any = self
        if not trainer.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        running = self.push_in_progress
        if running is not None and not running.is_done() and not self.args.hub_always_push:
            return
        trainer.callback_handler.on_push_begin(self.args, self.state, trainer.control)
        output = Path(self.args.output_dir)
        # Now: the checkpoint may be gone when its turn comes.
        scratch = gather_files(Path(checkpoint_folder), output, card=output / CARD)
        message, revision = f"Training in progress, step {self.state.global_step}", self.args.hub_revision
        job = self._pushes.run_as_future(self._push_folder, scratch, message, self.args.hub_token, revision)
        job.add_done_callback(_warn)
        if running is None or running.is_done():
            self.push_in_progress = PushInProgress([job])
        else:
            running.jobs.append(job)

    def _push_folder(
        self,
        scratch: Scratch,
        message: str | None,
        token: str | None,
        revision: str | None,
        base_model: str | None = None,
    ) -> Any:
        try:
            return push(
                scratch.folder / PUSHED,
                str(self.hub_model_id),
                commit_message=message,
                token=token,
                revision=revision,
                base_model=base_model,
                verify=False,
            )
        finally:
            scratch.close()


def check_hub_strategy(args: Any) -> None:
    """Raise `ValueError` for a `hub_strategy` that publishes optimizer states."""
    if args.push_to_hub and args.hub_strategy in REFUSED:
        raise ValueError(
            f"`hub_strategy`={args.hub_strategy.value!r} publishes optimizer states, which are pickles: use "
            "'every_save' or 'end', and keep checkpoints to resume from on your own disk."
        )


def name_base(card: Path, name: str) -> str:
    """Text of a card of trl's, with words where it knows no name: of a base that lies in a folder, of the model."""
    text = card.read_text(encoding="utf-8")
    unknown = "This model is a fine-tuned version of [None](https://huggingface.co/None)."
    text = text.replace(unknown, "This is an adapter; its base model is named in `adapter_config.json`.")
    return text.replace('model="None"', f'model="{name}"')


def gather_files(source: Path, beside: Path, *, card: Path | None = None, may_link: bool = True) -> Scratch:
    """
    A hidden folder in `beside`, whose subfolder `push` has what a repository has of `source`: checkpoint, adapter,
    tokenizer, code, card.

    Args:
        card: goes before the card of `source`.
        may_link: link weights instead of copying them; they must not be written anew in place meanwhile.
    """
    scratch = Scratch(beside / PUSHED)
    target = scratch.folder / PUSHED
    target.mkdir()
    if card is not None and card.is_file():
        shutil.copy2(card, target / CARD)
    for path in sorted(source.iterdir()):
        if path.is_file() and is_published(path) and not (target / path.name).exists():
            _place(path, target / path.name, may_link=may_link)
    if any(target.glob("*.py")):
        write_code_record(target)
    return scratch


def is_published(path: Path) -> bool:
    """Whether a file of a run's folder goes to the Hub."""
    if path.suffix in PICKLE_SUFFIXES:
        return False
    return is_checkpoint(Path(path.name)) or path.name in OTHER_FILES


def _place(source: Path, target: Path, *, may_link: bool) -> None:
    if may_link and source.suffix == ".safetensors":
        try:
            os.link(source, target)
            return
        except OSError:  # a disk that has no links
            pass
    shutil.copy2(source, target)


def _writes_text(model: PreTrainedModel) -> bool:
    return isinstance(model.config, TravellingConfigMixin) and model.can_generate()


def _warn(job: Future) -> None:
    error = job.exception()
    if error is not None:
        logger.warning("A push during training failed; training goes on. %s", error)


__all__ = ["SelfContainedPushMixin", "check_hub_strategy", "gather_files", "is_published"]
