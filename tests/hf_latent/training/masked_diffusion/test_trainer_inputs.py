"""Data that a trainer takes, and data, models and tokenizers that it must refuse."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import LlamaConfig, LlamaForCausalLM
from trl import SFTConfig

from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer

# Data


def test_prompt_completion_data_supervises_the_completion_and_one_eos(
    make_trainer: Any, puzzles: Dataset, tokenizer: Any
) -> None:
    trainer = make_trainer(train_dataset=puzzles)
    row = trainer.train_dataset[3]
    supervised = [token for token in row["labels"] if token != -100]
    assert tokenizer.decode(supervised) == puzzles[3]["completion"] + tokenizer.eos_token
    assert tokenizer.decode(row["input_ids"]).startswith(puzzles[3]["prompt"])


def test_held_out_prompts_are_given_beside_a_tokenized_training_set(
    make_trainer: Any, ragged_dataset: Dataset, puzzles: Dataset
) -> None:
    """trl decides by the training set alone: the questions of the held-out problems would be masked and scored."""
    trainer = make_trainer(eval_dataset=puzzles)
    batch = next(iter(trainer.get_eval_dataloader()))
    lengths = [len(trainer.processing_class(row["prompt"])["input_ids"]) for row in puzzles]
    given = (batch["labels"] == -100) & batch["attention_mask"].bool()
    assert given.sum(-1).tolist() == lengths[: len(given)]


def test_example_ids_name_the_original_rows_after_shuffling_and_dropping(
    make_trainer: Any, ragged_dataset: Dataset, caplog: Any
) -> None:
    """Truncation leaves rows without a label; trl drops them in silence."""
    hopeless = ragged_dataset.map(
        lambda row, i: {"labels": [-100] * 4 + row["labels"][4:]} if i % 4 == 0 else {}, with_indices=True
    )
    expected = {i for i, row in enumerate(hopeless) if any(label != -100 for label in row["labels"][:4])}
    assert 0 < len(expected) < 24
    with caplog.at_level(logging.WARNING, "hf_latent.training.masked_diffusion.trainer"):
        trainer = make_trainer(train_dataset=hopeless, shuffle_dataset=True, max_length=4)
    assert f"Dropped {24 - len(expected)} of 24 examples" in caplog.text
    prepared = trainer.train_dataset
    assert set(prepared["example_id"]) == expected
    assert list(prepared["example_id"]) != sorted(expected)
    for row in prepared:
        assert row["input_ids"] == ragged_dataset[row["example_id"]]["input_ids"][:4]


def test_own_example_ids_are_kept_and_must_be_integers(make_trainer: Any, ragged_dataset: Dataset) -> None:
    own = ragged_dataset.add_column("example_id", [100 + i for i in range(24)])
    assert make_trainer(train_dataset=own).train_dataset["example_id"][:2] == [100, 101]
    with pytest.raises(ValueError, match="must hold integers, got 'a0'"):
        make_trainer(train_dataset=ragged_dataset.add_column("example_id", [f"a{i}" for i in range(24)]))


def test_a_batch_without_example_ids_is_refused(make_trainer: Any) -> None:
    trainer = make_trainer()
    batch = next(iter(trainer.get_train_dataloader()))
    del batch["example_id"]
    with pytest.raises(ValueError, match=r"no `example_id`.*MaskedDiffusionCollator"):
        trainer.compute_loss(trainer.model, batch)


# Models


def test_a_causal_model_is_refused(make_trainer: Any) -> None:
    """trl alone would train it, in silence, on targets it cannot see."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    causal = LlamaForCausalLM(LlamaConfig(vocab_size=15, **sizes))
    with pytest.raises(ValueError, match="LlamaForCausalLM is causal"):
        make_trainer(causal)


def test_a_model_without_a_mask_token_is_refused(make_trainer: Any, make_model: Any) -> None:
    with pytest.raises(ValueError, match=r"`mask_token_id` of LladaForMaskedDiffusion's configuration .*got None"):
        make_trainer(make_model(mask_token_id=None))


def test_arguments_of_another_trainer_are_refused(make_model: Any, ragged_dataset: Dataset, tmp_path: Path) -> None:
    """A plain SFTConfig may say packing, and has no objective."""
    with pytest.raises(ValueError, match="must be a MaskedDiffusionConfig, got SFTConfig"):
        MaskedDiffusionTrainer(make_model(), SFTConfig(str(tmp_path), bf16=False), train_dataset=ragged_dataset)


def test_a_model_can_be_given_by_its_path(
    make_model: Any, tokenizer: Any, ragged_dataset: Dataset, tmp_path: Path
) -> None:
    """Its tokenizer lies beside it, half precision is loaded as float32, and `model_init_kwargs` are honoured."""
    folder = str(tmp_path / "model")
    make_model().bfloat16().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = MaskedDiffusionConfig(str(tmp_path), use_cpu=True, model_init_kwargs={"attn_implementation": "eager"})
    trainer = MaskedDiffusionTrainer(folder, config, train_dataset=ragged_dataset)
    assert trainer.processing_class.mask_token_id == tokenizer.mask_token_id
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert trainer.model.config._attn_implementation == "eager"
    expected = make_model().bfloat16().float().state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trainer.model.state_dict().items())
    assert config.model_init_kwargs == {"attn_implementation": "eager"}


# Misuse


def test_a_tokenizer_with_another_mask_token_is_refused(make_trainer: Any, make_model: Any) -> None:
    with pytest.raises(ValueError, match=r"`mask_token_id` of the tokenizer \(\d+\) must be that .*\(3\)"):
        make_trainer(model=make_model(mask_token_id=3))


def test_a_mask_token_among_the_labels_is_refused(make_trainer: Any, tokenizer: Any) -> None:
    data = Dataset.from_list([{"input_ids": [5, tokenizer.mask_token_id, 6]}] * 4)
    with pytest.raises(ValueError, match=f"the mask token \\({tokenizer.mask_token_id}\\) among the tokens"):
        make_trainer(train_dataset=data, max_steps=1).train()


def test_data_without_a_label_is_refused(make_trainer: Any) -> None:
    data = Dataset.from_list([{"input_ids": [5, 6, 7], "labels": [-100] * 3}] * 4)
    with pytest.raises(ValueError, match="no example with a supervised token left"):
        make_trainer(train_dataset=data)


def test_a_model_whose_attention_stays_causal_is_refused(make_trainer: Any) -> None:
    """It says that it is not, but its forward is not one that hands this on."""

    class Claims(LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **{**kwargs, "is_causal": True})

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=20, **sizes)
    config.is_causal, config.mask_token_id = False, 18
    with pytest.raises(ValueError, match="Claims stays causal"):
        make_trainer(model=Claims(config))
