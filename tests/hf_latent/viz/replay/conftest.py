"""Runs to replay: a tokenizer of whole words, and outputs of which every forward is known."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from hf_latent import DiffusionGenerateOutput
from hf_latent.viz import Replay, replay_of

MASK, EOS, PAD = 0, 1, 2
NAN = float("nan")


class Words:
    """A tokenizer of whole words; ids are places in the list."""

    mask_token_id: int | None = MASK
    all_special_ids = (MASK, EOS, PAD)

    def __init__(self, *words: str) -> None:
        self.words = ["<mask>", "<eos>", "<pad>", *words]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids)

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.words[token]


def _run_of(steps: list[int], ids: list[int], num_given: int, **fields: Any) -> DiffusionGenerateOutput:
    """A run of one row that commits position p at `steps[p]`; -1 is given. Open positions propose their final token
    with a confidence of 0.5 at first and 0.1 more at every forward."""
    sequence, commit_step = torch.tensor([ids]), torch.tensor([steps])
    num = max(steps) + 1
    to_write = torch.arange(len(ids))[None] >= num_given
    open_before = [to_write & ((commit_step < 0) | (commit_step >= k)) for k in range(num + 1)]
    nothing = torch.full(sequence.shape, -1)
    values: dict[str, Any] = {
        "sequences": sequence,
        "num_forward_passes": torch.tensor([num]),
        "tokens_per_forward": torch.tensor([(commit_step >= 0).sum() / num]),
        "commit_step": commit_step,
        "commit_entropy": torch.where(commit_step >= 0, 0.25, NAN),
        "history": tuple(sequence.masked_fill(open_before[k + 1], MASK) for k in range(num)),
        "candidate_history": tuple(torch.where(open_before[k], sequence, nothing) for k in range(num)),
        "confidence_history": tuple(torch.where(open_before[k], 0.5 + 0.1 * k, NAN) for k in range(num)),
    }
    return DiffusionGenerateOutput(**values | fields)


@pytest.fixture
def run_of() -> Callable[..., DiffusionGenerateOutput]:
    """`run_of(steps, ids, num_given, **fields)`, see `_run_of`."""
    return _run_of


@pytest.fixture
def words() -> Words:
    return Words("2", "+", "3", "=", "5", "\n", " the", " sum")


@pytest.fixture
def evil() -> str:
    """Text that would end the script it stands in and run another."""
    return "</script><img src=x onerror=\"document.title='ran'\"><!--"


@pytest.fixture
def slow(words: Words) -> Replay:
    """Four tokens in four forwards, from right to left, with the entropy of the answer and an exit."""
    output = _run_of(
        [-1, -1, -1, -1, 3, 2, 1, 0],
        [3, 4, 5, 6, 7, 8, 9, EOS],
        4,
        answer_entropy=torch.tensor([[2.0, 1.0, 0.5, 0.0]]),
        exit_step=torch.tensor([2]),
        leftmost_share=torch.tensor([0.25]),
        leftmost_distance=torch.tensor([1.5]),
    )
    return replay_of(
        output,
        0,
        words,
        name="low_confidence",
        settings={"block_length": None},
        input_ids=[3, 4, 5, 6],
        exit_threshold=0.75,
        reasoning="add them",
        answer="5",
    )


@pytest.fixture
def fast(words: Words) -> Replay:
    """The same four tokens in two forwards."""
    output = _run_of([-1, -1, -1, -1, 0, 0, 1, 0], [3, 4, 5, 6, 7, 8, 9, EOS], 4)
    return replay_of(output, 0, words, name="med", settings={"entropy_threshold": 0.2}, input_ids=[3, 4, 5, 6])
