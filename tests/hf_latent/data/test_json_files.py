"""JSON files beside a checkpoint or a run: absent is empty, damaged is named."""

from pathlib import Path

import pytest

from hf_latent.app.loaded_checkpoints import about_checkpoint, own_decoding
from hf_latent.checkpoints.adapters import base_of
from hf_latent.cli.commands.eval import read_task_description
from hf_latent.data.json_files import read_json_object
from hf_latent.evaluation.reports.report import read_entries
from hf_latent.hub.cards.results import keep_run_files, read_evaluations
from hf_latent.hub.safety.contents import check_complete
from hf_latent.hub.transfer.preparation import set_base_model

DAMAGED = {"cut short": b'{"a": 1', "empty": b"", "no text": b"\xff\xfe\x00"}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_named(tmp_path: Path, case: str) -> None:
    """JSON's own message says line 1 column 1 of nobody knows what."""
    names = ("task.json", "generation_config.json", "results.json", "run.json", "config.json", "adapter_config.json")
    for name in (*names, "adapter/adapter_config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(DAMAGED[case])
    files = {name: tmp_path / name for name in (*names, "adapter_model.safetensors")}
    for read, name in (
        (lambda: read_json_object(tmp_path / "task.json"), "task.json"),
        (lambda: read_task_description(str(tmp_path)), "task.json"),
        (lambda: about_checkpoint(str(tmp_path)), "task.json"),
        (lambda: own_decoding(str(tmp_path)), "generation_config.json"),
        (lambda: read_entries(tmp_path / "results.json"), "results.json"),
        (lambda: read_evaluations(tmp_path), "adapter_config.json"),
        (lambda: check_complete("model", tmp_path, files, verify=False), "config.json"),
        (lambda: check_complete("adapter", tmp_path, files, verify=False), "adapter_config.json"),
        (lambda: keep_run_files(tmp_path, tmp_path / "bundle"), "run.json"),
        (lambda: set_base_model(tmp_path, "user/base"), "adapter_config.json"),
        (lambda: base_of(str(tmp_path / "adapter")), "adapter_config.json"),
    ):
        with pytest.raises(ValueError, match=f"{name} is damaged"):
            read()


def test_line_and_column_are_said_and_a_byte_order_mark_is_none_of_it(tmp_path: Path) -> None:
    (tmp_path / "task.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json_object(tmp_path / "task.json") == {"a": 1}
    (tmp_path / "task.json").write_text('{"a": 1,\n oops}')
    with pytest.raises(ValueError, match=r"task\.json is damaged: it is no JSON \(task\.json, line 2, column 2: "):
        read_json_object(tmp_path / "task.json")


def test_an_absent_file_is_empty_and_another_object_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")  # what makes it the folder of a checkpoint
    assert read_json_object(tmp_path / "task.json") == read_task_description(str(tmp_path)) == {}
    assert read_entries(tmp_path / "results.json") == []
    (tmp_path / "task.json").write_text("[1]")
    with pytest.raises(ValueError, match=r"task.json must hold a JSON object, got list"):
        read_task_description(str(tmp_path))
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(ValueError, match=r"results.json holds no list of `results`"):
        read_entries(tmp_path / "results.json")
