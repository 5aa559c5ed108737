"""A folder of traces survives an interruption at any point and refuses other settings."""

import json

import pytest
from datasets import load_dataset, load_from_disk

from hf_latent.data.traces.shards import TraceFolder, fingerprint


def rows_of(questions: range) -> list[dict]:
    return [{"question_id": i, "trace": f"t{i}\u2028é", "scores": [0.5, float(-i)]} for i in questions]


def test_shards_divide_the_questions(tmp_path):
    folder = TraceFolder(tmp_path / "new" / "deep", {"seed": 1}, num_questions=7, shard_size=3)
    folder.begin()
    assert [list(folder.questions_of(i)) for i in folder.missing()] == [[0, 1, 2], [3, 4, 5], [6]]


def test_what_is_written_is_not_missing_and_merges_in_order(tmp_path):
    """Shards of several processes come in any order; a line separator within a text is no end of a row."""
    folder = TraceFolder(tmp_path, {"seed": 1}, num_questions=7, shard_size=3)
    folder.begin()
    for number in (2, 0):
        folder.write(number, rows_of(folder.questions_of(number)))
    (tmp_path / "shards" / ".00001.jsonl.tmp").write_text('{"question_id"')  # an interrupted write
    again = TraceFolder(tmp_path, {"seed": 1}, num_questions=7, shard_size=3)
    again.begin()
    assert again.missing() == [1]
    with pytest.raises(ValueError, match=r"lacks 1 of 3 shards, e\.g\. 1"):
        again.merge()
    again.write(1, rows_of(again.questions_of(1)))
    assert again.merge().to_list() == rows_of(range(7))


def test_every_format_holds_the_same_rows(tmp_path):
    folder = TraceFolder(tmp_path, {}, num_questions=2, shard_size=2)
    folder.begin()
    folder.write(0, rows_of(range(2)))
    formats = ["arrow", "parquet", "jsonl"]
    for _ in range(2):  # a second export replaces the first
        arrow, parquet, lines = folder.export(folder.merge(), formats)
    assert load_from_disk(arrow).to_list() == rows_of(range(2))
    cache = str(tmp_path / "cache")
    read = load_dataset("parquet", data_files=str(parquet), split="train", cache_dir=cache)
    assert read.to_list() == rows_of(range(2))
    assert [json.loads(line) for line in lines.read_text().split("\n")[:-1]] == rows_of(range(2))
    assert not list(tmp_path.glob(".*.tmp"))


def test_other_settings_are_refused_and_named(tmp_path):
    TraceFolder(tmp_path, {"seed": 1, "template": {"a": (1, 2)}}, num_questions=7, shard_size=3).begin()
    TraceFolder(tmp_path, {"seed": 1, "template": {"a": (1, 2)}}, num_questions=7, shard_size=3).begin()
    with pytest.raises(ValueError, match=r"Changed: seed 1 -> 2. Give another folder"):
        TraceFolder(tmp_path, {"seed": 2, "template": {"a": (1, 2)}}, num_questions=7, shard_size=3).begin()
    with pytest.raises(ValueError, match="num_questions 7 -> 8"):
        TraceFolder(tmp_path, {"seed": 1, "template": {"a": (1, 2)}}, num_questions=8, shard_size=3).begin()
    (tmp_path / "shards" / "00000.jsonl").touch()
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds shards but no run\.json"):
        TraceFolder(tmp_path, {"seed": 1}, num_questions=7, shard_size=3).begin()
    with pytest.raises(ValueError, match="`shard_size` must be at least 1, got 0"):
        TraceFolder(tmp_path, {}, num_questions=7, shard_size=0)
    with pytest.raises(ValueError, match=r"`format` must be one of .*, got 'pickle'"):
        TraceFolder(tmp_path, {}, num_questions=7, shard_size=3).export(None, ["pickle"])


def test_questions_are_told_apart():
    assert fingerprint(["a"], ["b"]) == fingerprint(["a"], ["b"]) != fingerprint(["a"], ["c"])
