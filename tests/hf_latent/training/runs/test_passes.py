"""Streams over several passes: no noise twice, no gradient lost at the end of a pass, and a resume meets the same."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from datasets import IterableDataset, interleave_datasets
from transformers import TrainerCallback

from hf_latent.training import MaskedDiffusionTrainer
from hf_latent.training.runs.passes import PASS

RUN: dict[str, Any] = {
    "max_steps": 7,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.05,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 100,
}


def rows(first: int = 0, count: int = 10) -> Iterator[dict[str, Any]]:
    generator = torch.Generator().manual_seed(first)
    for _ in range(count):
        ids = torch.randint(3, 15, (8,), generator=generator).tolist()
        yield {"input_ids": ids, "labels": [-100, -100, *ids[2:]]}


def shards(numbers: list[int]) -> Iterator[dict[str, Any]]:
    for number in numbers:
        yield from rows(number, 5)


def stream() -> IterableDataset:
    return IterableDataset.from_generator(rows)


STREAMS = {
    "plain": stream,
    "shuffled": lambda: stream().shuffle(seed=3, buffer_size=6),
    "interleaved": lambda: interleave_datasets(
        [stream(), IterableDataset.from_generator(rows, gen_kwargs={"first": 1})], probabilities=[0.3, 0.7], seed=5
    ),
    "two workers": lambda: IterableDataset.from_generator(shards, gen_kwargs={"numbers": [0, 1]}),
    "packed": stream,
    "accumulated": stream,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "two workers": {"dataloader_num_workers": 2},
    "packed": {"packing": True, "max_length": 16, "per_device_train_batch_size": 2},
    "accumulated": {"gradient_accumulation_steps": 2},
}


class Stop(TrainerCallback):
    """Save after a step, and end."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_training_stop = control.should_save = True


class Met(MaskedDiffusionTrainer):
    """Keeps which example it met with the noise of which pass."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if model.training:
            vars(self).setdefault("met", []).extend((inputs[PASS], number) for number in inputs["example_id"].tolist())
        return super().compute_loss(model, inputs, *args, **kwargs)


def losses(trainer: Any) -> list[float]:
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("kind", list(STREAMS))
def test_no_noise_is_met_twice_and_a_resumed_run_meets_the_same(
    make_trainer: Any, make_model: Any, tmp_path: Any, kind: str
) -> None:
    """Dropout, too: three batches a pass, and interrupted inside the second, and at its start."""

    def train(folder: str, *callbacks: Any) -> Any:
        model = make_model(attention_dropout=0.3, attn_implementation="eager")
        options = {**RUN, "output_dir": str(tmp_path / folder), **OPTIONS.get(kind, {})}
        trainer = make_trainer(model, STREAMS[kind](), callbacks=[*callbacks], **options)
        trainer.__class__ = Met
        trainer.train()
        return trainer

    whole = train("whole")
    assert len(set(whole.met)) == len(whole.met), "an example meets other noise in each pass"
    assert {number for number, _ in whole.met} > {0}
    for step in (3, 4):
        train(f"cut-{step}", Stop(step))
        assert losses(train(f"cut-{step}")) == losses(whole), step


def test_gradients_are_accumulated_over_the_end_of_a_pass(make_trainer: Any) -> None:
    """
    Trainer leaves those of the last batch of a pass to the next step, which then has three, divided by the items of
    two. Two passes of three batches, by twos, are the steps of six batches in one pass but for the noise: without any,
    with one supervised token that is always masked, they are the same.
    """

    def one_token(count: int) -> Iterator[dict[str, Any]]:
        for number in range(count):
            yield {"input_ids": [3 + number % 3, 9 - number % 3], "labels": [-100, 9 - number % 3]}

    results = []
    for count in (3, 6):
        data = IterableDataset.from_generator(one_token, gen_kwargs={"count": count})
        steps = {
            "max_steps": 3,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": 2,
            "logging_steps": 1,
        }
        plain = {"loss_weighting": "uniform", "time_epsilon": 0.999999, "max_grad_norm": 0.0}
        trainer = make_trainer(train_dataset=data, lr_scheduler_type="constant", **steps, **plain)
        trainer.train()
        results.append(losses(trainer))
    assert results[0] == pytest.approx(results[1], abs=1e-5)


def test_a_stream_that_gives_other_examples_is_refused_by_name(make_trainer: Any, tmp_path: Any) -> None:
    begun: list[int] = []

    def other_every_time() -> Iterator[dict[str, Any]]:
        begun.append(0)
        yield from rows(len(begun))

    data = IterableDataset.from_generator(other_every_time)
    make_trainer(train_dataset=data, callbacks=[Stop(5)], **RUN).train()
    with pytest.raises(ValueError, match="batch 5 of `train_dataset` is another one than before"):
        make_trainer(train_dataset=data, **RUN).train()
    resumed = make_trainer(train_dataset=data, ignore_data_skip=True, **RUN)
    resumed.__class__ = Met
    resumed.train()
    assert {number for number, _ in resumed.met} == {2}, "noise of a pass that no example has met"


def test_a_stream_without_an_example_is_refused_and_one_that_ends_ends(
    make_trainer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    rest = iter(list(rows()))
    with pytest.raises(ValueError, match="`train_dataset`"):
        make_trainer(train_dataset=IterableDataset.from_generator(lambda: iter(())), **RUN).train()

    class Once(torch.utils.data.IterableDataset):
        column_names = ("input_ids", "labels", "example_id")

        def __iter__(self) -> Iterator[dict[str, Any]]:
            yield from rest

    trainer = make_trainer(train_dataset=stream(), **RUN)
    trainer.train_dataset = Once()
    trainer.data_collator = lambda examples: {
        "input_ids": torch.tensor([example["input_ids"] for example in examples]),
        "labels": torch.tensor([example["labels"] for example in examples]),
        "example_id": torch.arange(len(examples)),
    }
    assert trainer.train().global_step == 3
    assert "it can be read once only" in caplog.text


@pytest.mark.parametrize("strategy", ["group_by_length", "batch_rebalance", "random"])
def test_any_order_of_a_dataset_is_found_again_in_a_later_pass(
    make_trainer: Any, ragged_dataset: Any, tmp_path: Any, strategy: str
) -> None:
    """transformers draws the order of groups from the generator that dropout uses, as it is when a pass begins."""

    def train(folder: str, *callbacks: Any) -> Any:
        options = {**RUN, "output_dir": str(tmp_path / folder), "max_steps": 10}
        trainer = make_trainer(
            callbacks=[*callbacks], per_device_eval_batch_size=4, train_sampling_strategy=strategy, **options
        )
        trainer.train()
        return trainer

    whole = train("whole")
    train("cut", Stop(8))  # of six steps a pass
    torch.rand(7)
    assert losses(train("cut")) == losses(whole)


def test_a_pass_that_is_read_again_meets_other_noise(make_trainer: Any, ragged_dataset: Any) -> None:
    """`ignore_data_skip` of a dataset with a length: the interrupted pass begins anew."""
    make_trainer(callbacks=[Stop(8)], **RUN | {"max_steps": 12}).train()
    resumed = make_trainer(ignore_data_skip=True, **RUN | {"max_steps": 12})
    passes: list[int] = []
    draw = resumed._draw
    resumed._draw = lambda inputs: passes.append(draw(inputs)["epoch"]) or draw(inputs)
    resumed.train()
    assert set(passes) == {2}, "not that of pass 1, which its examples have met"
