"""The results file only grows, and the report says what is in it."""

import json
import threading

import pytest

from hf_latent.evaluation.reports.report import (
    describe_settings,
    put_entry,
    read_entries,
    results_of,
    table,
    write_report,
)

TASK = {"task": "sudoku-4x4", "num_examples": 4}
DECODER = TASK | {"measure": "exact_match", "metric": "accuracy", "value": 0.75, "accuracy": 0.75, "num_correct": 3}
DECODER |= {"settings": {"decoding": "med", "entropy_threshold": 0.1, "seed": 0}, "standard_error": 0.2165}
DECODER |= {"forwards_per_example": 2.5, "tokens_per_forward": 8.0, "seconds": 2.0}
DECODER |= {"run": "aaaa", "source": {"task_seed": 1}, "command": "hf-latent eval x"}
BOUND = TASK | {"measure": "likelihood", "metric": "nats_per_token", "value": 0.01234, "standard_error": None}
BOUND |= {"settings": {"estimator": "masked_count", "num_samples": 8, "seed": 0}, "seconds": 1.0}
BOUND |= {"run": "bbbb", "source": {}, "command": "hf-latent eval y"}


def test_an_entry_replaces_its_own_and_keeps_all_others(tmp_path):
    path = tmp_path / "out" / "results.json"
    put_entry(path, DECODER)
    put_entry(path, BOUND)
    put_entry(path, DECODER | {"num_examples": 8})
    put_entry(path, DECODER | {"command": "again"})
    entries = read_entries(path)
    assert [(e["run"], e["num_examples"]) for e in entries] == [("aaaa", 4), ("bbbb", 4), ("aaaa", 8)]
    assert entries[0]["command"] == "again"


def test_two_evaluations_into_one_folder_lose_nothing_of_each_other(tmp_path):
    """Read, changed and written by both at once, the file keeps the entries of one of them."""
    path = tmp_path / "results.json"

    def put(number):
        for run in range(25):
            put_entry(path, DECODER | {"run": f"{number}-{run}"})

    threads = [threading.Thread(target=put, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {e["run"] for e in read_entries(path)} == {f"{number}-{run}" for number in range(2) for run in range(25)}


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    put_entry(path, DECODER)
    monkeypatch.setattr("os.replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        put_entry(path, BOUND)
    assert [e["run"] for e in json.loads(path.read_text())["results"]] == ["aaaa"]


def test_the_table_has_every_number():
    lines = table([DECODER, BOUND]).splitlines()
    decoder = "med, entropy_threshold=0.1"
    assert lines[2] == f"| sudoku-4x4 | exact_match | {decoder} | accuracy | 75.0 ± 21.6 % | 4 | 2.50 | 8.00 | 0.500 |"
    assert lines[3] == (
        "| sudoku-4x4 | likelihood | masked_count, num_samples=8 | nats_per_token | 0.0123 | 4 |  |  | 0.250 |"
    )


def test_settings_of_a_chain_do_not_name_draws():
    assert describe_settings({"estimator": "chain", "num_samples": 32, "seed": 1}) == "chain"


def test_a_report_is_a_table_with_commands_and_plots_where_decoders_are_compared(tmp_path):
    other = DECODER | {"settings": {"decoding": "entropy", "seed": 0}, "run": "cccc", "forwards_per_example": 20.0}
    assert [path.name for path in write_report(tmp_path, [DECODER, BOUND])] == ["results.md"]
    names = [path.name for path in write_report(tmp_path, [DECODER, BOUND, other])]
    assert names == [
        "results.md",
        "sudoku-4x4_accuracy_over_forwards.png",
        "sudoku-4x4_accuracy_over_seconds.png",
    ]
    assert all((tmp_path / name).stat().st_size > 500 for name in names)
    text = (tmp_path / "results.md").read_text()
    assert "    hf-latent eval x\n    hf-latent eval y\n" in text
    assert [r.forwards_per_example for r in results_of([DECODER, BOUND, other], "sudoku-4x4")] == [2.5, 20.0]
