"""Documents that share a row must not notice: same loss, same gradient, as each in a row of its own."""

from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset

from hf_latent import DreamConfig, DreamForMaskedDiffusion
from hf_latent.training.masked_diffusion.packing import attention_bias, lay_out, pack_documents, split_documents

ONE_STEP = {"max_steps": 1, "logging_steps": 1, "optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.0}
ONE_STEP |= {"lr_scheduler_type": "constant", "max_length": 32}


def dream(tokenizer: Any) -> DreamForMaskedDiffusion:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {name: getattr(tokenizer, name) for name in ("mask_token_id", "pad_token_id", "eos_token_id")}
    return DreamForMaskedDiffusion(
        DreamConfig(vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.3, **sizes, **special)
    )


def test_documents_keep_their_tokens_labels_and_names(ragged_dataset: Dataset) -> None:
    """trl takes the first target of every packed document away, which is right for causal models only."""
    dataset = ragged_dataset.map(lambda row, i: {"example_id": 100 + i}, with_indices=True)
    packed = pack_documents(dataset, 32)
    assert len(packed) < len(dataset) / 2
    documents = [d for row in packed for d in split_documents([row])[0]]
    found = {d["example_id"]: (d["input_ids"], d["labels"]) for d in documents}
    assert found == {row["example_id"]: (row["input_ids"], row["labels"]) for row in dataset}
    assert max(len(row["input_ids"]) for row in packed) <= 32


def test_layout_by_hand() -> None:
    ids = torch.tensor([[5, 6, 7], [8, 0, 0], [9, 4, 0]])
    attended = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0]])
    packed = lay_out(ids, attended, torch.tensor([0, 0, 1]), torch.tensor([0, 3, 0]), padding=0)
    assert packed.input_ids.tolist() == [[5, 6, 7, 8], [9, 4, 0, 0]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert packed.document.tolist() == [[1, 1, 1, 2], [3, 3, 0, 0]]


def test_a_position_that_sees_nothing_sees_itself() -> None:
    """A row of the smallest number everywhere would be uniform in one implementation and nan in another."""
    bias = attention_bias(torch.zeros(1, 3, 3, dtype=torch.bool), torch.float32)
    assert bias.shape == (1, 1, 3, 3)
    assert torch.equal(bias[0, 0] == 0, torch.eye(3, dtype=torch.bool))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("normalization", ["token", "sequence"])
def test_packing_changes_neither_the_loss_nor_the_gradient(
    make_trainer: Any, make_model: Any, tokenizer: Any, ragged_dataset: Dataset, attention: str, family: str,
    normalization: str,
) -> None:  # fmt: skip
    """The whole set in one step, packed and not. Stock packing lets documents see each other here."""
    logs, weights = [], []
    for packing in (False, True):
        model = make_model() if family == "llada" else dream(tokenizer)
        model.set_attn_implementation(attention)
        trainer = make_trainer(
            model=model, packing=packing, per_device_train_batch_size=24, loss_normalization=normalization, **ONE_STEP
        )
        assert (len(trainer.train_dataset) < 24) == packing
        trainer.train()
        logs.append(trainer.state.log_history[0])
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    for name in ("loss", "nll", "masked_nll", "masked_accuracy", "mask_ratio", "num_tokens"):
        assert logs[1][name] == pytest.approx(logs[0][name], rel=1e-5), name
    torch.testing.assert_close(weights[1], weights[0], atol=2e-6, rtol=1e-5)


def test_streamed_data_is_packed_too(make_trainer: Any, ragged_dataset: Dataset) -> None:
    rows = list(ragged_dataset)
    stream = IterableDataset.from_generator(lambda: iter(rows))
    trainer = make_trainer(train_dataset=stream, packing=True, per_device_train_batch_size=24, **ONE_STEP)
    trainer.train()
    whole = make_trainer(packing=True, per_device_train_batch_size=24, **ONE_STEP)
    whole.train()
    logs = [t.state.log_history[0] for t in (trainer, whole)]
    assert logs[0]["loss"] == pytest.approx(logs[1]["loss"], rel=1e-5)
    assert logs[0]["num_tokens"] == sum(len(row["input_ids"]) for row in rows)


def test_flex_attention_is_refused(make_trainer: Any, make_model: Any) -> None:
    """It takes no dense mask; documents would see each other or it would crash at the first step."""
    model = make_model()
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match=r"need `attn_implementation` 'sdpa' or 'eager'.*got 'flex_attention'"):
        make_trainer(model=model, packing=True, max_length=32)


def test_a_window_shorter_than_a_row_is_refused(make_trainer: Any, make_model: Any) -> None:
    model = make_model()
    model.config.sliding_window, model.config.layer_types = 16, ["sliding_attention"]
    with pytest.raises(ValueError, match=r"`max_length` must be at most `sliding_window` \(16\), got 32"):
        make_trainer(model=model, packing=True, max_length=32)
