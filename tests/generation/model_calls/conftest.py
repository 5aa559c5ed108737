"""Rows of unequal length in one batch, and what each of them must come to: what it is alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch


@pytest.fixture(scope="session")
def padded() -> Callable[[list[list[int]], str, int], tuple[torch.Tensor, torch.Tensor]]:
    """`padded(rows, "left" or "right", pad_token_id)`: ids and attention mask."""

    def pad(rows: list[list[int]], side: str, filling: int) -> tuple[torch.Tensor, torch.Tensor]:
        length = max(map(len, rows))
        ids, mask = torch.full((len(rows), length), filling), torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            columns = slice(length - len(row), length) if side == "left" else slice(0, len(row))
            ids[i, columns], mask[i, columns] = torch.tensor(row), 1
        return ids, mask

    return pad


@pytest.fixture(scope="session")
def check_rows_alone(padded: Callable) -> Callable[..., None]:
    """`check_rows_alone(model, rows, pad_token_id, **knobs)`: alone and in batches padded on either side, the same."""

    def check(model: Any, rows: list[list[int]], filling: int, **knobs: Any) -> None:
        alone = [model.generate(torch.tensor([row]), row_indices=[i], **knobs) for i, row in enumerate(rows)]
        for side in ("left", "right"):
            ids, mask = padded(rows, side, filling)
            out = model.generate(ids, attention_mask=mask, **knobs)
            for i, row in enumerate(rows):
                start = ids.shape[1] - len(row) if side == "left" else 0
                columns = slice(start, start + len(row) + knobs["max_new_tokens"])
                assert out.sequences[i, columns].tolist() == alone[i].sequences[0].tolist()
                assert out.commit_step[i, columns].tolist() == alone[i].commit_step[0].tolist()
                assert out.num_forward_passes[i] == alone[i].num_forward_passes[0]

    return check
