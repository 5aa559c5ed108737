"""JSON files beside a checkpoint or a run: absent is empty, damaged is named."""

from pathlib import Path

import pytest

from hf_latent.app.shelf import about_checkpoint, own_decoding
from hf_latent.cli.commands.eval import read_task_description
from hf_latent.data.json_files import read_json_object
from hf_latent.evaluation.reports.report import read_entries
from hf_latent.hub.cards.results import read_evaluations

DAMAGED = {"cut short": b'{"a": 1', "empty": b"", "no text": b"\xff\xfe\x00"}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_named(tmp_path: Path, case: str) -> None:
    """JSON's own message says line 1 column 1 of nobody knows what."""
    for name in ("task.json", "generation_config.json", "results.json"):
        (tmp_path / name).write_bytes(DAMAGED[case])
    for read, name in (
        (lambda: read_json_object(tmp_path / "task.json"), "task.json"),
        (lambda: read_task_description(str(tmp_path)), "task.json"),
        (lambda: about_checkpoint(str(tmp_path)), "task.json"),
        (lambda: own_decoding(str(tmp_path)), "generation_config.json"),
        (lambda: read_entries(tmp_path / "results.json"), "results.json"),
        (lambda: read_evaluations(tmp_path), "generation_config.json"),
    ):
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            read()


def test_an_absent_file_is_empty_and_another_object_is_refused(tmp_path: Path) -> None:
    assert read_json_object(tmp_path / "task.json") == read_task_description(str(tmp_path)) == {}
    assert read_entries(tmp_path / "results.json") == []
    (tmp_path / "task.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"task.json must hold a JSON object, got list"):
        read_task_description(str(tmp_path))
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"results.json holds no list of `results`"):
        read_entries(tmp_path / "results.json")
