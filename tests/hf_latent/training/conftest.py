"""A tiny masked diffusion model, its tokenizer, a few puzzles, and trainers on them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from hf_latent import LladaConfig, LladaForMaskedDiffusion
from hf_latent.tasks import SudokuTask, sudoku_tokenizer
from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models of this size only wait for each other's threads."""
    torch.set_num_threads(1)


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerBase:
    return sudoku_tokenizer(4)


@pytest.fixture
def make_model(tokenizer: PreTrainedTokenizerBase) -> Callable[..., LladaForMaskedDiffusion]:
    def make(seed: int = 0, **overrides: Any) -> LladaForMaskedDiffusion:
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        special = {name: getattr(tokenizer, name) for name in ("mask_token_id", "pad_token_id", "eos_token_id")}
        # A wide initialisation, so that a wrong position or a wrong mask moves the loss visibly.
        return LladaForMaskedDiffusion(
            LladaConfig(**{"vocab_size": len(tokenizer), "init_std": 0.3, **sizes, **special, **overrides})
        )

    return make


@pytest.fixture(scope="session")
def ragged_dataset() -> Dataset:
    """24 pre-tokenized rows of different lengths; the first third of each is a prompt."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(24):
        length = int(torch.randint(3, 20, (), generator=generator))
        ids = torch.randint(3, 15, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (length // 3) + ids[length // 3 :]})
    return Dataset.from_list(rows)


@pytest.fixture(scope="session")
def puzzles() -> Dataset:
    return SudokuTask(4).dataset(12, 0, num_givens=(8, 10))


@pytest.fixture
def make_trainer(
    tmp_path: Any, make_model: Any, tokenizer: Any, ragged_dataset: Dataset
) -> Callable[..., MaskedDiffusionTrainer]:
    def make(
        model: Any = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        peft_config: Any = None,
        callbacks: Any = None,
        **arguments: Any,
    ) -> MaskedDiffusionTrainer:
        defaults = {"output_dir": str(tmp_path), "disable_tqdm": True, "save_strategy": "no", "use_cpu": True}
        return MaskedDiffusionTrainer(
            make_model() if model is None else model,
            MaskedDiffusionConfig(**{**defaults, "report_to": "none", **arguments}),
            train_dataset=ragged_dataset if train_dataset is None else train_dataset,
            eval_dataset=eval_dataset,
            processing_class=tokenizer,
            peft_config=peft_config,
            callbacks=callbacks,
        )

    return make
