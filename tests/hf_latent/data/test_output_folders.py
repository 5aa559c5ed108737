"""Who may write into a folder."""

import os
import signal
import subprocess
import sys

import pytest

from hf_latent.data import output_folders
from hf_latent.data.output_folders import RUN_LOCK, check_output_folder, only_run_in
from hf_latent.hub.safety.training_files import is_training_file

HOLDER = """
import runpy, sys, time
with runpy.run_path(sys.argv[2])["only_run_in"](sys.argv[1]):  # the file alone: the package would load torch
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_one_or_can_be_made(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "taken" / "results.json").mkdir(parents=True)
    check_output_folder(tmp_path / "a" / "b", "--output")
    check_output_folder(tmp_path / "taken", "--output", folders=["results.json", "records"])
    for path in ("file", "file/below", "file/far/below"):
        with pytest.raises(ValueError, match=r"`--output` must be a folder, .*file is a file"):
            check_output_folder(tmp_path / path, "--output")
    with pytest.raises(ValueError, match=r"`--output` must have no folder where the file results\.json goes"):
        check_output_folder(tmp_path / "taken", "--output", files=["results.json"])
    with pytest.raises(ValueError, match="`--output` must have no file where the folder file goes"):
        check_output_folder(tmp_path, "--output", folders=["file"])


def test_a_second_run_is_refused_by_the_number_of_the_first_until_that_is_dead(tmp_path):
    """Killed, a process leaves its file and no lock."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path), output_folders.__file__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout.readline() == "held\n"
            refused = pytest.raises(ValueError, match=rf"`output_dir` .*another run, process {holder.pid},")
            with refused, only_run_in(tmp_path):
                pytest.fail("two runs in one folder")
        finally:
            os.kill(holder.pid, signal.SIGKILL)
    assert (tmp_path / RUN_LOCK).is_file() and is_training_file(RUN_LOCK)
    with only_run_in(tmp_path):
        assert (tmp_path / RUN_LOCK).read_text() == f"{os.getpid()}\n"
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_refused_leaves_no_folder_and_one_that_writes_keeps_it(tmp_path):
    with pytest.raises(KeyError), only_run_in(tmp_path / "new"):
        raise KeyError
    assert not (tmp_path / "new").exists()
    with only_run_in(tmp_path / "new"):
        (tmp_path / "new" / "run.json").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.json"]
