"""Token ids that the model has no embedding for are named before the first step, wherever they come from."""

from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from torch import nn

from hf_latent.training.common.token_ids import check_token_ids
from hf_latent.training.masked_diffusion.collator import MaskedDiffusionCollator

ROWS: list[dict[str, Any]] = [
    {"input_ids": [1, 2], "labels": [-100, 2]},
    {"input_ids": [3, 4, 5], "labels": [-100, 4, 5]},
]


class Tiny(nn.Module):
    """Six embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 2)

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding


@pytest.mark.parametrize("column", ["input_ids", "labels"])
@pytest.mark.parametrize("token_id", [6, 60_000, -1])
def test_set_column_row_and_id_are_named(column: str, token_id: int) -> None:
    check_token_ids(Dataset.from_list(ROWS), "train", Tiny())
    wrong = [ROWS[0], {**ROWS[1], column: [3, 4, token_id]}]
    expected = f"`train_dataset`, column {column!r}, row 1: the token id {token_id} is not in"
    with pytest.raises(ValueError, match=expected):
        check_token_ids(Dataset.from_list(wrong), "train", Tiny())
    with pytest.raises(ValueError, match=r"`eval_dataset\['long'\]`"):
        check_token_ids(Dataset.from_list(wrong), "long", Tiny())
    with pytest.raises(ValueError, match=r"row 1: .*not in \[0, 6\)"):  # rows are those of the set, not of its table
        check_token_ids(Dataset.from_list([*ROWS, *wrong]).select([2, 3]), "train", Tiny())


def test_streams_are_looked_at_batch_by_batch() -> None:
    stream = IterableDataset.from_generator(lambda: iter(ROWS))
    check_token_ids(stream, "train", Tiny())
    collate = MaskedDiffusionCollator(pad_token_id=0, num_embeddings=6)
    assert collate([dict(row) for row in stream])["input_ids"].shape == (2, 3)
    with pytest.raises(ValueError, match="column 'input_ids': the token id 9 is not in"):
        collate([{"input_ids": [1, 9], "labels": [-100, 2]}])


def test_a_model_that_does_not_say_how_many_is_left_alone() -> None:
    model = Tiny()
    model.embedding = nn.Identity()  # type: ignore[assignment]
    check_token_ids(Dataset.from_list([{"input_ids": [99]}]), "train", model)
    assert torch.equal(model.embedding(torch.ones(1)), torch.ones(1))
