"""Who sees whom in semi-causal attention: the tensors against the definition in words, one pair at a time."""

from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from hf_latent.generation.model_calls.semi_causal_masks import (
    NOT_IN_STREAM,
    SemiCausalMasks,
    Visibility,
    canvas_visibility,
    is_visible,
    stream_order,
)


class Row(NamedTuple):
    """Columns of a canvas: kind, number (place of a token in time, or group of a query) and position of each."""

    kinds: list[str]
    numbers: list[int]
    positions: list[int]


def visible_until(row: Row, i: int, j: int, window: int | None) -> bool:
    """The definition (arXiv 2602.03769), as one would say it."""
    if i == j:
        return True
    if window is not None and abs(row.positions[i] - row.positions[j]) >= window:
        return False
    if row.kinds[i] == "token":  # equal times: by column
        return row.kinds[j] == "token" and (row.numbers[j], j) < (row.numbers[i], i)
    if row.kinds[i] == "query":
        return row.kinds[j] == "token" or (row.kinds[j] == "query" and row.numbers[i] == row.numbers[j])
    return False


@st.composite
def canvases(draw: st.DrawFn) -> list[Row]:
    length = draw(st.integers(1, 9))

    def row() -> Row:
        kinds = draw(st.lists(st.sampled_from(["token", "query", "padding"]), min_size=length, max_size=length))
        numbers = draw(st.lists(st.integers(0, 3), min_size=length, max_size=length))
        positions = draw(st.lists(st.integers(0, 12), min_size=length, max_size=length))
        return Row(kinds, numbers, positions)

    return [row() for _ in range(draw(st.integers(1, 3)))]


def as_visibility(rows: list[Row]) -> Visibility:
    clean = torch.tensor([[kind == "token" for kind in row.kinds] for row in rows])
    queried = torch.tensor([[kind == "query" for kind in row.kinds] for row in rows])
    numbers = torch.tensor([row.numbers for row in rows])
    positions = torch.tensor([row.positions for row in rows])
    return canvas_visibility(clean, queried, stream_order(clean, numbers), numbers, positions)


def expected(rows: list[Row], window: int | None) -> torch.Tensor:
    columns = range(len(rows[0].kinds))
    return torch.tensor([[[visible_until(row, i, j, window) for j in columns] for i in columns] for row in rows])


def with_itself(seen: torch.Tensor) -> torch.Tensor:
    return seen | torch.eye(seen.shape[-1], dtype=torch.bool)


@settings(max_examples=40)
@given(rows=canvases(), window=st.sampled_from([None, 1, 2, 5]))
def test_a_canvas_is_seen_as_defined(rows: list[Row], window: int | None) -> None:
    seen = as_visibility(rows)
    assert torch.equal(with_itself(is_visible(seen, seen, window)), expected(rows, window))


@settings(max_examples=40)
@given(rows=canvases(), data=st.data())
def test_some_columns_see_what_they_see_among_all(rows: list[Row], data: st.DataObject) -> None:
    """A cached forward reads a few columns, in any order, against the keys of all."""
    seen = as_visibility(rows)
    length = len(rows[0].kinds)
    columns = torch.tensor(
        [data.draw(st.lists(st.integers(0, length - 1), min_size=2, max_size=2), "columns") for _ in rows]
    )
    at = torch.arange(len(rows))[:, None], columns
    assert torch.equal(is_visible(seen.select(at), seen), is_visible(seen, seen)[at])


@settings(max_examples=40)
@given(rows=canvases())
def test_tokens_see_one_more_of_another_at_every_place(rows: list[Row]) -> None:
    """The clean stream is one chain: whoever is n-th sees n tokens, itself among them."""
    seen = as_visibility(rows)
    counts = is_visible(seen, seen).sum(-1)
    for row, order, count in zip(rows, seen.order, counts, strict=True):
        index_in_window = [int(place) for place, kind in zip(order, row.kinds, strict=True) if kind == "token"]
        assert sorted(index_in_window) == list(range(len(index_in_window)))
        for place, number, kind in zip(order.tolist(), count.tolist(), row.kinds, strict=True):
            if kind == "token":
                assert number == place + 1
            else:
                assert place == NOT_IN_STREAM
            if kind == "padding":
                assert number == 0


@pytest.mark.parametrize(
    "numbers", [torch.tensor([[torch.inf, 0.5, -torch.inf]]), torch.tensor([[2**63 - 1, 5, -(2**63)]])]
)
def test_the_largest_number_is_still_before_what_is_not_revealed(numbers: torch.Tensor) -> None:
    """Written as "replace the others by the largest number and sort", a token with that number fell out of sight."""
    assert stream_order(torch.tensor([[True, False, True]]), numbers).tolist() == [[1, NOT_IN_STREAM, 0]]


def test_joined_positions_stand_behind() -> None:
    seen = as_visibility([Row(["token", "query"], [0, 0], [4, 5])])
    joined = seen.join(seen)
    assert joined.order.tolist() == [[0, NOT_IN_STREAM, 0, NOT_IN_STREAM]] and joined.position.tolist() == [
        [4, 5, 4, 5]
    ]


# In the form that attention takes


def config(family: str = "llama", attention: str = "sdpa", **fields: Any) -> Any:
    made = CONFIG_MAPPING[family](hidden_size=32, num_hidden_layers=2, num_attention_heads=4, **fields)
    made._attn_implementation = attention
    return made


ROWS = [
    Row(["padding", "token", "token", "query", "query", "token"], [0, 1, 0, 0, 1, 2], [0, 0, 1, 2, 3, 4]),
    Row(["token", "query", "query", "query", "padding", "padding"], [0, 2, 2, 0, 0, 0], [0, 1, 2, 3, 0, 0]),
]
COLUMNS = torch.arange(6)[None]


def test_each_attention_gets_its_kind_of_mask() -> None:
    """Added to the scores, a bool mask hides nothing; nobody would notice."""
    seen = as_visibility(ROWS)
    by_hand = expected(ROWS, None)[:, None]
    assert torch.equal(SemiCausalMasks(config())(seen, seen, COLUMNS, torch.float32), by_hand)
    for dtype in (torch.float32, torch.bfloat16):
        mask = SemiCausalMasks(config(attention="eager"))(seen, seen, COLUMNS, dtype)
        assert mask.dtype == dtype and torch.equal(mask == 0, by_hand)
        assert (mask[~by_hand] == torch.finfo(dtype).min).all() and mask.isfinite().all()


@pytest.mark.parametrize(
    ("family", "fields", "windows"),
    [
        ("mistral", {"sliding_window": 2}, 2),
        ("mistral", {"sliding_window": None}, None),
        ("qwen2", {"use_sliding_window": False, "sliding_window": 2}, None),
        (
            "qwen2",
            {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 1},
            {"sliding_attention": 2, "full_attention": None},
        ),
        (
            "gemma3_text",
            {"sliding_window": 2, "layer_types": ["sliding_attention"] * 2},
            {"sliding_attention": 2, "full_attention": None},
        ),
        ("gemma3_text", {"sliding_window": 2, "layer_types": ["full_attention"] * 2}, None),
    ],
)
def test_layers_with_a_window_see_through_it(family: str, fields: dict[str, Any], windows: Any) -> None:
    """A prepared mask replaces the window of the layer: without one of its own it would see everything."""
    seen = as_visibility(ROWS)
    mask = SemiCausalMasks(config(family, **fields))(seen, seen, COLUMNS, torch.float32)
    if isinstance(windows, dict):
        assert mask.keys() == windows.keys()
        for kind, window in windows.items():
            assert torch.equal(mask[kind], expected(ROWS, window)[:, None])
    else:
        assert torch.equal(mask, expected(ROWS, windows)[:, None])


@pytest.mark.parametrize("window", [None, 2])
def test_flex_attention_is_told_the_same(window: int | None) -> None:
    """Its mask is a function of row, head, query and key; evaluated here for all of them."""
    seen = as_visibility(ROWS)
    at = torch.arange(2)[:, None], torch.tensor([[5, 3, 1], [1, 2, 3]])
    masks = SemiCausalMasks(config("mistral", "flex_attention", sliding_window=window))
    block = masks(seen.select(at), seen, at[1], torch.float32)
    found = torch.zeros(2, 3, 6, dtype=torch.bool)
    for b in range(2):
        for q in range(3):
            for k in range(6):
                found[b, q, k] = block.mask_mod(*(torch.tensor(index) for index in (b, 0, q, k)))
    assert torch.equal(found, expected(ROWS, window)[at])


def test_what_takes_no_such_mask_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`attn_implementation` must be 'sdpa', .* got 'flash_attention_2'"):
        SemiCausalMasks(config(attention="flash_attention_2"))
    mamba = CONFIG_MAPPING["mamba"](num_hidden_layers=1)
    mamba._attn_implementation = "eager"
    with pytest.raises(ValueError, match=r"attention layers only: .* got \['linear_attention'\]"):
        SemiCausalMasks(mamba)
