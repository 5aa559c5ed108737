"""Training of block-causal models on `[x_t | x_0]`: the objective by enumeration, its two ends, its options."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from hf_latent.data.corruption import Corruption
from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer
from hf_latent.training.masked_diffusion.block_inputs import BlockRows, block_causal_inputs

ONE_STEP = {"max_steps": 1, "logging_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}
ONE_STEP |= {"lr_scheduler_type": "constant", "per_device_train_batch_size": 24, "max_length": 32}
NLL = ("loss", "nll", "masked_nll", "masked_accuracy", "mask_ratio", "num_tokens")


def weights_of(trainer: Any) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def one_step(trainer: Any) -> tuple[dict[str, float], torch.Tensor]:
    """What is logged, and the weights, which have moved by the gradient."""
    trainer.train()
    return trainer.state.log_history[0], weights_of(trainer)


def assert_same_step(first: tuple[dict, torch.Tensor], second: tuple[dict, torch.Tensor], names: Any = NLL) -> None:
    for name in names:
        assert second[0][name] == pytest.approx(first[0][name], rel=1e-5), name
    torch.testing.assert_close(second[1], first[1], atol=5e-6, rtol=1e-5)


@torch.no_grad()
def bound_by_enumeration(model: Any, ids: list[int], given: int, block_size: int) -> float:
    """
    Nats: over all blocks and all sets of `k` of the block's `n` tokens that may be masked, the cross entropies there,
    times the mean of 1 / t t^k (1 - t)^(n - k) over the times from 0.1 to 1. No clean copy: the row ends with the
    block, and everything before it is as it is.
    """
    total, times = 0.0, 0.1 + 0.9 * (torch.arange(1000) + 0.5) / 1000
    for start in range(0, len(ids), block_size):
        end = min(start + block_size, len(ids))
        places = [i for i in range(start, end) if i >= given]
        for k in range(1, len(places) + 1):
            weight = (times ** (k - 1) * (1 - times) ** (len(places) - k)).mean().item()
            for masked in itertools.combinations(places, k):
                noisy = torch.tensor([ids[:end]])
                noisy[0, list(masked)] = model.config.mask_token_id
                log_p = model(noisy).logits[0].log_softmax(-1)
                total -= weight * sum(log_p[i, ids[i]].item() for i in masked)
    return total


@pytest.mark.parametrize(("block_size", "time_per"), [(3, "block"), (3, "sequence"), (2, "block")])
def test_the_objective_is_the_bound_that_enumeration_gives(
    make_trainer: Any, make_block_model: Any, block_size: int, time_per: str
) -> None:
    """4,000 draws of one row, whose prompt ends within a block: the standard error of the mean is 0.8 %."""
    model, ids, given = make_block_model(block_size), [5, 9, 3, 12, 7, 7, 4, 10], 2
    row = {"input_ids": ids, "labels": [-100] * given + ids[given:]}
    trainer = make_trainer(
        model=model, eval_dataset=Dataset.from_list([row] * 4000), time_per=time_per, time_epsilon=0.1,
        per_device_eval_batch_size=1000,
    )  # fmt: skip
    metrics = trainer.evaluate()
    expected = bound_by_enumeration(model.eval(), ids, given, block_size) / (len(ids) - given)
    assert metrics["eval_nll"] == pytest.approx(expected, rel=0.02)
    assert metrics["eval_loss"] == pytest.approx(metrics["eval_nll"], rel=1e-6)


def test_a_block_of_the_whole_row_is_the_bidirectional_model(make_trainer: Any, make_block_model: Any) -> None:
    """Loss and gradient, for a time of each block and of each row: then these are the same."""
    bidirectional = one_step(make_trainer(model=make_block_model(None, attention="bidirectional"), **ONE_STEP))
    for time_per in ("block", "sequence"):
        blocks = one_step(make_trainer(model=make_block_model(32), time_per=time_per, **ONE_STEP))
        assert_same_step(bidirectional, blocks)


def test_blocks_of_one_are_the_chain_rule(make_trainer: Any, make_block_model: Any) -> None:
    """A mask and its complement ask every token once: the loss is the mean of -log p(x_i | x_<i), without noise."""
    causal = make_block_model(1).eval()
    rows = [[5, 9, 3, 12, 7], [4, 10, 8]]
    dataset = Dataset.from_list([{"input_ids": ids, "labels": [-100, *ids[1:]]} for ids in rows])
    trainer = make_trainer(
        model=make_block_model(1), eval_dataset=dataset, complementary_masks=True, loss_weighting="uniform"
    )
    total = 0.0
    for ids in rows:
        for i in range(1, len(ids)):
            with torch.no_grad():
                log_p = causal(torch.tensor([[*ids[:i], causal.config.mask_token_id]])).logits[0, -1].log_softmax(-1)
            total -= log_p[ids[i]].item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(total / 6, rel=1e-5)


# Options


def test_every_option_of_blocks_is_read(make_trainer: Any, make_block_model: Any) -> None:
    options: dict[str, dict[str, Any]] = {
        "as it is": {},
        "one time a row": {"time_per": "sequence"},
        "sizes of a step": {"block_sizes": [2, 3]},
        "sizes of rows": {"block_sizes": [2, 3], "block_size_per": "row"},
        "pairs": {"complementary_masks": True},
        "interval": {"time_epsilon": 0.3, "time_max": 0.8},
        "bell": {"time_sampling": "bell"},
        "prompts hidden": {"prompt_dropout": 0.5},
        "rows cut": {"random_length_share": 0.5},
    }
    losses = {
        name: one_step(make_trainer(model=make_block_model(), **ONE_STEP, **option))[0]["loss"]
        for name, option in options.items()
    }
    assert len({round(loss, 6) for loss in losses.values()}) == len(losses), losses


@pytest.fixture
def rows_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., BlockRows]:
    """`rows_of(trainer, batch)`: the noisy and clean rows of a training batch."""

    def rows(trainer: Any, batch: dict[str, Any]) -> BlockRows:
        seen: list[BlockRows] = []

        def spy(model: Any, rows: BlockRows, at: Any) -> Any:
            seen.append(rows)
            return block_causal_inputs(model, rows, at)

        monkeypatch.setattr("hf_latent.training.masked_diffusion.trainer.block_causal_inputs", spy)
        trainer.model.train()
        trainer.compute_loss(trainer.model, dict(batch))
        return seen[-1]

    return rows


def test_a_pair_of_masks_learns_every_supervised_token_once(
    make_trainer: Any, make_block_model: Any, rows_of: Any
) -> None:
    trainer = make_trainer(model=make_block_model(), complementary_masks=True, per_device_train_batch_size=24)
    batch = next(iter(trainer.get_train_dataloader()))
    rows = rows_of(trainer, batch)
    masked = (rows.noisy == trainer.model.config.mask_token_id).view(2, *batch["labels"].shape)
    assert torch.equal(masked[0] ^ masked[1], batch["labels"] != -100)
    assert not (masked[0] & masked[1]).any()
    assert torch.equal(rows.clean, batch["input_ids"].repeat(2, 1))


def test_a_hidden_prompt_is_hidden_in_the_clean_copy_too(
    make_trainer: Any, make_block_model: Any, rows_of: Any
) -> None:
    """Else every block but the first would read it there, and the unconditional half of guidance were none."""
    trainer = make_trainer(model=make_block_model(), prompt_dropout=1.0, per_device_train_batch_size=24)
    batch = next(iter(trainer.get_train_dataloader()))
    rows = rows_of(trainer, batch)
    prompt = (batch["labels"] == -100) & batch["attention_mask"].bool()
    assert prompt.any()
    assert torch.equal(rows.clean == trainer.model.config.mask_token_id, prompt)


@pytest.mark.parametrize("shift_logits", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_columns_that_no_masked_token_depends_on_are_left_out(
    make_block_model: Any, attention: str, shift_logits: bool
) -> None:
    """Scores are those of a forward of all of `[x_t | x_0]`, with padding, packed documents and sizes of their own."""
    model = make_block_model(4, shift_logits=shift_logits)
    model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(3, 15, (3, 18), generator=generator)
    position_ids = torch.tensor([[*range(18)], [*range(7), *range(11)], [*range(13), 0, 0, 0, 0, 0]])
    exists = torch.ones(3, 18, dtype=torch.bool)
    exists[2, 13:] = False
    masked = (torch.rand(3, 18, generator=generator) < 0.3) & exists
    masked[0, :8] = masked[1, 12:] = False
    noisy = clean.masked_fill(masked, model.config.mask_token_id)
    sizes = torch.tensor([[4] * 18, [3] * 7 + [5] * 11, [4] * 18])
    rows = BlockRows(noisy, clean, position_ids, exists, masked, sizes)
    given, at = block_causal_inputs(model, rows, masked.nonzero(as_tuple=True))
    assert given["input_ids"].shape[1] <= 30 < 2 * 18
    targets = clean[masked]
    found = model(**given, logits_to_keep=at, targets=targets).nll
    whole = {"attention_mask": exists.long(), "position_ids": position_ids, "block_size": sizes}
    expected = model(noisy, clean_ids=clean, **whole, logits_to_keep=masked, targets=targets).nll
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_max": 1.5}, r"`time_max` must be above `time_epsilon` \(0.001\) and at most 1, got 1.5"),
        ({"time_max": 0.2, "time_epsilon": 0.3}, r"`time_max` must be above `time_epsilon` \(0.3\)"),
        ({"time_per": "row"}, r"`time_per` must be one of \(None, 'sequence', 'block'\), got 'row'"),
        ({"block_sizes": []}, r"`block_sizes` must be numbers of at least 1, got \[\]"),
        ({"block_sizes": [0, 4]}, r"`block_sizes` must be numbers of at least 1, got \[0, 4\]"),
        ({"block_size_per": "row"}, "`block_size_per` is for `block_sizes`, got 'row' without"),
        ({"complementary_masks": True, "mask_schedule": "cosine"}, "needs `mask_schedule='linear'`.*got 'cosine'"),
        ({"complementary_masks": True, "time_epsilon": 0.6}, "`time_epsilon` 0.6 and `time_max` 1.0 leave none of"),
        ({"attention_annealing_steps": 4}, "must be 0 with block-causal attention, got 4"),
    ],
)
def test_what_options_cannot_mean_is_refused_by_name(
    make_trainer: Any, make_block_model: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(model=make_block_model(), **options)


@pytest.mark.parametrize("options", [{"time_per": "block"}, {"block_sizes": [2, 4]}])
def test_blocks_of_a_model_without_are_refused(make_trainer: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"needs a model with block-causal attention.*got LladaForMaskedDiffusion"):
        make_trainer(**options)


# Trajectories that must agree

MANY = {"block_sizes": [2, 3, 5], "block_size_per": "row", "complementary_masks": True}


@pytest.mark.parametrize("options", [{}, MANY], ids=["plain", "all options"])
def test_packing_and_micro_batches_change_nothing(
    make_trainer: Any, make_block_model: Any, options: dict[str, Any]
) -> None:
    """The whole set in one step: a row each, packed (blocks restart in each document), and eight at a time."""
    whole = one_step(make_trainer(model=make_block_model(), **ONE_STEP, **options))
    packed = make_trainer(model=make_block_model(), packing=True, **ONE_STEP, **options)
    assert len(packed.train_dataset) < 24
    assert_same_step(whole, one_step(packed))
    split = ONE_STEP | {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 8}
    assert_same_step(whole, one_step(make_trainer(model=make_block_model(), **split, **options)))


def test_the_block_size_of_a_step_is_that_of_all_its_micro_batches(make_trainer: Any, make_block_model: Any) -> None:
    whole = one_step(make_trainer(model=make_block_model(), **ONE_STEP, block_sizes=[2, 3, 5]))
    split = ONE_STEP | {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 8}
    assert_same_step(whole, one_step(make_trainer(model=make_block_model(), **split, block_sizes=[2, 3, 5])))


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(make_trainer: Any, make_block_model: Any) -> None:
    """With LoRA, a block size of each step, and noise of the second pass."""
    run = {"max_steps": 6, "logging_steps": 1, "per_device_train_batch_size": 8, "block_sizes": [2, 3, 5]}
    lora = LoraConfig(r=4, target_modules="all-linear")
    model = make_block_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    whole = make_trainer(model=model, peft_config=lora, **run, save_strategy="steps", save_steps=4)
    whole.train()
    base = whole.model.get_base_model().state_dict()
    assert all(torch.equal(base[name.replace(".weight", ".base_layer.weight")], value)
               for name, value in before.items() if "proj" in name)  # fmt: skip
    resumed = make_trainer(model=make_block_model(), peft_config=lora, **run)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-4")
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, resumed)]
    assert losses[1][-2:] == pytest.approx(losses[0][-2:], rel=1e-5)
    torch.testing.assert_close(weights_of(resumed), weights_of(whole), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_exist_at_masked_positions_only(make_trainer: Any, make_block_model: Any, attention: str) -> None:
    model, seen = make_block_model(), []
    model.set_attn_implementation(attention)
    model.lm_head.register_forward_hook(lambda _, args, out: seen.append(out.shape))
    trainer = make_trainer(model=model, per_device_train_batch_size=24)
    batch = next(iter(trainer.get_train_dataloader()))
    _, parts = trainer.compute_loss(model, dict(batch), return_outputs=True)
    assert seen[-1] == (parts[:, trainer.parts.index("masked")].sum(), model.config.vocab_size)


# The families' own training


@pytest.fixture
def recorded_step(
    fixtures_dir: Path, tmp_path: Path, make_words: Any, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[float, torch.Tensor, dict[str, torch.Tensor]]]:
    """`step(family)`: loss of a trainer's batch under the recorded noise, the decoder's mask, and the record."""

    def step(family: str, **options: Any) -> tuple[float, torch.Tensor, dict[str, torch.Tensor]]:
        folder = fixtures_dir / f"{family}-tiny"
        record = load_file(folder / "expected_logits.safetensors")
        record = {name.removeprefix("training."): value for name, value in record.items() if "training." in name}
        clean = record["clean_ids"]
        noisy = record.get("noisy_ids", record.get("noisy_ids_0"))
        model = AutoModelForCausalLM.from_pretrained(folder)
        model.config.mask_token_id = int(noisy[noisy != clean][0])
        supervised = (noisy != clean) | (record.get("noisy_ids_1", clean) != clean)
        labels = clean.masked_fill(~supervised, -100)
        tokenizer = make_words(model.config.vocab_size - 3, special=("eos", "pad"))
        arguments = MaskedDiffusionConfig(
            str(tmp_path), use_cpu=True, report_to="none", disable_tqdm=True, loss_weighting="uniform", **options
        )
        row = {"input_ids": clean[0].tolist(), "labels": labels[0].tolist()}
        data = Dataset.from_list([row])
        trainer = MaskedDiffusionTrainer(model, arguments, train_dataset=data, processing_class=tokenizer)
        masks: list[torch.Tensor] = []
        model.model.register_forward_pre_hook(
            lambda _, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
        )

        def corrupt(ids: torch.Tensor, *args: Any) -> Corruption:
            rows = noisy.expand(ids.shape)
            return Corruption(rows, rows != ids)

        monkeypatch.setattr("hf_latent.training.masked_diffusion.noising.corrupt", corrupt)
        batch = {"input_ids": clean, "labels": labels, "example_id": torch.tensor([0])}
        trainer.model.train()  # for `block_sizes`
        loss = trainer.compute_loss(model, batch).item()
        return loss, masks[-1], record

    return step


def recorded_mask(record: dict[str, torch.Tensor], size: int, reads_previous_state: bool = False) -> torch.Tensor:
    """What the record says of the columns that are read: noisy blocks with a mask, and the clean ones before them."""
    masked = (record.get("noisy_ids", record.get("noisy_ids_0")) != record["clean_ids"])[0].nonzero()[:, 0].tolist()
    blocks = {(i - reads_previous_state) // size for i in masked} | {i // size for i in masked}
    length = record["clean_ids"].shape[1]
    noisy = [i for i in range(length) if i // size in blocks]
    columns = noisy + [length + i for i in range(length) if i // size < max(blocks)]
    return record["attention_mask"].view(2 * length, 2 * length).bool()[columns][:, columns]


def test_fast_dllm_v2_has_the_loss_that_its_own_code_computes(recorded_step: Any, fixtures_dir: Path) -> None:
    """A mask and its complement, labels shifted by one, plain mean over the masked of both."""
    loss, mask, record = recorded_step("fast-dllm-v2", complementary_masks=True)
    info = json.loads((fixtures_dir / "fast-dllm-v2-tiny" / "expected.json").read_text())["logits_info"]
    assert loss == pytest.approx(info["training_loss"], abs=5e-5)
    assert torch.equal(mask[0, 0].bool(), recorded_mask(record, 8, reads_previous_state=True))


@pytest.mark.parametrize(("family", "options"), [("sdar", {}), ("llada2", {"block_sizes": [8]})])
def test_noisy_and_clean_rows_see_what_they_see_in_the_families_own_training(
    recorded_step: Any, family: str, options: dict[str, Any]
) -> None:
    """LLaDA2's record has blocks of 8, its configuration of 32."""
    loss, mask, record = recorded_step(family, **options)
    assert torch.equal(mask[0, 0].bool(), recorded_mask(record, options.get("block_sizes", [4])[0]))
    masked = record["noisy_ids"] != record["clean_ids"]
    log_p = record["noisy_logits"][masked].log_softmax(-1)
    expected = -log_p.gather(-1, record["clean_ids"][masked][:, None]).mean().item()
    assert loss == pytest.approx(expected, abs=5e-5)
