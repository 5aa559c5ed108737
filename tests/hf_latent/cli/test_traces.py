"""`hf-latent traces`: what it writes, that nothing is lost, that processes share the work."""

import json
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_from_disk
from typer.testing import CliRunner

import hf_latent.cli as cli
from hf_latent import LladaConfig, LladaForMaskedDiffusion, ReasoningTemplate, sample_posterior_traces
from hf_latent.data.traces.sampling import TAKEN
from hf_latent.data.traces.shards import TraceFolder
from hf_latent.tasks import ArithmeticTask, arithmetic_tokenizer

TASK = ArithmeticTask()
PROBLEMS = TASK.generate(7, seed=5)
KNOBS = {"decoding": "med", "entropy_threshold": 0.5, "seed": 2}
TEMPLATE = ReasoningTemplate(8, TASK.answer_length, TASK.delimiter)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A random model of the arithmetic vocabulary."""
    torch.manual_seed(0)
    tokenizer = arithmetic_tokenizer()
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("mask", "pad", "eos")}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LladaConfig(vocab_size=len(tokenizer), initializer_range=0.3, **special, **sizes)
    folder = tmp_path_factory.mktemp("tiny")
    LladaForMaskedDiffusion(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def questions(tmp_path) -> Path:
    path = tmp_path / "questions.jsonl"
    rows = [{"ask": p["question"] + "\n", "full": f"{p['reasoning']}\n#### {p['answer']}"} for p in PROBLEMS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def command(checkpoint: Path, questions: Path, output: Path, *more: object) -> list[str]:
    options = {
        "output": output,
        "data": questions,
        "question-column": "ask",
        "answer-column": "full",
        "answer-pattern": "#### (.*)",
        "reasoning-length": TEMPLATE.reasoning_length,
        "answer-length": TEMPLATE.answer_length,
        "delimiter": TEMPLATE.delimiter,
        "decoding": "med",
        "seed": 2,
        "set": "entropy_threshold=0.5",
        "num-traces": 2,
        "num-cuts": 2,
        "shard-size": 2,
        "batch-size": 3,
    }
    given = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    return ["traces", str(checkpoint), *given, *map(str, more)]


def run(*arguments: object):
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def same(rows: list[dict], others: list[dict]) -> bool:
    """Equal but for the last bits of the scores, which depend on the batch."""
    texts = [
        [{k: v for k, v in row.items() if k not in ("score", "scores")} for row in part] for part in (rows, others)
    ]
    scores = [[value for row in part for value in row["scores"]] for part in (rows, others)]
    return texts[0] == texts[1] and scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_it_writes_what_the_function_gives(checkpoint, questions, tmp_path):
    """All shards, in the order of the questions, with the noise of the whole set."""
    output = tmp_path / "out"
    result = run(*command(checkpoint, questions, output, "--format", "arrow", "--format", "jsonl"))
    assert result.exit_code == 0, result.output
    assert "14 of 14 traces kept" in result.stderr
    rows = load_from_disk(output / "traces").to_list()
    model = LladaForMaskedDiffusion.from_pretrained(checkpoint).eval()
    texts = [p["question"] + "\n" for p in PROBLEMS]
    answers = [p["answer"] for p in PROBLEMS]
    options = {"num_traces": 2, "num_cuts": 2, "hide_answer": True, **KNOBS}
    assert same(
        rows, sample_posterior_traces(model, arithmetic_tokenizer(), texts, answers, TEMPLATE, **options).to_list()
    )
    lines = (output / "traces.jsonl").read_text().splitlines()
    assert [json.loads(line)["trace"] for line in lines] == [row["trace"] for row in rows]


def test_an_interrupted_run_goes_on_and_samples_nothing_twice(checkpoint, questions, tmp_path, monkeypatch):
    """Stopped before the third shard is written; the second run writes only what is missing."""
    whole, output = tmp_path / "whole", tmp_path / "out"
    run(*command(checkpoint, questions, whole))
    write = TraceFolder.write

    def stop(self, number, rows):
        if number == 2:
            raise KeyboardInterrupt
        write(self, number, rows)

    monkeypatch.setattr(TraceFolder, "write", stop)
    run(*command(checkpoint, questions, output))
    assert sorted(p.name for p in (output / "shards").iterdir()) == ["00000.jsonl", "00001.jsonl"]
    assert not (output / "traces").exists()
    written = []
    monkeypatch.setattr(
        TraceFolder, "write", lambda self, number, rows: (written.append(number), write(self, number, rows))
    )
    run(*command(checkpoint, questions, output))
    assert written == [2, 3]
    assert same(load_from_disk(output / "traces").to_list(), load_from_disk(whole / "traces").to_list())


def test_filters_are_applied_afterwards(checkpoint, questions, tmp_path):
    """Without a forward: the same folder with other filters."""
    run(*command(checkpoint, questions, tmp_path / "out"))
    every = load_from_disk(tmp_path / "out" / "traces").to_list()
    for options, wanted in (
        (["--best", 1], 7),
        (["--top-share", 0.5], 7),
        (["--min-score", sorted(row["score"] for row in every)[10]], 4),
        (["--best", 1, "--top-share", 0.5], 4),
    ):
        result = run(*command(checkpoint, questions, tmp_path / "out", *options))
        assert f"{wanted} of 14 traces kept" in result.stderr
        kept = load_from_disk(tmp_path / "out" / "traces").to_list()
        assert len(kept) == wanted
        assert [row for row in every if row in kept] == kept


def test_a_task_and_its_template_are_known_by_name(checkpoint, tmp_path):
    layout = {"reasoning_length": 8, "answer_length": 3, "delimiter": TASK.delimiter}
    (checkpoint / "task.json").write_text(json.dumps(layout))
    try:
        result = run(
            "traces", checkpoint, "--task", "arithmetic", "--limit", 2, "--output", tmp_path, "--estimator", "none"
        )
    finally:
        (checkpoint / "task.json").unlink()
    assert result.exit_code == 0, result.output
    rows = load_from_disk(tmp_path / "traces").to_list()
    assert [row["answer"] for row in rows] == [p["answer"] for p in TASK.generate(2, 0)]
    assert "score" not in rows[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "arithmetic"], "give either `--task` or `--data`"),
        (["--format", "csv"], "`format` must be one of"),
        (["--estimator", "none", "--best", 1], "need scores, got `--estimator none`"),
        (["--estimator", "both"], "`--estimator` must be left_to_right, marginals or none"),
        (["--set", "entropy_treshold=1"], "Did you mean `entropy_threshold`"),
        (["--answer-length", 1], r"`answers` must fit in `answer_length` \(1 tokens\)"),
    ],
)
def test_misuse_is_said(checkpoint, questions, tmp_path, more, message):
    with pytest.raises(ValueError, match=message):
        run(*command(checkpoint, questions, tmp_path / "out", *more))


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_decided_here_is_refused_before_anything_is_loaded(checkpoint, questions, tmp_path, name, monkeypatch):
    """The answer used to come after minutes of loading."""
    monkeypatch.setattr("hf_latent.checkpoints.loading.load", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=rf"`{name}` is (not an argument of posterior sampling|an input)"):
        run(*command(checkpoint, questions, tmp_path / "out", "--set", f"{name}=2"))
    assert not (tmp_path / "out").exists()


def test_a_bad_row_is_found_before_the_first_shard(checkpoint, questions, tmp_path):
    """Not after an hour, when settings that fit it would mean to begin again."""
    with questions.open("a") as file:
        file.write(json.dumps({"ask": PROBLEMS[0]["question"], "full": "#### 12345"}) + "\n")
    with pytest.raises(ValueError, match=r"`answers` must fit in `answer_length` \(3 tokens\), got 5 tokens at 7"):
        run(*command(checkpoint, questions, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_settings_is_refused(checkpoint, questions, tmp_path):
    run(*command(checkpoint, questions, tmp_path / "out"))
    with pytest.raises(ValueError, match=r"begun with another .*Changed: sampling\.temperature 1\.0 -> 0\.5\."):
        run(*command(checkpoint, questions, tmp_path / "out", "--temperature", 0.5))


def test_other_weights_in_the_same_folder_are_refused(checkpoint, questions, tmp_path):
    """A path is no identity: traces of a model that was trained on in the meantime do not mix with the old ones."""
    moved, other = tmp_path / "moved", tmp_path / "model"
    shutil.copytree(checkpoint, moved)
    run(*command(moved, questions, tmp_path / "out"))
    moved.rename(other)
    run(*command(other, questions, tmp_path / "out"))  # a copy is the same model
    model = LladaForMaskedDiffusion.from_pretrained(other)
    with torch.no_grad():
        model.lm_head.weight[5, 3] += 1e-3
    model.save_pretrained(other)
    with pytest.raises(
        ValueError, match=r"begun with another checkpoint.*Changed: model\.weights \"\w+\" -> \"\w+\"\."
    ):
        run(*command(other, questions, tmp_path / "out"))


def test_a_folder_that_knows_its_model_by_path_alone_is_refused(checkpoint, questions, tmp_path):
    """As written by an earlier version: whether the weights are the same cannot be told."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(json.dumps({"model": str(checkpoint), "num_questions": 7}))
    with pytest.raises(ValueError, match="whether it is the same cannot be told"):
        run(*command(checkpoint, questions, tmp_path / "out"))


@pytest.mark.slow
def test_two_processes_write_what_one_writes(checkpoint, questions, tmp_path):
    """Each takes its share of the shards, none twice, and one of them merges."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    run(*command(checkpoint, questions, tmp_path / "one"))
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys\n"
        "from hf_latent.data.traces.shards import TraceFolder\n"
        "write = TraceFolder.write\n"
        "def note(self, number, rows):\n"
        "    write(self, number, rows)\n"
        "    open(sys.argv[-1] + '/' + os.environ['RANK'], 'a').write(f'{number} ')\n"
        "TraceFolder.write = note\n"
        "from hf_latent.cli import app\n"
        "app(sys.argv[1:-1])\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    notes = tmp_path / "notes"
    notes.mkdir()
    arguments = command(checkpoint, questions, tmp_path / "two")
    done = subprocess.run([*launch, str(script), *arguments, str(notes)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (done.stdout + done.stderr).count("14 of 14 traces kept") == 1
    assert [(notes / rank).read_text().split() for rank in ("0", "1")] == [["0", "2"], ["1", "3"]]
    assert same(
        load_from_disk(tmp_path / "two" / "traces").to_list(), load_from_disk(tmp_path / "one" / "traces").to_list()
    )
