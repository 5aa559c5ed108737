"""`hf-latent eval` measures what it is told, once, keeps everything, and says in one line what a user did wrong."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import hf_latent.cli as cli
from hf_latent import LladaForMaskedDiffusion
from hf_latent.evaluation import metrics
from hf_latent.evaluation.reports.report import read_entries
from hf_latent.hub import bundle
from hf_latent.tasks import SudokuTask


@pytest.fixture
def checkpoint(sudoku_model, tokenizer, tmp_path) -> Path:
    folder = bundle(sudoku_model, tokenizer, tmp_path / "tiny", verify=False)
    (folder / "task.json").write_text(json.dumps({"task": "sudoku", "size": 4, "num_givens": [6, 10]}))
    return folder


@pytest.fixture
def file(tmp_path, puzzles) -> Path:
    """Puzzles as questions, answers and choices."""
    rows = [
        {"question": p["prompt"], "answer": p["completion"], "choices": [p["completion"], p["completion"][::-1]]}
        for p in puzzles
    ]
    path = tmp_path / "boards.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments: object):
    return CliRunner().invoke(cli.app, ["eval", *(str(argument) for argument in arguments)])


def without_costs(entries):
    """Entries without what differs between two runs of the same: seconds, and who ran them."""
    hidden = ("seconds", "num_processes", "command", "environment")
    return [{name: value for name, value in entry.items() if name not in hidden} for entry in entries]


def test_a_grid_is_measured_and_reported(checkpoint, tmp_path, monkeypatch):
    out = tmp_path / "out"
    arguments = ["--limit", "6", "--decoding", "med,random", "--entropy-threshold", "0.1:0.3:0.2", "--seed", "7"]
    command = ["eval", str(checkpoint), *arguments, "--output", str(out)]
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/hf-latent", *command])
    result = run(*command[1:])
    assert result.exit_code == 0, result.output
    entries = read_entries(out / "results.json")
    assert [entry["settings"] for entry in entries] == [
        {"decoding": "med", "entropy_threshold": 0.1, "seed": 7},
        {"decoding": "med", "entropy_threshold": 0.3, "seed": 7},
        {"decoding": "random", "seed": 7},
    ]
    for entry in entries:
        assert (entry["task"], entry["measure"], entry["num_examples"]) == ("sudoku-4x4", "exact_match", 6)
        assert entry["command"] == " ".join(["hf-latent", *command])
        assert entry["environment"]["packages"]["torch"] == torch.__version__
        assert entry["source"] == {"task_seed": 1234, "split": "test", "num_givens": [6, 10]}
        assert entry["standard_error"] >= 0 and entry["forwards_per_example"] > 0
    assert entries[2]["forwards_per_example"] == SudokuTask(4).completion_length
    text = (out / "results.md").read_text()
    assert text.count("| sudoku-4x4 |") == 3 and entries[0]["command"] in text
    assert {path.suffix for path in out.iterdir() if path.is_file()} == {".json", ".md", ".png"}


def test_the_same_command_measures_nothing_twice_and_others_add(checkpoint, tmp_path, monkeypatch):
    command = (checkpoint, "--limit", 4, "--decoding", "random", "--output", tmp_path / "out")
    assert run(*command).exit_code == 0
    before = read_entries(tmp_path / "out" / "results.json")
    calls = []
    generate = LladaForMaskedDiffusion.generate
    monkeypatch.setattr(
        LladaForMaskedDiffusion,
        "generate",
        lambda self, *a, **kw: calls.append(len(a[0]) if a else len(kw["input_ids"])) or generate(self, *a, **kw),
    )
    assert run(*command).exit_code == 0
    assert calls == []
    assert read_entries(tmp_path / "out" / "results.json")[0]["seconds"] == before[0]["seconds"]
    assert run(*command, "--limit", 6).exit_code == 0
    assert sum(calls) == 2
    found = read_entries(tmp_path / "out" / "results.json")
    assert [entry["num_examples"] for entry in found] == [4, 6]


@pytest.mark.parametrize("at", [0, 1, 3])
def test_interrupted_anywhere_the_same_command_goes_on(checkpoint, file, tmp_path, monkeypatch, at):
    """Behind the `at`-th batch of all; the end is that of a run that was not interrupted."""
    tasks = f"sudoku,{file}:likelihood,{file}:choice"
    command = (
        checkpoint,
        "--tasks",
        tasks,
        "--limit",
        4,
        "--batch-size",
        2,
        "--num-samples",
        2,
        "--decoding",
        "random",
        "--separator",
        "",
    )
    assert run(*command, "--output", tmp_path / "whole").exit_code == 0
    done = []

    def interrupt(original):
        def records(self, *args):
            for batch in original(self, *args):
                if len(done) == at:
                    raise KeyboardInterrupt
                done.append(len(batch))
                yield batch

        return records

    with monkeypatch.context() as patch:
        for kind in (metrics.ExactMatch, metrics.Likelihood, metrics.Choice):
            patch.setattr(kind, "records", interrupt(kind.records))
        assert run(*command, "--output", tmp_path / "pieces").exit_code != 0
    lines = [line for path in (tmp_path / "pieces").rglob("part-*.jsonl") for line in path.read_text().splitlines()]
    assert len(lines) == sum(done)
    assert run(*command, "--output", tmp_path / "pieces").exit_code == 0
    whole, pieces = (without_costs(read_entries(tmp_path / name / "results.json")) for name in ("whole", "pieces"))
    assert pieces == whole and len(whole) == 3


def test_files_are_matched_scored_and_chosen_from(checkpoint, file, tmp_path):
    """An untrained model solves nothing, and is near the uniform distribution."""
    tasks = f"{file},{file}:likelihood,{file}:choice"
    result = run(checkpoint, "--tasks", tasks, "--max-new-tokens", 20, "--separator", "", "--num-samples", 4,
                 "--output", tmp_path / "out")  # fmt: skip
    assert result.exit_code == 0, result.output
    match, bound, choice = read_entries(tmp_path / "out" / "results.json")
    assert (match["value"], match["num_examples"], match["tokens_per_forward"] >= 1) == (0.0, 5, True)
    assert (bound["num_tokens"], bound["seed"], bound["num_samples"]) == (100, 0, 4)
    assert 2 < bound["value"] < 4 and 0 < bound["standard_error"] < 1
    assert choice["value"] in (0, 0.2, 0.4, 0.6, 0.8, 1)
    assert (
        run(
            checkpoint, "--tasks", f"{file}:likelihood", "--estimator", "chain", "--output", tmp_path / "out"
        ).exit_code
        == 0
    )
    assert read_entries(tmp_path / "out" / "results.json")[-1]["standard_error"] == 0.0


def test_an_adapter_is_merged_and_is_another_model(checkpoint, sudoku_model, tmp_path):
    """Results of the adapter must not be taken from those of the bare model."""
    torch.manual_seed(0)
    config = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    get_peft_model(sudoku_model, config).save_pretrained(tmp_path / "adapter")
    command = (
        checkpoint,
        "--tasks",
        "sudoku:likelihood",
        "--limit",
        2,
        "--num-samples",
        2,
        "--output",
        tmp_path / "out",
    )
    assert run(*command).exit_code == run(*command, "--adapter", tmp_path / "adapter").exit_code == 0
    bare, adapted = read_entries(tmp_path / "out" / "results.json")
    assert bare["run"] != adapted["run"] and bare["value"] != adapted["value"]
    assert adapted["model"]["adapter"] == str(tmp_path / "adapter")
    lines = (tmp_path / "out" / "results.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| tiny", "| tiny+adapter"]


def test_other_weights_settings_or_versions_under_the_same_name_are_refused(checkpoint, tmp_path):
    """A model that was trained on, or whose files were edited, must neither take nor join the old one's results."""
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    command = (folder, "--tasks", "sudoku-4x4", "--limit", 2, "--output", tmp_path / "out")
    assert run(*command).exit_code == 0
    weights = load_file(folder / "model.safetensors")
    name = min(weights)
    was = weights[name].flatten()[-1].item()
    weights[name].view(-1)[-1] += 0.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert re.search(r'Changed: model\.weights "\w+" -> "\w+"\. Give', str(run(*command).exception))
    weights[name].view(-1)[-1] = was
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(settings | {"cfg_scale": 0.5}))
    assert "Changed: model.generation_config.cfg_scale" in str(run(*command).exception)
    (folder / "generation_config.json").write_text(json.dumps(settings))
    known = tmp_path / "out" / "models" / "model.json"
    facts = json.loads(known.read_text())
    facts["model"]["versions"]["transformers"] = "5.0.0"
    known.write_text(json.dumps(facts))
    assert 'Changed: model.versions.transformers "5.0.0" -> ' in str(run(*command).exception)
    shutil.rmtree(known.parent)
    assert "holds results but not of which weights" in str(run(*command).exception)


def test_tasks_of_the_harness_go_into_the_same_results(checkpoint, file, tmp_path):
    pytest.importorskip("lm_eval", reason="needs lm-eval: pip install 'hf-latent[eval]'")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "boards.yaml").write_text(
        f"task: boards\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {file}}}}}\ntest_split: test\n"
        "output_type: generate_until\ndoc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\n"
        "generation_kwargs: {until: ['#'], max_gen_toks: 20}\nmetric_list: [{metric: exact_match}]\n"
        "metadata: {version: 2}\n"
    )
    command = (checkpoint, "--tasks", "harness:boards,sudoku", "--include-path", folder, "--limit", 3,
               "--decoding", "med", "--entropy-threshold", "0.1,1e6", "--output", tmp_path / "out")  # fmt: skip
    result = run(*command)
    assert result.exit_code == 0, result.output
    entries = [entry for entry in read_entries(tmp_path / "out" / "results.json") if entry["measure"] == "harness"]
    assert [entry["settings"]["entropy_threshold"] for entry in entries] == [0.1, 1e6]
    assert entries[1]["forwards_per_example"] == 1.0
    assert (entries[0]["metric"], entries[0]["num_examples"], entries[0]["source"]["version"]) == ("exact_match", 3, 2)
    assert run(*command).exit_code == 0
    again = [entry for entry in read_entries(tmp_path / "out" / "results.json") if entry["measure"] == "harness"]
    assert again == entries


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--decoding", "mde"], "'mde'"),
        (["--entropy-treshold", "0.1"], None),
        (["--entropy-threshold", "0.5:0.1:0.1", "--decoding", "med"], "`entropy_threshold` takes values or ranges"),
        (["--entropy-bound", "0.1", "--decoding", "med"], "`entropy_bound` is read by none"),
        (["--set", "entropy_treshold=1"], "entropy_treshold.*entropy_threshold"),
        (["--set", "nonsense"], "'nonsense'"),
        (["--set", "top_k=1", "--top-k", "2"], "twice"),
        (["--tasks", "chess"], "'chess'"),
        (["--tasks", "nothing.jsonl"], "no file nothing.jsonl"),
        (["--tasks", ","], "at least one task"),
        (["--tasks", "sudoku:likelihood", "--decoding", "med"], "nothing of `--tasks` generates"),
        (["--tasks", "sudoku:likelihood", "--estimator", "exact"], "'exact'"),
        (["--limit", "0"], "`limit`"),
        (["--answer-length", "3"], "`--delimiter`"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(arguments, message, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["hf-latent", "eval", str(checkpoint), "--output", str(tmp_path / "o"), *arguments]
    )
    monkeypatch.setattr(LladaForMaskedDiffusion, "forward", lambda *a, **kw: pytest.fail("a forward"))
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    assert exit_info.value.code == 2
    if message is not None:
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("hf-latent: ")
        assert re.search(message, error)
    assert not (tmp_path / "o" / "results.json").exists()


def test_a_folder_without_a_task_needs_one(checkpoint, monkeypatch):
    (checkpoint / "task.json").unlink()
    result = run(checkpoint)
    assert isinstance(result.exception, ValueError) and "`--tasks` is needed" in str(result.exception)


@pytest.mark.slow
def test_two_processes_make_the_results_of_one(checkpoint, file, tmp_path):
    """Each makes its share, on the CPU too, where accelerate takes every process for the only one unless told."""
    arguments = [str(checkpoint), "--tasks", f"sudoku,{file}:likelihood", "--limit", "5", "--num-samples", "2"]
    assert run(*arguments, "--output", tmp_path / "one").exit_code == 0
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    command = [*launch, "-m", "hf_latent.cli", "eval", *arguments, "--output", str(tmp_path / "two")]
    subprocess.run(command, check=True, timeout=300, env=os.environ)
    one, two = (read_entries(tmp_path / name / "results.json") for name in ("one", "two"))
    assert [entry["num_processes"] for entry in two] == [2, 2]
    assert len(list((tmp_path / "two").rglob("part-1.jsonl"))) == 2
    for entry, other in zip(one, two, strict=True):
        assert other["value"] == pytest.approx(entry["value"], rel=1e-5)
        assert (entry["run"], entry["num_examples"]) == (other["run"], other["num_examples"])
