"""A bar of early exits that moves: between numbers, with an answer. Where rows exit is held with the constant one."""

import math
from typing import Any

import pytest
import torch
from torch import nn

MASK = 47
ROWS = [[1, 2, 3, *[MASK] * 6, 4, 5, MASK, MASK, MASK, 6], [9, *[MASK] * 4, 30, MASK, MASK]]


def run(model: nn.Module, row: list[int], **knobs: object) -> Any:
    """The masks behind the reasoning and its delimiter are the answer."""
    first = row.index(MASK)
    second = next(i for i in range(first, len(row)) if row[i] != MASK)
    answer = [i > second and token == MASK for i, token in enumerate(row)]
    ids = torch.tensor([row])
    return model.generate(ids, answer_mask=torch.tensor([answer]), return_dict_in_generate=True, **knobs)


@pytest.mark.parametrize(("first", "last"), [(None, 2.0), (math.inf, 2.0), (2.0, math.inf), (2.0, -1.0)])
def test_a_threshold_moves_between_numbers(model: nn.Module, first: float | None, last: float) -> None:
    with pytest.raises(ValueError, match=rf"`early_exit_final_threshold`(={last} needs| must be .*got {last})"):
        run(model, ROWS[0], early_exit_threshold=first, early_exit_final_threshold=last)


def test_a_moving_threshold_needs_an_answer(llada: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"`early_exit_final_threshold`=2.0 needs an `answer_mask`"):
        llada.generate(torch.tensor([[1]]), max_new_tokens=2, early_exit_final_threshold=2.0)


def test_a_threshold_that_moves_to_itself_stands_still(model: nn.Module) -> None:
    for row in ROWS:
        constant, moving = (
            run(model, row, early_exit_threshold=3.0, early_exit_final_threshold=last) for last in (None, 3.0)
        )
        assert torch.equal(constant.sequences, moving.sequences)
        assert torch.equal(constant.exit_step, moving.exit_step)
