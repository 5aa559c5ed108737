"""Who sees whom in block-causal attention: the tensors against the definition in words, one pair at a time."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_latent.generation.model_calls.block_causal_masks import (
    block_causal_visibility,
    canvas_block_visibility,
    noisy_and_clean_visibility,
)
from hf_latent.generation.model_calls.semi_causal_masks import NOT_IN_STREAM, is_visible

# Of a row: padding on the left, lengths of its documents, padding on the right.
Row = tuple[int, list[int], int]


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    length = draw(st.integers(1, 10))
    found = []
    for _ in range(draw(st.integers(1, 3))):
        left = draw(st.integers(0, length))
        right = draw(st.integers(0, length - left))
        documents, rest = [], length - left - right
        while rest:
            documents.append(draw(st.integers(1, rest)))
            rest -= documents[-1]
        found.append((left, documents, right))
    return found


def tensors(batch: list[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Positions, what exists and the document of each column; positions of padding are no reason for a new block."""
    positions, exists, document = [], [], []
    for left, lengths, right in batch:
        number = [i for i, length in enumerate(lengths) for _ in range(length)]
        positions.append([0] * left + [p for length in lengths for p in range(length)] + [0] * right)
        exists.append([False] * left + [True] * len(number) + [False] * right)
        document.append([-1] * left + number + [-1] * right)
    return torch.tensor(positions), torch.tensor(exists), torch.tensor(document)


def in_words(batch: list[Row], block_size: int, window: int | None, noisy: bool) -> torch.Tensor:
    """The definition, pair by pair; `noisy`: of `[x_t | x_0]`."""
    positions, exists, document = tensors(batch)
    rows, length = positions.shape
    columns = range(2 * length if noisy else length)
    seen = torch.zeros(rows, len(columns), len(columns), dtype=torch.bool)
    for row in range(rows):
        for q in columns:
            for k in columns:
                i, j = q % length, k % length
                if not (exists[row, i] and exists[row, j]) or document[row, i] != document[row, j]:
                    continue
                if window is not None and abs(positions[row, i] - positions[row, j]) >= window:
                    continue
                own, other = positions[row, i] // block_size, positions[row, j] // block_size
                if noisy and q < length:
                    seen[row, q, k] = own == other if k < length else other < own
                else:
                    seen[row, q, k] = other <= own and not (noisy and k < length)
    return seen


@settings(max_examples=60)
@given(batch=rows(), block_size=st.integers(1, 11), window=st.sampled_from([None, 1, 3]))
def test_rows_are_seen_as_defined(batch: list[Row], block_size: int, window: int | None) -> None:
    positions, exists, _ = tensors(batch)
    seen = block_causal_visibility(positions, exists, block_size)
    assert torch.equal(is_visible(seen, seen, window), in_words(batch, block_size, window, noisy=False))
    assert (seen.order[~exists] == NOT_IN_STREAM).all() and (seen.group == -1).all()


@settings(max_examples=60)
@given(batch=rows(), block_size=st.integers(1, 11), window=st.sampled_from([None, 1, 3]))
def test_noisy_and_clean_copies_are_seen_as_defined(batch: list[Row], block_size: int, window: int | None) -> None:
    positions, exists, _ = tensors(batch)
    seen = noisy_and_clean_visibility(positions, exists, block_size)
    assert torch.equal(is_visible(seen, seen, window), in_words(batch, block_size, window, noisy=True))


@pytest.mark.parametrize("block_size", [1, 4, 7])
def test_positions_need_not_begin_at_zero_or_stand_in_order(block_size: int) -> None:
    """A row that goes on in the middle of a text, and permuted columns, keep the blocks of their positions."""
    positions = torch.tensor([[6, 7, 8, 9, 10, 11], [3, 0, 1, 5, 4, 2]])
    exists = torch.ones_like(positions, dtype=torch.bool)
    seen = block_causal_visibility(positions[:1], exists[:1], block_size)
    permuted = block_causal_visibility(positions[1:], exists[1:], block_size)
    block = positions // block_size
    expected = block[:, None] <= block[:, :, None]
    assert torch.equal(is_visible(seen, seen)[0], expected[0])
    # The token at position 0 is the second column: what stands before it there is another document.
    assert torch.equal(is_visible(permuted, permuted)[0, 1:, 1:], expected[1, 1:, 1:])


@given(batch=rows(), block_size=st.integers(1, 12))
@settings(max_examples=40)
def test_rows_of_one_document_need_no_sorting(batch: list[Row], block_size: int) -> None:
    positions, exists, _ = tensors([(left, [sum(lengths)], right) for left, lengths, right in batch])
    general = block_causal_visibility(positions, exists, block_size)
    canvas = canvas_block_visibility(positions, exists, block_size)
    seen, expected = is_visible(canvas, canvas), is_visible(general, general)
    assert torch.equal(seen[exists], expected[exists])
