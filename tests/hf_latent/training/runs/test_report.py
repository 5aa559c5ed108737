"""Files that an interruption cannot spoil, and a curve of whatever was logged."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from hf_latent.training.runs.report import describe_environment, plot_training_curve, write_json, write_log, write_text


def test_an_interrupted_write_leaves_the_previous_file(tmp_path: Path, monkeypatch: Any) -> None:
    write_text(tmp_path / "a.txt", "first")

    def fail(*args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "second")
    assert (tmp_path / "a.txt").read_text() == "first"


def test_json_and_log_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"path": Path("x"), "n": 1})
    assert json.loads((tmp_path / "new" / "a.json").read_text()) == {"path": "x", "n": 1}
    write_log(tmp_path, [{"step": 1, "loss": 0.5}, {"step": 2}])
    lines = (tmp_path / "training_log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "loss": 0.5}, {"step": 2}]


@pytest.mark.parametrize(
    "history",
    [
        [],
        [{"step": 1, "nll": 2.0}, {"step": 2, "nll": 1.0}],
        [{"step": 1, "nll": 2.0}, {"step": 1, "eval_nll": 2.5}, {"step": 1, "eval_accuracy": 0.5}],
    ],
)
def test_the_curve_draws_what_was_logged(tmp_path: Path, history: list[dict[str, Any]]) -> None:
    plot_training_curve(history, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_the_environment_names_versions_and_hardware() -> None:
    found = describe_environment()
    assert found["packages"]["transformers"].startswith("5.")
    assert found["device"]
    assert found["commit"] is None or len(found["commit"]) == 40
