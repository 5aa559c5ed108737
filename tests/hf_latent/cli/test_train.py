"""`hf-latent train` and who else writes where it does."""

import os

import pytest

from hf_latent import cli
from hf_latent.data.output_folders import only_run_in


def test_a_second_training_in_a_folder_is_refused_before_anything_is_read(tmp_path, capsys):
    """Two would write each other's checkpoints, log and results."""
    folder = tmp_path / "run"
    with only_run_in(folder), pytest.raises(SystemExit) as stop:
        cli.main(["train", "--task", "sudoku", "--model-config", "{}", "--use-cpu", "--output-dir", str(folder)])
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert stop.value.code == 2
    assert f"`output_dir` ({folder}) is written by another run, process {os.getpid()}," in line
