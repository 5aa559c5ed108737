"""A tiny Sudoku model that knows nothing, and one that knows the answer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import MaskedLMOutput

from hf_latent import LladaForMaskedDiffusion
from hf_latent.tasks import SudokuTask, sudoku_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return sudoku_tokenizer()


@pytest.fixture
def sudoku_model(make_llada: Callable, tokenizer: PreTrainedTokenizerFast) -> LladaForMaskedDiffusion:
    """Random weights, the tokenizer's vocabulary."""
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "max_position_embeddings": 128}
    special = {name: getattr(tokenizer, name) for name in ("mask_token_id", "eos_token_id", "pad_token_id")}
    return make_llada(vocab_size=len(tokenizer), **sizes, **special)


@pytest.fixture
def puzzles() -> list[dict[str, Any]]:
    """Five held-out 4x4 puzzles, formatted."""
    task = SudokuTask(4)
    return [p | task.format(p) for p in task.generate(5, seed=0, split="test", num_givens=(6, 10))]


@pytest.fixture
def oracle(
    sudoku_model: LladaForMaskedDiffusion, tokenizer: PreTrainedTokenizerFast, puzzles: list[dict[str, Any]]
) -> Callable[[set[int]], LladaForMaskedDiffusion]:
    """
    `oracle(wrong)` is a model that predicts the solution of each of `puzzles` with near certainty, but for the
    puzzles numbered in `wrong`, where it gives the first cell's digit to the second too.
    """

    def build(wrong: set[int] = frozenset()) -> LladaForMaskedDiffusion:
        answers = {}
        for number, puzzle in enumerate(puzzles):
            prompt = tuple(tokenizer(puzzle["prompt"])["input_ids"])
            answer = [*tokenizer(puzzle["completion"])["input_ids"], tokenizer.eos_token_id]
            if number in wrong:
                answer[1] = answer[0]
            answers[prompt] = answer

        def forward(input_ids: torch.Tensor, logits_to_keep: tuple, **kwargs: Any) -> MaskedLMOutput:
            rows, columns = logits_to_keep
            logits = torch.zeros(len(rows), len(tokenizer))
            for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
                ids = input_ids[row].tolist()
                length = next(n for n in range(len(ids)) if tuple(ids[:n]) in answers)
                logits[i, answers[tuple(ids[:length])][column - length]] = 30.0
            return MaskedLMOutput(logits=logits)

        sudoku_model.forward = forward
        return sudoku_model

    return build
