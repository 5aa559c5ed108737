"""A run goes on from the newest whole checkpoint, whatever its writer was killed in, and only as the run it was."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from hf_latent import LladaForMaskedDiffusion
from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer
from hf_latent.training.runs.checkpoints import find_newest, read_record, what_is_missing

RUN: dict[str, Any] = {
    "max_steps": 6,
    "per_device_train_batch_size": 5,
    "learning_rate": 0.05,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 2,
}


class KilledWhileSaving(LladaForMaskedDiffusion):
    """Whose process ends when its weights of step 4 are on the disk, before anything else is."""

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        super().save_pretrained(save_directory, *args, **kwargs)
        if Path(save_directory).name == "checkpoint-4":
            os.kill(os.getpid(), signal.SIGKILL)


class KilledBeforeTheState(MaskedDiffusionTrainer):
    """Whose process ends when all but the trainer's state of step 4 is on the disk."""

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        if output_dir.endswith("checkpoint-4"):
            os.kill(os.getpid(), signal.SIGKILL)


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def run_and_be_killed(train: Callable[[], Any]) -> None:
    """In a process of its own, which does not return."""
    child = os.fork()
    if child == 0:
        try:
            train()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL, status


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("kind", ["full", "sharded", "lora"])
def test_a_run_that_was_killed_inside_a_save_goes_on_with_the_same_losses(
    make_trainer: Any, make_model: Any, tokenizer: Any, ragged_dataset: Dataset, tmp_path: Path, kind: str
) -> None:
    """Written in place, the newest checkpoint has no optimizer, or half of its weights, and nobody can go on."""
    lora = LoraConfig(target_modules=["q_proj", "v_proj"], r=4) if kind == "lora" else None

    def model() -> Any:
        made = make_model()
        if kind == "sharded":
            made.__class__ = type("Sharded", (LladaForMaskedDiffusion,), {"save_pretrained": save_in_shards})
        return made

    def train(folder: str, killed: bool = False) -> Any:
        trainer = make_trainer(model(), peft_config=lora, output_dir=str(tmp_path / folder), save_total_limit=1, **RUN)
        if killed:
            trainer.__class__ = KilledBeforeTheState
        trainer.train()
        return trainer

    whole = train("whole")
    run_and_be_killed(lambda: train("cut", killed=True))
    assert sorted(path.name for path in (tmp_path / "cut").glob("checkpoint-*")) == ["checkpoint-2"]
    assert list((tmp_path / "cut").glob(".checkpoint-4.*"))
    resumed = train("cut")
    assert losses(resumed) == losses(whole)
    assert not list((tmp_path / "cut").glob(".*")), "what the killed process left is gone"
    for name, value in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], value), name


def save_in_shards(self: Any, save_directory: Any, *args: Any, **kwargs: Any) -> None:
    LladaForMaskedDiffusion.save_pretrained(self, save_directory, *args, **{**kwargs, "max_shard_size": "4KB"})


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_run_that_was_killed_inside_its_first_save_begins_anew(
    make_trainer: Any, make_model: Any, tmp_path: Path
) -> None:
    def train(kind: type = LladaForMaskedDiffusion) -> Any:
        model = make_model()
        model.__class__ = kind
        trainer = make_trainer(model, **{**RUN, "save_steps": 4})
        trainer.train()
        return trainer

    run_and_be_killed(lambda: train(KilledWhileSaving))
    assert len(losses(train())) == 6


@pytest.fixture
def checkpoints(make_trainer: Any, tmp_path: Path) -> Path:
    """A folder with checkpoint-2, -4 and -6."""
    make_trainer(**RUN).train()
    return tmp_path


def test_a_torn_checkpoint_is_passed_over_and_named(
    checkpoints: Path, make_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Of each file: none, and half of it."""
    newest = checkpoints / "checkpoint-6"
    assert find_newest(checkpoints).checkpoint == newest
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        path = newest / name
        content = path.read_bytes()
        for part in (None, content[: len(content) // 2], b""):
            path.unlink()
            if part is not None:
                path.write_bytes(part)
            found = find_newest(checkpoints)
            assert found.checkpoint == checkpoints / "checkpoint-4", (name, part)
            assert name in found.skipped[0][1]
            path.write_bytes(content)
    (newest / "optimizer.pt").unlink()
    with pytest.raises(ValueError, match=r"optimizer\.pt is missing"):
        make_trainer(**RUN).train(resume_from_checkpoint=str(newest))
    trainer = make_trainer(**RUN)
    trainer.train()
    assert "Skipped" in caplog.text
    assert "checkpoint-6" in caplog.text
    assert f"Going on from {checkpoints / 'checkpoint-4'} (step 4)" in caplog.text
    assert what_is_missing(newest) is None, "it was written anew"


def test_true_false_auto_and_a_path(checkpoints: Path, make_trainer: Any, tmp_path: Path) -> None:
    longer = {**RUN, "max_steps": 7}

    def first_step(given: Any, **arguments: Any) -> int:
        trainer = make_trainer(**{**longer, "save_strategy": "no", **arguments})
        begun: list[int] = []
        on_train_begin = trainer.passes.on_train_begin
        trainer.passes.on_train_begin = lambda args, state, *rest, **more: (
            begun.append(state.global_step),
            on_train_begin(args, state, *rest, **more),
        )[0]
        trainer.train(resume_from_checkpoint=given)
        return begun[0]

    for given in (None, True, "auto", "true", "True"):
        assert first_step(given) == 6, given
    for given in (False, "false", "False"):
        assert first_step(given) == 0, given
    assert first_step(None, resume_from_checkpoint="false") == 0
    assert first_step(None, resume_from_checkpoint=False) == 0
    assert first_step(str(checkpoints / "checkpoint-2")) == 2
    with pytest.raises(ValueError, match="no whole checkpoint"):
        make_trainer(**RUN, output_dir=str(tmp_path / "other")).train(resume_from_checkpoint=True)
    with pytest.raises(ValueError, match="`resume_from_checkpoint` must be true, false, auto or"):
        make_trainer(**RUN).train(resume_from_checkpoint="cehckpoint-2")


def test_what_was_begun_later_is_newer_than_a_higher_number(checkpoints: Path, make_trainer: Any) -> None:
    """A run that began anew in the folder of another, and was interrupted before it got as far."""
    trainer = make_trainer(**{**RUN, "max_steps": 2, "seed": 1})
    trainer.train(resume_from_checkpoint=False)
    assert find_newest(checkpoints).checkpoint == checkpoints / "checkpoint-2"


def test_a_complete_run_takes_no_further_step_and_claims_no_loss(checkpoints: Path, make_trainer: Any) -> None:
    """Trainer takes one more, beyond `max_steps`, and reports a mean loss of 0.0."""
    trainer = make_trainer(**RUN)
    output = trainer.train()
    assert output.global_step == trainer.state.global_step == 6
    assert "train_loss" not in output.metrics
    assert output.training_loss != 0
    assert trainer.train_seconds >= read_record(checkpoints / "checkpoint-6")["seconds"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"learning_rate": 0.01}, "settings.learning_rate 0.05 -> 0.01"),
        ({"loss_weighting": "uniform"}, "settings.loss_weighting"),
        ({"seed": 3}, "settings.seed 42 -> 3"),
        ({"per_device_train_batch_size": 4}, "settings.batch_size 5 -> 4"),
    ],
)
def test_a_run_with_other_settings_does_not_go_on(
    checkpoints: Path, make_trainer: Any, change: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named):
        make_trainer(**{**RUN, **change}).train()
    make_trainer(**{**RUN, **change}).train(resume_from_checkpoint=False)


def test_a_run_with_other_data_or_weights_does_not_go_on_and_a_longer_one_does(
    make_trainer: Any, make_model: Any, ragged_dataset: Dataset, tmp_path: Path
) -> None:
    for seed in (0, 1):
        make_model(seed).save_pretrained(tmp_path / f"base-{seed}")

    def trainer(base: int = 0, **arguments: Any) -> Any:
        model = LladaForMaskedDiffusion.from_pretrained(tmp_path / f"base-{base}")
        return make_trainer(model, output_dir=str(tmp_path / "run"), **{**RUN, **arguments})

    trainer().train()
    with pytest.raises(ValueError, match="weights"):
        trainer(1).train()
    with pytest.raises(ValueError, match=r"data\.tokens"):
        trainer(train_dataset=ragged_dataset.select([1, *range(23)])).train()
    shutil.copytree(tmp_path / "base-0", tmp_path / "moved")
    shutil.rmtree(tmp_path / "base-1")
    (tmp_path / "moved").rename(tmp_path / "base-1")
    assert trainer(1, max_steps=8).train().global_step == 8, "the same weights at another place"


def test_an_interrupted_final_save_leaves_the_model_of_before(
    make_trainer: Any, make_model: Any, tmp_path: Path
) -> None:
    class Failing(LladaForMaskedDiffusion):
        def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
            super().save_pretrained(save_directory, *args, **kwargs)
            raise OSError("no space left")

    trainer = make_trainer(output_dir=str(tmp_path / "run"))
    trainer.save_model()
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    trainer.model = make_model(1)
    trainer.model.__class__ = Failing
    with pytest.raises(OSError, match="no space"):
        trainer.save_model()
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_a_sharded_model_is_replaced_by_a_whole_one(make_trainer: Any, make_model: Any, tmp_path: Path) -> None:
    """Parts of earlier weights, and their index, would be loaded in the place of what was saved."""
    model = make_model()
    trainer = make_trainer(model, output_dir=str(tmp_path / "run"))
    model.__class__ = type("Sharded", (LladaForMaskedDiffusion,), {"save_pretrained": save_in_shards})
    trainer.save_model()
    assert (tmp_path / "run" / "model.safetensors.index.json").is_file()
    model.__class__ = LladaForMaskedDiffusion
    torch.nn.init.ones_(model.lm_head.weight)
    trainer.save_model()
    assert [path.name for path in (tmp_path / "run").glob("model*.safetensors*")] == ["model.safetensors"]
    loaded = LladaForMaskedDiffusion.from_pretrained(tmp_path / "run")
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_the_arguments_take_what_a_command_line_gives() -> None:
    assert MaskedDiffusionConfig("x", resume_from_checkpoint="false", use_cpu=True).resume_from_checkpoint == "false"
