"""The objectives of latent-token models, computed by hand, and the steps that must agree."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, LlamaConfig
from trl import SFTConfig, SFTTrainer

from hf_latent import LatentTokenConfig, LatentTokenForCausalLM
from hf_latent.training import LatentTokenTrainer, LatentTokenTrainingConfig, MaskedDiffusionTrainer
from hf_latent.training.common.objectives import corrupt, sample_noise, sample_times
from hf_latent.training.latent_tokens.objectives import (
    look_ahead_targets,
    sample_groups,
    sample_num_latent_tokens,
    sample_reveal_order,
    sample_states,
)

# One step of plain SGD: the change of the weights is the gradient.
ONE_STEP: dict[str, Any] = {"max_steps": 1, "logging_steps": 1, "optim": "sgd", "learning_rate": 1.0}
ONE_STEP |= {"lr_scheduler_type": "constant", "max_grad_norm": 0.0}
LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "initializer_range": 0.3,
    "max_position_embeddings": 64,
}
BOTH = pytest.mark.parametrize("order", ["left_to_right", "any"])


@pytest.fixture
def make_latent_model(tokenizer: Any) -> Callable[..., Any]:
    def make(order: str, **fields: Any) -> Any:
        torch.manual_seed(0)
        special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id")}
        config = LatentTokenConfig(
            text_config={**LLAMA, "vocab_size": len(tokenizer), "bos_token_id": None, **special},
            **{
                "mask_token_id": tokenizer.mask_token_id,
                "attention": "semi_causal",
                "order": order,
                "shift_logits": order == "left_to_right",
                **fields,
            },
        )
        return AutoModelForCausalLM.from_config(config)

    return make


@pytest.fixture
def make_latent_trainer(
    tmp_path: Path, make_latent_model: Any, tokenizer: Any, ragged_dataset: Dataset
) -> Callable[..., LatentTokenTrainer]:
    def make(order: str = "left_to_right", model: Any = None, **arguments: Any) -> LatentTokenTrainer:
        chosen = {name: arguments.pop(name, None) for name in ("eval_dataset", "peft_config", "train_dataset")}
        defaults = {"output_dir": str(tmp_path), "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
        return LatentTokenTrainer(
            make_latent_model(order) if model is None else model,
            LatentTokenTrainingConfig(**{**defaults, "report_to": "none", **arguments}),
            train_dataset=chosen["train_dataset"] or ragged_dataset,
            eval_dataset=chosen["eval_dataset"],
            peft_config=chosen["peft_config"],
            processing_class=tokenizer,
        )

    return make


def last(trainer: LatentTokenTrainer, name: str) -> float:
    return [entry[name] for entry in trainer.state.log_history if name in entry][-1]


def ahead_by_hand(trainer: LatentTokenTrainer, rows: list[dict[str, Any]], num_latent: int) -> dict[str, float]:
    """Sums of nats, one prefix at a time: a forward per row and state."""
    sums = {"text": 0.0, "looked": 0.0, "items": 0.0, "next": 0.0, "states": 0.0}
    args, model = trainer.args, trainer.model.eval()
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        labels[:, 0] = -100
        example = torch.tensor([row["example_id"]])
        states = sample_states(example, labels != -100, args.num_states, seed=args.noise_seed, epoch=-1)
        chosen = states.columns[0][states.valid[0]].tolist()
        supervised = (labels[0] != -100).sum().item()
        sums["items"] += supervised
        for column in range(ids.shape[1] - 1):
            if labels[0, column + 1] == -100:
                continue
            prefix = ids[:, : column + 1]
            with torch.no_grad():
                plain = model(prefix).logits[0, -1].log_softmax(-1)
                out = model(prefix, num_latent_tokens=num_latent, logits_to_keep=1, output_latent_logits=True)
            sums["text"] -= plain[labels[0, column + 1]].item()
            if column not in chosen:
                continue
            weight = supervised / len(chosen)
            nll = -out.logits[0, 0].log_softmax(-1)[labels[0, column + 1]].item()
            sums["next"] += nll
            sums["states"] += 1
            sums["looked"] += weight * nll
            for i in range(num_latent):
                target = column + 2 + i
                if target < ids.shape[1] and labels[0, target] != -100:
                    nll = -out.latent_logits[0, 0, i].log_softmax(-1)[labels[0, target]].item()
                    sums["looked"] += args.latent_loss_weight / num_latent * weight * nll
    return sums


@pytest.mark.parametrize("num_states", [None, 3])
def test_looking_ahead_is_the_objective_computed_by_hand(
    make_latent_trainer: Any, ragged_dataset: Dataset, num_states: int | None
) -> None:
    """Catches a group that sees its token's future, a shift between copies and targets, and wrong weights."""
    trainer = make_latent_trainer(
        eval_dataset=ragged_dataset, num_latent_tokens=[0, 2], num_states=num_states, latent_loss_weight=0.7
    )
    trainer.args.text_loss_weight = 0.4
    sums = ahead_by_hand(trainer, list(trainer.eval_dataset), 2)
    metrics = trainer.evaluate()
    assert metrics["eval_text_nll"] == pytest.approx(sums["text"] / sums["items"], rel=1e-4)
    assert metrics["eval_next_nll"] == pytest.approx(sums["next"] / sums["states"], rel=1e-4)
    expected = (0.4 * sums["text"] + sums["looked"]) / sums["items"]
    assert metrics["eval_loss"] == pytest.approx(expected, rel=1e-4)
    assert {"eval_latent_nll_1", "eval_latent_nll_2"} <= set(metrics)


def test_in_any_order_it_is_joint_prediction_in_groups(make_latent_trainer: Any, ragged_dataset: Dataset) -> None:
    """By hand, one example and one group at a time: other groups and the order of writing must not leak."""
    trainer = make_latent_trainer("any", eval_dataset=ragged_dataset, num_latent_tokens=[1])
    seed, total, items = trainer.args.noise_seed, 0.0, 0
    mask = trainer.model.config.mask_token_id
    trainer.model.eval()
    for row in trainer.eval_dataset:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        example, supervised = torch.tensor([row["example_id"]]), labels != -100
        time = sample_times(example, seed=seed, epoch=-1, epsilon=1e-3)
        noise = sample_noise(example, supervised, seed=seed, epoch=-1)
        _, masked = corrupt(ids, supervised, time, noise, mask)
        order = sample_reveal_order(example, supervised, seed=seed, epoch=-1)
        group = sample_groups(example, masked, 1, seed=seed, epoch=-1)
        items += int(supervised.sum())
        clean = [int(i) for i in order[0].argsort() if not masked[0, i]]
        for number in range(int(group.max()) + 1):
            members = (group[0] == number).nonzero().squeeze(-1).tolist()
            assert len(members) <= 2
            # The text in the order of writing, then the group: columns are moved, positions stay.
            columns = torch.tensor([clean + members])
            tokens = torch.where(masked, mask, ids)[0][columns]
            with torch.no_grad():
                log_p = trainer.model(tokens, position_ids=columns).logits[0].log_softmax(-1)
            for place, member in enumerate(members, start=len(clean)):
                total -= log_p[place, ids[0, member]].item() / time.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / items, rel=1e-4)


def test_without_latent_tokens_it_is_the_loss_of_trl(
    make_latent_trainer: Any, make_latent_model: Any, tokenizer: Any, ragged_dataset: Dataset, tmp_path: Path
) -> None:
    trainer = make_latent_trainer(num_latent_tokens=[0], per_device_train_batch_size=8, **ONE_STEP)
    trainer.train()
    torch.manual_seed(0)
    special = {name: getattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id")}
    sizes = {name: value for name, value in LLAMA.items() if name != "model_type"}
    plain = AutoModelForCausalLM.from_config(
        LlamaConfig(**sizes, vocab_size=len(tokenizer), bos_token_id=None, **special)
    )
    plain.load_state_dict(make_latent_model("left_to_right").state_dict())
    config = SFTConfig(
        str(tmp_path), use_cpu=True, bf16=False, per_device_train_batch_size=8, disable_tqdm=True, report_to="none",
        save_strategy="no", gradient_checkpointing=False, **ONE_STEP,
    )  # fmt: skip
    reference = SFTTrainer(plain, config, train_dataset=ragged_dataset, processing_class=tokenizer)
    reference.train()
    assert last(trainer, "loss") == pytest.approx(last(reference, "loss"), rel=1e-4)
    for name, value in plain.state_dict().items():
        assert torch.allclose(value, trainer.model.state_dict()[name], atol=1e-5), name


@BOTH
def test_eight_examples_at_once_or_one_by_one_give_the_same_step(make_latent_trainer: Any, order: str) -> None:
    """Rows of different lengths, with as many states as they have or fewer."""
    states = []
    for size, accumulation in ((8, 1), (1, 8), (4, 2)):
        trainer = make_latent_trainer(
            order,
            num_latent_tokens=[2],
            num_states=5,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=accumulation,
            **ONE_STEP,
        )
        trainer.train()
        states.append((last(trainer, "loss"), dict(trainer.model.state_dict())))
    for loss, weights in states[1:]:
        assert loss == pytest.approx(states[0][0], rel=1e-4)
        assert all(torch.allclose(value, states[0][1][name], atol=1e-4) for name, value in weights.items())


@BOTH
def test_a_resumed_run_has_the_losses_of_the_uninterrupted_one(make_latent_trainer: Any, order: str) -> None:
    """The number of latent tokens, too, is a function of the step."""
    common = {
        "num_latent_tokens": [0, 1, 3],
        "num_states": 2,
        "max_steps": 6,
        "logging_steps": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-2,
    }
    whole = make_latent_trainer(order, **common, save_strategy="steps", save_steps=3)
    whole.train()
    losses = [entry["loss"] for entry in whole.state.log_history if "loss" in entry]
    resumed = make_latent_trainer(order, **common)
    resumed.train(resume_from_checkpoint=str(Path(resumed.args.output_dir) / "checkpoint-3"))
    again = [entry["loss"] for entry in resumed.state.log_history if "loss" in entry]
    assert again == pytest.approx(losses, rel=1e-5)
    drawn = {sample_num_latent_tokens([0, 1, 3], seed=42, step=step) for step in range(30)}
    assert drawn == {0, 1, 3}


@BOTH
def test_an_adapter_loads_in_plain_peft(make_latent_trainer: Any, make_latent_model: Any, order: str) -> None:
    trainer = make_latent_trainer(
        order,
        num_latent_tokens=[2],
        max_steps=2,
        learning_rate=0.1,
        peft_config=LoraConfig(r=2, target_modules="all-linear"),
    )
    trainer.train()
    trainer.save_model()
    loaded = PeftModel.from_pretrained(make_latent_model(order), trainer.args.output_dir).eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(loaded(ids).logits, trainer.model.eval()(ids).logits)
    assert not torch.allclose(loaded(ids).logits, make_latent_model(order).eval()(ids).logits)


def test_targets_are_the_tokens_behind_a_state() -> None:
    """By hand: two states of a row whose fourth label is no target, and that ends."""
    labels = torch.tensor([[-100, 11, 12, -100, 14]])
    states = sample_states(torch.tensor([0]), labels != -100, None, seed=0, epoch=0)
    assert sorted(states.columns[0].tolist()) == [0, 1, 3]
    targets, exist = look_ahead_targets(labels, states, 2)
    found = {}
    for i, column in enumerate(states.columns[0].tolist()):
        found[column] = [(int(t), bool(e)) for t, e in zip(targets[0, i], exist[0, i], strict=True)]
    assert found[0] == [(11, True), (12, True), (-100, False)]
    assert found[1] == [(12, True), (-100, False), (14, True)]
    assert found[3][0] == (14, True) and not found[3][1][1] and not found[3][2][1]


def test_orders_groups_and_states_are_uniform_and_those_of_the_row_alone() -> None:
    """Padding and neighbours change nothing; every order, partner and state comes up as often as it should."""
    ids = torch.arange(4000)
    supervised = torch.tensor([[False, True, True, True]]).expand(4000, -1)
    order = sample_reveal_order(ids, supervised, seed=0, epoch=0)
    assert (order[:, 0] < order[:, 1:].amin(-1)).all()
    counts = torch.zeros(4)
    firsts = order[:, 1:].argmin(-1)
    for i in range(3):
        counts[i] = (firsts == i).sum()
    assert (counts[:3] / 4000 - 1 / 3).abs().max() < 0.03
    group = sample_groups(ids, supervised, 1, seed=0, epoch=0)
    assert group.sort(-1).values.tolist() == [[-1, 0, 0, 1]] * 4000
    alone = (group == 1).long().argmax(-1)
    assert all(abs((alone == i).float().mean() - 1 / 3) < 0.03 for i in (1, 2, 3))
    states = sample_states(ids, supervised, 1, seed=0, epoch=0)
    assert all(abs((states.columns[:, 0] == i).float().mean() - 1 / 3) < 0.03 for i in (0, 1, 2))
    assert states.weight.unique().tolist() == [3.0]
    padded = torch.cat([torch.zeros(4000, 2, dtype=torch.bool), supervised], -1)
    assert torch.equal(sample_groups(ids, padded, 1, seed=0, epoch=0)[:, 2:], group)
    assert torch.equal(sample_states(ids[7:8], supervised[:1], 1, seed=0, epoch=0).columns, states.columns[7:8])


def test_what_cannot_be_trained_is_refused_by_name(
    make_latent_trainer: Any, make_latent_model: Any, make_model: Any, tokenizer: Any, ragged_dataset: Dataset
) -> None:
    with pytest.raises(ValueError, match="`model` must be a latent-token model, got LladaForMaskedDiffusion"):
        make_latent_trainer(model=make_model())
    bidirectional = make_latent_model("any", attention="bidirectional")
    with pytest.raises(ValueError, match="use MaskedDiffusionTrainer"):
        make_latent_trainer(model=bidirectional)
    with pytest.raises(ValueError, match="`args` must be a LatentTokenTrainingConfig"):
        LatentTokenTrainer(
            make_latent_model("any"), SFTConfig("x", use_cpu=True, bf16=False), train_dataset=ragged_dataset
        )
    for name, value in {
        "num_latent_tokens": [],
        "num_states": 0,
        "latent_loss_weight": -1.0,
        "attention_annealing_steps": 3,
    }.items():
        with pytest.raises(ValueError, match=f"`{name}`"):
            make_latent_trainer(**{name: value})
    model = make_latent_model("left_to_right", mask_token_id=None)
    with pytest.raises(ValueError, match="`mask_token_id`"):
        make_latent_trainer(model=model)
    flash = make_latent_model("left_to_right")
    flash.model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="`attn_implementation`"):
        make_latent_trainer(model=flash)


def test_a_semi_causal_model_is_refused_by_the_trainer_of_masked_ones(
    make_latent_model: Any, make_trainer: Any
) -> None:
    for order in ("left_to_right", "any"):
        with pytest.raises(ValueError, match="Train it with LatentTokenTrainer"):
            make_trainer(make_latent_model(order))
    assert issubclass(LatentTokenTrainer, MaskedDiffusionTrainer)
    assert isinstance(make_latent_model("left_to_right"), LatentTokenForCausalLM)
