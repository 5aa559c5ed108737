"""The canvas by hand, and that padding on either side changes nothing of it."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_latent.generation.state.canvas import append_masks, build_canvas

PAD, MASK = 8, 9


def test_masks_stand_right_behind_the_tokens_of_every_row() -> None:
    """Appending columns would leave a right-padded row with padding between its prompt and its answer."""
    ids = torch.tensor([[1, 2, 3], [0, 4, 5], [6, 7, 0]])
    valid = torch.tensor([[True, True, True], [False, True, True], [True, True, False]])
    ids, valid, masked = append_masks(ids, valid, 2, MASK, PAD)
    assert ids.tolist() == [[1, 2, 3, MASK, MASK], [PAD, 4, 5, MASK, MASK], [6, 7, MASK, MASK, PAD]]
    assert valid.tolist() == [[True] * 5, [False] + [True] * 4, [True] * 4 + [False]]
    assert masked.tolist() == (ids == MASK).tolist()


def canvas_of(rows: list[list[int]], block_length: int | None, side: str, extra: int = 0):
    width = max(map(len, rows)) + extra
    padding = [[PAD] * (width - len(row)) for row in rows]
    ids = torch.tensor([p + r if side == "left" else r + p for r, p in zip(rows, padding, strict=True)])
    valid = torch.tensor(
        [
            [False] * len(p) + [True] * len(r) if side == "left" else [True] * len(r) + [False] * len(p)
            for r, p in zip(rows, padding, strict=True)
        ]
    )
    return build_canvas(ids, valid, (ids == MASK) & valid, torch.arange(len(rows)), block_length)


def test_blocks_are_counted_from_the_first_mask() -> None:
    row = [1, 2, MASK, MASK, MASK, MASK, MASK]
    canvas = canvas_of([row], 2, "left")
    assert canvas.block_index.tolist() == [[-1, -1, 0, 0, 1, 1, 2]]
    assert canvas.num_blocks.tolist() == [3]


def test_aligned_blocks_are_counted_from_the_first_token() -> None:
    """Of a prompt that ends in mid-block and of one that is padded; the answer is a block of its own."""
    ids = torch.tensor([[1, 2, 3, MASK, MASK, MASK, MASK, MASK], [PAD, PAD, 1, MASK, MASK, MASK, MASK, MASK]])
    answer = torch.zeros_like(ids).bool()
    answer[0, 6:] = True
    canvas = build_canvas(ids, ids != PAD, ids == MASK, torch.arange(2), 2, answer, aligned=True)
    assert canvas.block_index.tolist() == [[-1, -1, -1, 0, 1, 1, 2, 2], [-1, -1, -1, 0, 1, 1, 2, 2]]
    assert canvas.num_blocks.tolist() == [3, 3]


def test_blocks_without_masks_do_not_count() -> None:
    """They would take their share of the steps and do nothing with it."""
    row = [MASK, 1, 1, 1, 1, 1, MASK, MASK, 1]
    canvas = canvas_of([row, [1] * 9], 2, "left")
    assert canvas.block_index.tolist() == [[0, -1, -1, -1, -1, -1, 1, 1, -1], [-1] * 9]
    assert canvas.num_blocks.tolist() == [2, 0]


def test_without_a_block_length_there_is_one_block() -> None:
    canvas = canvas_of([[MASK, 1, 1, MASK], [1, 1, MASK, 1]], None, "left")
    assert canvas.num_blocks.tolist() == [1, 1]
    assert canvas.block_index.amax() == 0


rows = st.lists(st.lists(st.sampled_from([1, 2, MASK]), min_size=1, max_size=9), min_size=1, max_size=4)


@given(rows=rows, block_length=st.none() | st.integers(1, 6), extra=st.integers(0, 3))
@settings(max_examples=80)
def test_padding_changes_nothing_of_a_row(rows: list[list[int]], block_length: int | None, extra: int) -> None:
    canvases = {side: canvas_of(rows, block_length, side, extra) for side in ("left", "right")}
    for i, row in enumerate(rows):
        alone = canvas_of([row], block_length, "left")
        for canvas in canvases.values():
            own = canvas.valid[i]
            for name in ("ids", "masked", "writable", "position_ids", "block_index"):
                assert getattr(canvas, name)[i, own].tolist() == getattr(alone, name)[0].tolist(), name
            assert canvas.num_blocks[i] == alone.num_blocks[0]
            assert not canvas.masked[i, ~own].any()
            assert (canvas.block_index[i, ~own] == -1).all()
    assert alone.position_ids.tolist() == [list(range(len(rows[-1])))]
    assert alone.padded is False


def test_selecting_rows_copies_them() -> None:
    canvas = canvas_of([[1, MASK], [2, MASK], [MASK, 3]], None, "left")
    picked = canvas.select(torch.tensor([2, 0]))
    picked.ids.fill_(5)
    assert canvas.ids.tolist() == [[1, MASK], [2, MASK], [MASK, 3]]
    assert picked.row.tolist() == [2, 0]
    assert picked.masked.tolist() == [[True, False], [False, True]]
