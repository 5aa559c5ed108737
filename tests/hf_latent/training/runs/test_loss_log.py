"""A loss that is logged is one: no 0.0 for NaN, nor for what has no supervised token."""

import math
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset

from hf_latent import LladaForMaskedDiffusion

RUN: dict[str, Any] = {"per_device_train_batch_size": 4, "logging_steps": 1, "train_sampling_strategy": "sequential"}


def logged(trainer: Any, name: str) -> list[Any]:
    return [entry.get(name) for entry in trainer.state.log_history if "grad_norm" in entry]


class NotANumber(LladaForMaskedDiffusion):
    """Whose scores are NaN in its second forward of training."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        self.forwards = getattr(self, "forwards", 0) + self.training
        return type(output)(nll=output.nll + math.nan, correct=output.correct) if self.forwards == 2 else output


def test_a_loss_that_is_not_finite_is_logged_as_such_and_counted(make_trainer: Any, make_model: Any) -> None:
    """transformers logs the mean of the losses since the last log in its place, 0.0 if there was none."""
    model = make_model()
    model.__class__ = NotANumber
    trainer = make_trainer(model, max_steps=3, learning_rate=0.0, **RUN)
    output = trainer.train()
    losses = logged(trainer, "loss")
    assert math.isnan(losses[1])
    assert all(map(math.isfinite, losses[::2]))
    assert logged(trainer, "nonfinite_losses") == [None, 1.0, None]
    assert math.isnan(output.training_loss)
    assert math.isnan(trainer.state.log_history[-1]["train_loss"])


def rows(supervised: list[bool]) -> Dataset:
    """Rows of four, with labels or without."""
    return Dataset.from_list(
        [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8] if is_on else [-100] * 4} for is_on in supervised]
    )


def test_a_step_without_a_supervised_token_has_no_loss_and_does_not_water_down_others(
    make_trainer: Any, make_model: Any
) -> None:
    """The second step has nothing to learn: alone it has no loss, both together have that of the first."""
    data = rows([True] * 4 + [False] * 4)
    found = []
    for every in (1, 2):
        options = {**RUN, "logging_steps": every, "max_length": None}
        trainer = make_trainer(make_model(), data, max_steps=2, learning_rate=0.0, weight_decay=0.0, **options)
        trainer.train()
        found.append(logged(trainer, "loss"))
        assert all(torch.isfinite(parameter).all() for parameter in trainer.model.parameters())
    assert found[0][1] is None
    assert found[1] == pytest.approx(found[0][:1])


@pytest.mark.parametrize("streamed", [False, True])
def test_an_evaluation_set_without_a_supervised_token_is_refused(
    make_trainer: Any, ragged_dataset: Dataset, streamed: bool
) -> None:
    """Its loss would be 0.0, and the first checkpoint the best."""
    data: Any = rows([False] * 3)
    if streamed:
        data = IterableDataset.from_generator(lambda: iter(rows([False] * 3)))
    with pytest.raises(ValueError, match="`eval_dataset` has no example with a supervised token left"):
        make_trainer(eval_dataset=data)
    with pytest.raises(ValueError, match=r"`eval_dataset\['other'\]` has no example with"):
        make_trainer(eval_dataset={"one": ragged_dataset, "other": data})


def test_the_reason_is_named(make_trainer: Any, puzzles: Dataset) -> None:
    with pytest.raises(ValueError, match=r"eval_dataset.*`max_length` \(4\) cuts every completion off"):
        make_trainer(train_dataset=rows([True] * 3), eval_dataset=puzzles, max_length=4)
    empty = puzzles.map(lambda row: {"input_ids": [5, 6], "labels": [-100, -100]}, remove_columns=puzzles.column_names)
    with pytest.raises(ValueError, match="all labels are -100 before anything is cut"):
        make_trainer(train_dataset=empty)


def test_an_evaluation_that_meets_no_token_is_nan(make_trainer: Any) -> None:
    """Where only the collator decides, it is seen no earlier; NaN is never the best."""
    trainer = make_trainer(eval_dataset=rows([True] * 3))
    collate = trainer.data_collator
    trainer.data_collator = lambda examples: {
        **(batch := collate(examples)),
        "labels": torch.full_like(batch["labels"], -100),
    }
    metrics = trainer.evaluate()
    assert math.isnan(metrics["eval_loss"])
    assert math.isnan(metrics["eval_nll"])
