"""What publishing scripts share: the command that is shown, results that are made once, what goes into a card."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_latent.training.runs.studies import (
    answer_questions,
    make_once,
    marked,
    mean_and_error,
    numbers_in,
    put_between,
    read_lines,
    read_questions,
    recipe_command,
    this_command,
    write_lines,
)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--folder", "a b", "--part", "0", "2"], "--folder 'a b'"),
        (["--part=0", "2", "--folder", "a"], "--folder a"),
        (["--boards", "/home/x/a.jsonl", "/home/x/b.jsonl", "--seed", "3"], "--boards 'givens_*.jsonl' --seed 3"),
        (["name", "--seed", "-1"], "name --seed -1"),
    ],
)
def test_a_command_is_shown_without_what_is_nobodys_business(
    words: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options after the one that is replaced stay, wherever it stands."""
    monkeypatch.setattr("sys.argv", ["recipes/studies/x.py", *words])
    instead = {"--part": [], "--boards": ["--boards", "givens_*.jsonl"]}
    assert this_command(instead) == f"python recipes/studies/x.py {shown}"
    run = {"command": ["/somewhere/sft.py", "--config", "a.yaml"]}
    assert recipe_command("recipes/sft.py", run) == "python recipes/sft.py --config a.yaml"


def test_a_result_is_made_once_and_only_of_the_same_facts(tmp_path: Path) -> None:
    path, facts = tmp_path / "folder" / "held_out.json", {"model": {"weights": "1a"}, "seed": 0}
    assert make_once(path, lambda: {"accuracy": 0.5}, facts) == {"accuracy": 0.5}
    assert make_once(path, pytest.fail, facts) == {"accuracy": 0.5}
    for other, named in (({"seed": 1}, "seed 0 -> 1"), ({"model": {"weights": "2b"}}, "model.weights")):
        with pytest.raises(ValueError, match=f"`held_out.json` .*Changed: {named}"):
            make_once(path, pytest.fail, facts | other)
    path.unlink()  # made anew, of anything
    assert make_once(path, lambda: {"accuracy": 0.75}, facts | {"seed": 1}) == {"accuracy": 0.75}
    (path.parent / "held_out.identity.json").unlink()
    with pytest.raises(ValueError, match="does not say which weights it was made with"):
        make_once(path, pytest.fail, facts)


def test_a_result_that_was_interrupted_leaves_no_claim(tmp_path: Path) -> None:
    def interrupted() -> dict:
        raise KeyboardInterrupt

    path = tmp_path / "a.json"
    with pytest.raises(KeyboardInterrupt):
        make_once(path, interrupted, {"model": {"weights": "1a"}})
    assert make_once(path, lambda: {"x": 1}, {"model": {"weights": "2b"}}) == {"x": 1}


def test_a_card_changes_between_its_marks_alone(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    put_between(card, "<!-- a -->\n", "<!-- /a -->", "one\n")
    card.write_text(f"before\n{card.read_text()}after\n")
    put_between(card, "<!-- a -->\n", "<!-- /a -->", "two\n")
    assert card.read_text() == "before\n<!-- a -->\ntwo\n<!-- /a -->\nafter\n"
    with pytest.raises(ValueError, match="without the marks <!-- b --> and <!-- /b -->"):
        put_between(card, "<!-- b -->\n", "<!-- /b -->", "x")
    assert marked("use") == "<!-- hf-latent:use -->\n\n<!-- /hf-latent:use -->"


def test_lines_and_means(tmp_path: Path) -> None:
    rows = [{"text": "a\u2028b"}, {"text": "\n"}]
    write_lines(tmp_path / "rows.jsonl", rows)
    assert read_lines(tmp_path / "rows.jsonl") == rows
    assert len((tmp_path / "rows.jsonl").read_text().strip().split("\n")) == 2
    assert json.loads((tmp_path / "rows.jsonl").read_text().split("\n")[0]) == rows[0]
    mean, error = mean_and_error([0.5, 0.7])
    assert (mean, error) == (pytest.approx(0.6), pytest.approx(0.1))
    assert mean_and_error([0.5]) == (0.5, None)
    assert sorted(["givens_10", "givens_9"], key=numbers_in) == ["givens_9", "givens_10"]


def test_questions_are_asked_under_the_chat_template(make_words: Callable, tmp_path: Path) -> None:
    """The first of the file; what is shown of an answer begins behind the prompt."""
    tokenizer = make_words(9, model_input_names=["input_ids", "attention_mask"])
    tokenizer.chat_template = "{% for m in messages %}w1 {{ m['content'] }} w2 {% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    write_lines(tmp_path / "test.jsonl", [{"question": f"w{i}", "answer": "w8"} for i in (3, 4, 5)])
    again, questions, chats = read_questions(tmp_path, str(tmp_path / "test.jsonl"), 2)
    assert questions == ["w3", "w4"]
    assert [chat["completion"] for chat in chats] == [[{"role": "assistant", "content": "w8"}]] * 2

    def write(inputs: Any) -> tuple[torch.Tensor, dict[str, int]]:
        asked = inputs["input_ids"][0]
        return torch.cat([asked, asked[1:2], torch.tensor([7])]), {"length": len(asked)}

    found = answer_questions(again, questions, write)
    assert found == [{"question": f"w{i}", "text": f"w{i} w7", "length": 3} for i in (3, 4)]
