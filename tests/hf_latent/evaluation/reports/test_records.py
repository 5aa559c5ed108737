"""Records survive whatever interrupts them."""

import pytest

from hf_latent.evaluation.reports.records import RecordStore, digest


def test_every_process_reads_what_all_have_written(tmp_path):
    first, second = RecordStore(tmp_path, 0), RecordStore(tmp_path, 1)
    first.append([{"key": "a", "x": 1}])
    second.append([{"key": "b", "x": 2}, {"key": "c", "x": None}])
    first.append([{"key": "d", "x": 4}])
    assert first.read() == second.read()
    assert {key: record["x"] for key, record in first.read().items()} == {"a": 1, "b": 2, "c": None, "d": 4}


def test_any_cut_loses_the_line_it_hits_and_no_other(tmp_path):
    """At every byte: `{"x": 12}` cut to `{"x": 1` must not come back, nor glue itself to the next line."""
    store = RecordStore(tmp_path / "whole")
    store.append([{"key": "a", "x": 12}, {"key": "b", "x": 345}])
    whole = store.path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        damaged = RecordStore(tmp_path / f"cut{cut}")
        damaged.folder.mkdir()
        damaged.path.write_bytes(whole[:cut])
        kept = ["a"] * (cut >= first) + ["b"] * (cut == len(whole))
        assert list(damaged.read()) == kept
        damaged.append([{"key": "c", "x": 6}])
        assert list(damaged.read()) == [*kept, "c"]


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match=r"nan|JSON"):
        RecordStore(tmp_path).append([{"key": "a", "x": float("nan")}])
    assert RecordStore(tmp_path).read() == {}


def test_a_digest_is_of_the_value_alone():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 1.5})
    assert len(digest("ü\ud800")) == 16
