"""Losses and trajectories that must agree, sums that must be exact."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import AutoModelForCausalLM
from trl import SFTConfig

from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer
from hf_latent.training.common.objectives import MASK_SCHEDULES, corrupt, sample_noise, sample_times


def logged(trainer: MaskedDiffusionTrainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def state_of(trainer: MaskedDiffusionTrainer) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


# One step of plain SGD: the change of the weights is the gradient.
ONE_STEP = {"max_steps": 1, "logging_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}
ONE_STEP["lr_scheduler_type"] = "constant"


def bound_by_hand(trainer: MaskedDiffusionTrainer, rows: list[dict[str, Any]], epoch: int) -> tuple[float, int]:
    """Sum of the weighted cross entropies and number of supervised tokens: one example at a time, with loops."""
    total, supervised = 0.0, 0
    trainer.model.eval()
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        example = torch.tensor([row["example_id"]])
        time = sample_times(example, seed=trainer.args.noise_seed, epoch=epoch, epsilon=1e-3)
        noise = sample_noise(example, labels != -100, seed=trainer.args.noise_seed, epoch=epoch)
        noisy, masked = corrupt(ids, labels != -100, time, noise, trainer.model.config.mask_token_id)
        with torch.no_grad():
            log_p = trainer.model(input_ids=noisy).logits.log_softmax(-1)
        for i in range(ids.shape[1]):
            supervised += labels[0, i].item() != -100
            if masked[0, i]:
                total -= log_p[0, i, labels[0, i]].item() / time.item()
    return total, supervised


# The objective


def test_logged_losses_are_the_objective_computed_by_hand(make_trainer: Any, ragged_dataset: Dataset) -> None:
    """Catches a shift, a wrong divisor, a loss over all positions, and noise that is not the documented one."""
    trainer = make_trainer(eval_dataset=ragged_dataset, **ONE_STEP, per_device_train_batch_size=24)
    total, supervised = bound_by_hand(trainer, list(trainer.eval_dataset), epoch=-1)
    metrics = trainer.evaluate()
    assert metrics["eval_loss"] == pytest.approx(total / supervised, rel=1e-4)
    assert metrics["eval_nll"] == pytest.approx(total / supervised, rel=1e-4)
    total, supervised = bound_by_hand(trainer, list(trainer.train_dataset), epoch=0)
    trainer.train()
    assert logged(trainer, "loss") == pytest.approx([total / supervised], rel=1e-4)
    assert logged(trainer, "num_tokens") == [sum(len(row["input_ids"]) for row in ragged_dataset)]


def test_only_supervised_tokens_are_masked_and_only_masked_positions_get_logits(
    make_trainer: Any, make_model: Any, ragged_dataset: Dataset
) -> None:
    model = make_model()
    seen: list[Any] = []
    model.register_forward_hook(lambda _, args, kwargs, out: seen.append(kwargs), with_kwargs=True)
    model.lm_head.register_forward_hook(lambda _, args, out: seen.append(out))
    trainer = make_trainer(model)
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.compute_loss(model, dict(batch))
    logits, kwargs = seen[-2:]
    changed = kwargs["input_ids"] != batch["input_ids"]
    assert changed.any()
    assert (kwargs["input_ids"][changed] == model.config.mask_token_id).all()
    assert (batch["labels"][changed] != -100).all()
    assert logits.shape == (changed.sum(), model.config.vocab_size)


def test_training_noise_changes_with_the_epoch_and_evaluation_noise_does_not(
    make_trainer: Any, ragged_dataset: Dataset
) -> None:
    """Learning rate 0: whatever changes between two passes over the same 24 examples is the noise."""
    trainer = make_trainer(
        eval_dataset=ragged_dataset,
        **{**ONE_STEP, "learning_rate": 0.0, "max_steps": 3},
        per_device_train_batch_size=24,
        eval_strategy="steps",
        eval_steps=1,
    )
    trainer.train()
    assert len(set(logged(trainer, "loss"))) == 3
    assert len(set(logged(trainer, "eval_loss"))) == 1
    assert logged(trainer, "eval_loss")[0] not in logged(trainer, "loss")


OPTIONS: dict[str, dict[str, Any]] = {
    "mask_schedule": {"mask_schedule": "cosine"},
    "loss_weighting": {"loss_weighting": "uniform"},
    "loss_normalization": {"loss_normalization": "sequence"},
    "time_sampling": {"time_sampling": "independent"},
    "time_sampling in pairs": {"time_sampling": "antithetic"},
    "time_epsilon": {"time_epsilon": 0.5},
    "time_max": {"time_max": 0.5},
    "complementary_masks": {"complementary_masks": True},
    "noise_seed": {"noise_seed": 1},
    "pad_completion_with_eos": {"pad_completion_with_eos": "batch"},
    "pad_completion_with_eos to max_length": {"pad_completion_with_eos": "max_length", "max_length": 40},
    "loss_normalization per row": {"loss_normalization": "batch"},
}
# Options without a meaning in evaluation.
OF_TRAINING = {"attention_annealing_steps": 4, "prompt_dropout": 0.7, "random_length_share": 0.7}
OF_TRAINING |= {"time_sampling": "bell"}
OF_BLOCKS = {"time_per", "block_sizes", "block_size_per"}  # see test_block_diffusion.py


def test_every_option_of_training_is_read(make_trainer: Any) -> None:
    losses = {}
    for name, value in {"seed": 42, **OF_TRAINING}.items():
        trainer = make_trainer(per_device_train_batch_size=8, **ONE_STEP, **{name: value})
        trainer.train()
        losses[name] = logged(trainer, "loss")[0]
    assert len({round(loss, 6) for loss in losses.values()}) == len(losses), losses


def test_every_option_is_read(make_trainer: Any, ragged_dataset: Dataset) -> None:
    """All pairs differ, so no option is an alias of another; and the table names every field we add to trl's."""
    added = {f.name for f in dataclasses.fields(MaskedDiffusionConfig)} - {
        f.name for f in dataclasses.fields(SFTConfig)
    }
    assert added == {name.split(" ")[0] for name in OPTIONS} | set(OF_TRAINING) | OF_BLOCKS
    losses = {
        name: make_trainer(eval_dataset=ragged_dataset, **option).evaluate()["eval_loss"]
        for name, option in {"defaults": {}, **OPTIONS}.items()
    }
    assert len({round(loss, 6) for loss in losses.values()}) == len(losses), losses


def test_an_example_without_a_masked_token_gives_a_zero_loss_and_zero_gradients(
    make_trainer: Any, make_model: Any
) -> None:
    trainer = make_trainer()
    batch = {
        "input_ids": torch.tensor([[5, 6]]),
        "labels": torch.tensor([[-100, -100]]),
        "attention_mask": torch.ones(1, 2, dtype=torch.long),
        "example_id": torch.tensor([0]),
    }
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in trainer.model.parameters())


# Invariances


@pytest.mark.parametrize("normalization", ["token", "sequence", "batch"])
def test_eight_examples_at_once_or_one_by_one_give_the_same_step(make_trainer: Any, normalization: str) -> None:
    """Rows of different lengths: dividing each micro-batch by its own count gives losses that differ by tenths."""
    runs = {}
    for size, accumulation in ((8, 1), (1, 8), (4, 2)):
        trainer = make_trainer(
            **ONE_STEP,
            loss_normalization=normalization,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
        )
        trainer.train()
        runs[size] = (logged(trainer, "loss")[0], logged(trainer, "masked_nll")[0], state_of(trainer))
    for loss, nll, state in (runs[1], runs[4]):
        assert loss == pytest.approx(runs[8][0], rel=1e-4)
        assert nll == pytest.approx(runs[8][1], rel=1e-4)
        for name, value in runs[8][2].items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("normalization", ["token", "sequence", "batch"])
def test_evaluation_does_not_depend_on_the_batch_size(
    make_trainer: Any, ragged_dataset: Dataset, normalization: str
) -> None:
    """Trainer's mean of batch means gave 4.12, 4.19 and 4.19 for batches of 1, 4 and 16."""
    trainer = make_trainer(eval_dataset=ragged_dataset, loss_normalization=normalization)
    found = []
    for size in (1, 7, 24):
        trainer.args.per_device_eval_batch_size = size
        metrics = trainer.evaluate()
        found.append([metrics[f"eval_{name}"] for name in ("loss", "nll", "masked_nll", "masked_accuracy")])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0] == pytest.approx(found[2], rel=1e-5)


def test_each_of_several_evaluation_sets_has_its_own_metrics(make_trainer: Any, ragged_dataset: Dataset) -> None:
    halves = {"a": ragged_dataset.select(range(12)), "b": ragged_dataset.select(range(12, 24))}
    trainer = make_trainer(eval_dataset=halves)
    metrics = trainer.evaluate()
    assert metrics["eval_a_loss"] != metrics["eval_b_loss"]
    assert metrics["eval_a_loss"] == pytest.approx(trainer.evaluate(halves["a"])["eval_loss"], rel=1e-5)


def test_gradient_does_not_depend_on_padding(make_trainer: Any) -> None:
    """Left, right or none, any amount: padding attended to or noise drawn per column would change it."""
    trainer = make_trainer()
    ids, labels = [5, 6, 7, 8, 9, 10], [-100, -100, 7, 8, 9, 10]
    gradients = []
    for left, right in ((0, 0), (0, 3), (0, 9), (4, 0), (2, 5)):
        batch = {
            "input_ids": torch.tensor([[0] * left + ids + [0] * right]),
            "labels": torch.tensor([[-100] * left + labels + [-100] * right]),
            "attention_mask": torch.tensor([[0] * left + [1] * 6 + [0] * right]),
            "example_id": torch.tensor([2]),
        }
        trainer.model.zero_grad()
        trainer.model.train()
        trainer.compute_loss(trainer.model, batch).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in trainer.model.parameters()]))
    assert gradients[0].abs().max() > 0.01
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-4, atol=1e-5)


def test_streamed_data_trains_like_data_in_memory(make_trainer: Any, ragged_dataset: Dataset) -> None:
    losses = []
    for data in (ragged_dataset, IterableDataset.from_generator(lambda: iter(ragged_dataset.to_list()))):
        trainer = make_trainer(train_dataset=data, **ONE_STEP, train_sampling_strategy="sequential")
        trainer.train()
        losses += logged(trainer, "loss")
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_checkpointing_activations_changes_nothing(make_trainer: Any) -> None:
    states = []
    for checkpointing in (False, True):
        trainer = make_trainer(**ONE_STEP, activation_checkpointing=checkpointing)
        trainer.train()
        states.append(state_of(trainer))
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize("best", [False, True])
def test_a_resumed_run_repeats_the_losses_of_the_uninterrupted_one(
    make_trainer: Any, ragged_dataset: Dataset, tmp_path: Path, best: bool
) -> None:
    """
    Trainer resumes with a plain `load_state_dict` from original key names: without the model's hook no weight is
    loaded. The interruption lies inside the second epoch, so that noise and data order have to be found again too.
    With `best`, the best checkpoint is loaded at the end by the same path.
    """
    arguments = {
        "max_steps": 8,
        "per_device_train_batch_size": 5,
        "learning_rate": 0.05,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 6,
        "eval_strategy": "steps",
        "eval_steps": 6,
    }
    whole = make_trainer(eval_dataset=ragged_dataset, **arguments)
    whole.train()
    resumed = make_trainer(eval_dataset=ragged_dataset, load_best_model_at_end=best, **arguments)
    for parameter in resumed.model.parameters():
        torch.nn.init.normal_(parameter)  # what the checkpoint does not bring back is lost
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    for name in ("loss", "nll", "grad_norm", "masked_accuracy", "num_tokens"):
        assert logged(resumed, name) == logged(whole, name), name
    if best:
        chosen = {6: tmp_path / "checkpoint-6", 8: tmp_path / "checkpoint-8"}
        best_step = int(resumed.state.best_model_checkpoint.rsplit("-", 1)[1])
        saved = AutoModelForCausalLM.from_pretrained(chosen[best_step]).state_dict()
        assert all(torch.equal(value, saved[name]) for name, value in resumed.model.state_dict().items())


def test_cosine_schedule_masks_more_than_linear(make_trainer: Any, ragged_dataset: Dataset) -> None:
    """Means of m(t): 2 / pi against 1 / 2."""
    ratios = {
        name: make_trainer(eval_dataset=ragged_dataset, mask_schedule=name).evaluate()["eval_mask_ratio"]
        for name in MASK_SCHEDULES
    }
    assert ratios["linear"] == pytest.approx(0.5, abs=0.06)
    assert ratios["cosine"] == pytest.approx(0.637, abs=0.06)


def test_a_checkpoint_folder_has_a_readable_state(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer(**{**ONE_STEP, "save_strategy": "steps", "save_steps": 1})
    trainer.train()
    state = json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())
    assert {"loss", "nll", "masked_nll", "masked_accuracy", "mask_ratio", "num_tokens"} <= set(state["log_history"][0])


# What is drawn for training only


def seen_by_the_model(trainer: Any, name: str) -> list[torch.Tensor]:
    """What the model is given as `name`, forward by forward."""
    seen, forward = [], trainer.model.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(kwargs[name].clone())
        return forward(*args, **kwargs)

    trainer.model.forward = spy
    return seen


def test_a_dropped_prompt_is_masked_and_not_predicted(make_trainer: Any, ragged_dataset: Dataset) -> None:
    """What `cfg_scale` compares with at generation: the same row with masks in place of its prompt."""
    trainer = make_trainer(per_device_train_batch_size=24, **ONE_STEP, prompt_dropout=1.0)
    ids = seen_by_the_model(trainer, "input_ids")
    trainer.train()
    mask = trainer.model.config.mask_token_id
    rows = {int((row != trainer.processing_class.pad_token_id).sum()): row for row in ids[0]}
    for row in ragged_dataset:
        prompt = len(row["input_ids"]) // 3
        assert (rows[len(row["input_ids"])][:prompt] == mask).all()
    supervised = sum(len(row["input_ids"]) - len(row["input_ids"]) // 3 for row in ragged_dataset)
    assert logged(trainer, "mask_ratio")[0] <= 1 and supervised > 0


def test_a_row_that_is_cut_is_neither_seen_nor_predicted_behind_its_end(make_trainer: Any) -> None:
    data = Dataset.from_list([{"input_ids": [5 + i % 9 for i in range(40)]} for _ in range(200)])
    trainer = make_trainer(train_dataset=data, per_device_train_batch_size=200, **ONE_STEP, random_length_share=0.5)
    masks = seen_by_the_model(trainer, "attention_mask")
    trainer.train()
    lengths = masks[0].sum(-1)
    assert (masks[0].cumsum(-1).amax(-1) == lengths).all() and (masks[0][:, 0] == 1).all()
    cut = lengths[lengths < 40]
    # 200 draws of a coin, and 100 of a die of 40: seven standard errors.
    assert 50 < len(cut) < 150
    assert abs(cut.float().mean() - 20) < 9
    assert logged(trainer, "num_tokens")[0] == lengths.sum()


def test_attention_is_opened_step_by_step(make_trainer: Any) -> None:
    data = Dataset.from_list([{"input_ids": [5 + i % 9 for i in range(30)]} for _ in range(8)])
    annealed = {"max_steps": 5, "attention_annealing_steps": 4, "per_device_train_batch_size": 8}
    trainer = make_trainer(train_dataset=data, **(ONE_STEP | annealed))
    masks = seen_by_the_model(trainer, "attention_mask")
    trainer.train()
    later = torch.ones(30, 30).triu(1).bool()
    for step, mask in enumerate(masks[:4]):
        seen = mask[:, 0] == 0
        assert seen[:, ~later].all()
        # 3,480 draws: 0.05 is six standard errors.
        assert abs(seen[:, later].float().mean() - step / 4) < 0.05
    assert masks[4].dim() == 2, "open: no mask but that of padding"


def test_logits_that_are_computed_in_parts_give_the_same_step(
    make_trainer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With large vocabularies the logits of a batch are too many to be held at once."""
    weights, logs = [], []
    for limit in (2**26, 64):
        monkeypatch.setattr("hf_latent.modeling.masked_diffusion.MAX_LOGITS", limit)
        trainer = make_trainer(per_device_train_batch_size=24, **ONE_STEP)
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
        logs.append({name: logged(trainer, name)[0] for name in ("loss", "masked_accuracy", "masked_nll")})
    assert logs[1] == pytest.approx(logs[0], rel=1e-5)
    torch.testing.assert_close(weights[1], weights[0], atol=1e-6, rtol=1e-5)
