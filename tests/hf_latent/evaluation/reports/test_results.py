"""Results on disk: written as they come, never measured twice, measured anew under another header."""

import json
import math
from pathlib import Path

import pytest

from hf_latent.evaluation import DecodingResult, describe, measure_all

GRID = [{"decoding": "entropy"}, {"decoding": "med", "entropy_threshold": 0.1}, {"decoding": "med", "block_length": 4}]


def result_of(settings: dict) -> DecodingResult:
    return DecodingResult(settings, 3, 4, 5.5, 2.0, 0.25, (True, True, True, False), 0.5, float("nan"), 0.25, 0.1)


def test_an_interrupted_comparison_goes_on_where_it_was(tmp_path: Path) -> None:
    path, header, calls = tmp_path / "folder" / "results.json", {"command": "x", "seed": 1}, []

    def measure(settings: dict) -> DecodingResult:
        calls.append(settings)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return result_of(settings)

    with pytest.raises(KeyboardInterrupt):
        measure_all(GRID, measure, path, header, say=lambda line: None)
    assert [r["settings"] for r in json.loads(path.read_text())["results"]] == GRID[:2]
    lines: list[str] = []
    results = measure_all(GRID, measure, path, header, say=lines.append)
    assert calls == [*GRID, GRID[2]]
    assert [result.settings for result in results] == GRID
    assert math.isnan(results[0].leftmost_distance) and results[0].exit_share == 0.25
    assert results[0].accuracy == 0.75 and results[0].correct == ()
    assert "med, entropy_threshold=0.1" in lines[1] and "0.7500" in lines[1]
    measure_all(GRID, measure, path, header | {"seed": 2}, say=lambda line: None)
    assert len(calls) == 7, "another header: nothing is taken over"


def test_parts_that_were_measured_elsewhere_are_put_together(tmp_path: Path) -> None:
    header, quiet = {"command": "x"}, lambda line: None
    for i in range(2):
        measure_all(GRID[i::2], result_of, tmp_path / f"part_{i}.json", header, say=quiet)
    parts = [tmp_path / "part_0.json", tmp_path / "part_1.json"]
    results = measure_all(GRID, pytest.fail, tmp_path / "all.json", header, say=quiet, known=parts)
    assert [result.settings for result in results] == GRID
    assert [r["settings"] for r in json.loads((tmp_path / "all.json").read_text())["results"]] == GRID


def test_the_file_is_json_that_everyone_reads(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    measure_all(GRID[:1], result_of, path, {"command": "x"}, say=lambda line: None)
    text = path.read_text()
    assert "NaN" not in text
    report = json.loads(text)
    assert report["command"] == "x" and {"hf_latent", "torch", "transformers"} <= report.keys()
    assert report["results"][0]["leftmost_distance"] is None
    assert "correct" not in report["results"][0]


def test_settings_are_described_without_what_changes_nothing() -> None:
    assert describe({"decoding": "med", "entropy_threshold": 0.1, "seed": 0}) == "med, entropy_threshold=0.1"


def test_results_of_other_weights_are_never_mixed(tmp_path: Path) -> None:
    """The same command after another training in the same folder: paths are equal, weights are not."""
    path, header, quiet = tmp_path / "results.json", {"command": "x"}, lambda line: None
    facts = {"weights": "1a", "config": {"hidden_size": 8, "rope": None}, "versions": {"torch": "2"}}
    measure_all(GRID[:1], result_of, path, header, say=quiet, identity=facts)
    results = measure_all(GRID[:2], result_of, path, header, say=quiet, identity=facts)
    assert len(results) == 2
    before = path.read_text()
    for change, named in (({"weights": "2b"}, "weights"), ({"config": {"hidden_size": 16}}, "config")):
        with pytest.raises(ValueError, match=f"results.json was begun with another checkpoint.*Changed: {named} "):
            measure_all(GRID, pytest.fail, path, header, say=quiet, identity=facts | change)
        with pytest.raises(ValueError, match=f"Changed: {named} "):  # also of a part
            measure_all(
                GRID, pytest.fail, tmp_path / "all.json", header, say=quiet, known=[path], identity=facts | change
            )
    assert path.read_text() == before
    measure_all(GRID[:1], result_of, path, {"command": "y"}, say=quiet)
    with pytest.raises(ValueError, match="of a model that it does not identify"):
        measure_all(GRID, pytest.fail, path, {"command": "y"}, say=quiet, identity=facts)
