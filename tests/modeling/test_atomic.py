"""Files and folders are whole or not there, whoever else writes and whenever a writer is killed."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hf_latent.modeling.atomic import Scratch, alone_in, put_in_place, remove_leftovers, replacing, write_atomically

WRITER = """
import os, signal, sys, time
from pathlib import Path
from hf_latent.modeling import atomic
path, how = Path(sys.argv[1]), sys.argv[2]
scratch = atomic.Scratch(path)
new = scratch.folder / path.name
new.mkdir()
(new / "weights").write_text("half")
if how == "between":  # the old folder is out of the way, the new one not there yet
    path.rename(scratch.folder / f"{path.name}{atomic.RETIRED}")
if how != "wait":
    os.kill(os.getpid(), signal.SIGKILL)
print("writing", flush=True)
time.sleep(60)
"""


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def run_writer(path: Path, how: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", WRITER, str(path), how], stdout=subprocess.PIPE, text=True)


def run_together(calls: list) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_two_writers_of_one_file_neither_fail_nor_tear_it(tmp_path: Path) -> None:
    """With one name for the file beside, each renames the other's half-written file, or finds none to rename."""
    path = tmp_path / "results.json"
    write_atomically(path, "{}")
    errors: list[Exception] = []

    def write(number: int) -> None:
        for _ in range(30):
            try:
                write_atomically(path, json.dumps({"number": number, "text": "x" * 20_000}))
            except OSError as error:
                errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        json.loads(path.read_text())
    assert errors == []
    assert hidden(tmp_path) == []


def test_two_writers_of_one_folder_neither_fail_nor_lose_it(tmp_path: Path) -> None:
    """A folder takes two renames: between those of one writer, those of another find it gone, or in the way."""
    path = tmp_path / "bundle"
    errors: list[Exception] = []

    def write(number: int) -> None:
        for _ in range(40):
            try:
                with replacing(path) as beside:
                    beside.mkdir()
                    for name in ("config", "weights"):
                        (beside / name).write_text(str(number))
            except OSError as error:
                errors.append(error)

    run_together([lambda number=number: write(number) for number in range(3)])
    assert errors == []
    assert (path / "config").read_text() == (path / "weights").read_text()
    assert os.listdir(tmp_path) == ["bundle"]


def test_who_waits_for_the_killed_waits_no_longer_than_they_live(tmp_path: Path) -> None:
    program = (
        "import sys, time\nfrom hf_latent.modeling.atomic import alone_in\n"
        "with alone_in(sys.argv[1]):\n    print('in', flush=True)\n    time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "in\n"
    entered = threading.Event()

    def enter() -> None:
        with alone_in(tmp_path):
            entered.set()

    waiting = threading.Thread(target=enter)
    waiting.start()
    assert not entered.wait(0.3)
    holder.kill()
    holder.wait()
    waiting.join(30)
    assert entered.is_set()
    assert os.listdir(tmp_path) == []


def test_a_failed_write_leaves_the_previous_version_and_nothing_beside(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.json", tmp_path / "b"
    write_atomically(file, "old")
    folder.mkdir()
    (folder / "weights").write_text("old")
    for path in (file, folder):
        with pytest.raises(ZeroDivisionError), replacing(path) as beside:
            beside.write_text("new")
            1 / 0  # noqa: B018
    assert file.read_text() == "old"
    assert (folder / "weights").read_text() == "old"
    assert hidden(tmp_path) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for name in ("old", "new"):
        with replacing(folder) as beside:
            beside.mkdir()
            (beside / name).write_text(name)
    assert [path.name for path in folder.iterdir()] == ["new"]
    assert hidden(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no locks that end with their process")
def test_leftovers_of_the_killed_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    path = tmp_path / "model"
    run_writer(path, "at once").wait()
    left = hidden(tmp_path)
    assert len(left) == 1
    living = run_writer(path, "wait")
    try:
        assert living.stdout is not None
        assert living.stdout.readline() == "writing\n"
        assert len(hidden(tmp_path)) == 1, "the second writer has removed what the first left"
        with replacing(path) as beside:
            beside.mkdir()
        (of_the_living,) = hidden(tmp_path)
        assert (tmp_path / of_the_living / "model" / "weights").read_text() == "half"
    finally:
        os.kill(living.pid, signal.SIGKILL)
        living.wait()
    remove_leftovers(path)
    assert hidden(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="no locks that end with their process")
def test_a_folder_that_was_on_its_way_out_comes_back(tmp_path: Path) -> None:
    """Two renames are not one: whoever is killed between them must not lose results that lay beside the weights."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "results.json").write_text("{}")
    run_writer(path, "between").wait()
    assert not path.exists()
    remove_leftovers(path)
    assert (path / "results.json").read_text() == "{}"
    assert hidden(tmp_path) == []


def test_an_interruption_between_the_renames_puts_the_old_folder_back(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()
    with Scratch(path) as folder, pytest.raises(FileNotFoundError):
        put_in_place(folder / "model", path)  # which nobody has written
    with Scratch(path) as folder:
        path.rename(folder / "model.old")
    assert path.is_dir()


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    """What `tempfile` makes is readable by its owner only, and would stay so."""
    write_atomically(tmp_path / "a.json", "{}")
    (tmp_path / "plain").write_text("")
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "plain").stat().st_mode
