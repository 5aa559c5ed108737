"""`hf-latent eval --templates` asks in several wordings, each measured once, and compares decoders over them."""

import json

import pytest
from typer.testing import CliRunner

import hf_latent.cli as cli
from hf_latent import LladaForMaskedDiffusion
from hf_latent.evaluation.reports.report import read_entries
from hf_latent.hub import bundle


@pytest.fixture
def checkpoint(sudoku_model, tokenizer, tmp_path):
    folder = bundle(sudoku_model, tokenizer, tmp_path / "tiny", verify=False)
    (folder / "task.json").write_text(json.dumps({"task": "sudoku", "size": 4, "num_givens": [6, 10]}))
    return folder


def run(*arguments: object):
    return CliRunner().invoke(cli.app, ["eval", *(str(argument) for argument in arguments)])


def test_every_wording_is_asked_once_and_decoders_are_compared_over_them(checkpoint, tmp_path, monkeypatch):
    asked = []
    generate = LladaForMaskedDiffusion.generate

    def watch(self, *args, **kwargs):
        asked.append(kwargs["input_ids"].shape[1])
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(LladaForMaskedDiffusion, "generate", watch)
    file = tmp_path / "wordings.txt"
    file.write_text("{question}\n1{question}\n")
    out = tmp_path / "out"
    command = (checkpoint, "--limit", 3, "--decoding", "med,random", "--templates", file, "--output", out)
    result = run(*command)
    assert result.exit_code == 0, result.output
    length = asked[0]
    assert asked == [length, length, length + 1, length + 1], "two decoders in each of two wordings"
    entries = read_entries(out / "results.json")
    assert [(e["wording"], e["settings"]["decoding"]) for e in entries] == [
        *(("1", "med"), ("1", "random")),
        *(("2", "med"), ("2", "random")),
    ]
    assert len({e["run"] for e in entries}) == 4 and len({e["examples"] for e in entries}) == 1
    assert all(len(e["correct"]) == 3 for e in entries)
    (found,) = json.loads((out / "results.json").read_text())["comparisons"]
    assert found["wordings"] == ["1", "2"] and len(found["decoders"]) == 2 and len(found["aup"]) == 2
    assert "over 2 wordings" in (out / "results.md").read_text() and "over 2 wordings" in result.output
    assert (out / "sudoku-4x4_wordings_accuracy_over_seconds.png").is_file()

    file.write_text("{question}\n1{question}\n2{question}\n")
    assert run(*command).exit_code == 0
    assert asked[4:] == [length + 1] * 2, "the new wording alone"
    (found,) = json.loads((out / "results.json").read_text())["comparisons"]
    assert found["wordings"] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("text", "tasks", "message"),
    [
        ("{question}\n{answer}\n", "sudoku", r"wordings\.txt, line 2, column 'template': must hold \{question\} once"),
        ("Solve {question}\n", "sudoku", "no tokens for all of wording '1', 'Solve "),
        ("{question}\n", "harness:gsm8k", "harness:gsm8k has prompts of its own"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_forward(text, tasks, message, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(LladaForMaskedDiffusion, "forward", lambda *a, **kw: pytest.fail("a forward"))
    file = tmp_path / "wordings.txt"
    file.write_text(text)
    result = run(checkpoint, "--tasks", tasks, "--templates", file, "--output", tmp_path / "out")
    assert isinstance(result.exception, ValueError)
    with pytest.raises(ValueError, match=message):
        raise result.exception
