"""`hf-latent view` replays what `generate` does, with the decoders and the template it is told."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import hf_latent.cli as cli
from hf_latent.checkpoints.loading import load, resolve
from hf_latent.cli.commands.view import template_parts

PROMPT = "1..4\n....\n2..3\n.32.\n=\n"


def run(*arguments: object, **kwargs: object):
    return CliRunner().invoke(cli.app, ["view", *map(str, arguments)], catch_exceptions=False, **kwargs)


def data_of(path: Path) -> Any:
    found = re.search(r'<script id="replay-data" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found.group(1))


def test_two_decoders_are_replayed_as_generate_runs_them(tmp_path):
    page = tmp_path / "replay.html"
    second = ("--against-decoding", "med", "--against-set", "entropy_threshold=0.5")
    result = run("sudoku-4x4", PROMPT, "--output", page, "--decoding", "low_confidence", "--seed", 3, *second)
    assert result.stdout == f"{page}\n"
    content = data_of(page)
    assert content["title"] == "sudoku-4x4"
    first, second = content["replays"]
    assert (first["name"], second["name"]) == ("low_confidence", "med")
    assert (first["settings"], second["settings"]) == ({"seed": 3}, {"entropy_threshold": 0.5, "seed": 3})
    model, tokenizer = load("sudoku-4x4")
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    for replay, knobs in ((first, {"decoding": "low_confidence"}), (second, {"entropy_threshold": 0.5})):
        output = model.generate(ids, return_dict_in_generate=True, **knobs)
        assert replay["sequence"] == output.sequences[0].tolist() == replay["canvas"][-1]
        assert replay["commit_step"] == output.commit_step[0].tolist()
        assert replay["num_forwards"] == len(replay["canvas"]) == int(output.num_forward_passes[0])
        assert replay["given"] == [True] * ids.shape[1] + [False] * (output.sequences.shape[1] - ids.shape[1])
        assert replay["prompt"] == PROMPT
    # What a forward wrote is what it proposed.
    for position, step in enumerate(second["commit_step"]):
        if step >= 0:
            assert second["candidates"][step][position] == second["sequence"][position]
            assert 0 < second["confidences"][step][position] <= 1


def test_one_decoder_from_standard_input_with_the_checkpoints_own_rule(tmp_path):
    page = tmp_path / "replay.html"
    run("sudoku-4x4", "--output", page, "--max-new-tokens", 5, "--block-length", 2, input=PROMPT)
    (replay,) = data_of(page)["replays"]
    own = json.loads((Path(resolve("sudoku-4x4")) / "generation_config.json").read_text())
    assert replay["name"] == own["decoding"] == "med"
    assert replay["settings"] == {
        "entropy_threshold": own["entropy_threshold"],
        "block_length": 2,
        "max_new_tokens": 5,
    }
    assert replay["given"].count(False) == 5


def test_infill_writes_the_masks_in_place(tmp_path):
    page = tmp_path / "replay.html"
    run("sudoku-4x4", "1<mask><mask>4", "--infill", "--output", page, "--set", "suppress_tokens=[0,1,2,3,4,5]")
    (replay,) = data_of(page)["replays"]
    assert replay["given"] == [True, False, False, True]
    assert replay["settings"]["suppress_tokens"] == [0, 1, 2, 3, 4, 5]


class Template:
    """Stands for `ReasoningTemplate`: question, masks, delimiter, masks."""

    made: list[dict[str, Any]] = []

    def __init__(self, **parts: Any) -> None:
        self.parts = parts
        Template.made.append(parts)

    def apply(self, tokenizer: Any, questions: list[str], chat: bool) -> dict[str, torch.Tensor]:
        mask = tokenizer.mask_token
        before = questions[0] + mask * self.parts["reasoning_length"] + self.parts["delimiter"]
        ids = tokenizer(before + mask * self.parts["answer_length"], return_tensors="pt")["input_ids"]
        answer_mask = torch.zeros_like(ids, dtype=torch.bool)
        answer_mask[:, -self.parts["answer_length"] :] = True
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "answer_mask": answer_mask}

    def split(self, tokenizer: Any, sequences: torch.Tensor, answer_mask: torch.Tensor) -> list[SimpleNamespace]:
        return [SimpleNamespace(reasoning="why", answer=tokenizer.decode(sequences[0][answer_mask[0]]))]


def test_reasoning_and_answer_are_written_in_place_with_early_exit(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_latent.viz.recording.ReasoningTemplate", Template)
    page = tmp_path / "replay.html"
    options = ("--reasoning-length", 6, "--answer-length", 2, "--delimiter", "=", "--early-exit-threshold", 50)
    run("sudoku-4x4", "1..4\n", "--output", page, "--decoding", "low_confidence", *options, "--set", "seed=1")
    (replay,) = data_of(page)["replays"]
    assert Template.made[-1] == {"reasoning_length": 6, "answer_length": 2, "delimiter": "="}
    assert replay["given"] == [True] * 5 + [False] * 6 + [True] + [False] * 2
    assert replay["in_answer"] == [False] * 12 + [True] * 2
    assert (replay["reasoning"], replay["exit_threshold"]) == ("why", 50)
    # Two answers of the vocabulary's 15 tokens have at most 2 ln 15 = 5.4 nats: the first forward is enough.
    assert replay["exit_step"] == 0
    assert len(replay["answer_entropy"]) == replay["num_forwards"]


def test_a_folders_task_fills_in_the_template(tmp_path):
    about = {"task": "words", "reasoning_length": 64, "answer_length": 8, "delimiter": "\nAnswer: "}
    (tmp_path / "task.json").write_text(json.dumps(about))
    (tmp_path / "config.json").write_text("{}")  # a folder of a checkpoint
    given = {"reasoning_length": None, "answer_length": 4, "delimiter": None, "suffix": None}
    expected = {"reasoning_length": 64, "answer_length": 4, "delimiter": "\nAnswer: "}
    assert template_parts(str(tmp_path), given, use_task=True) == expected
    nothing = dict.fromkeys(given)
    assert template_parts(str(tmp_path), nothing, use_task=False) == {}
    assert template_parts("sudoku-4x4", nothing, use_task=True) == {}
    with pytest.raises(ValueError, match="`--delimiter`, `--reasoning-length`"):
        template_parts("sudoku-4x4", given, use_task=True)


def test_what_has_no_meaning_for_infill_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`max_new_tokens`=5 has no meaning for `infill`"):
        run("sudoku-4x4", "1<mask>", "--infill", "--max-new-tokens", 5, "--output", tmp_path / "replay.html")
    assert not (tmp_path / "replay.html").exists()


def test_infill_and_template_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="`--infill` cannot be given with `reasoning_length`"):
        run("sudoku-4x4", "1", "--infill", "--reasoning-length", 3, "--answer-length", 1, "--delimiter", "=")
