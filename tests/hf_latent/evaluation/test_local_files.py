"""Rows of local files, their fields, prompts and answers; what is wrong with them is said with its place."""

import json

import pytest

from hf_latent.evaluation.local_files import answer_index, fill_prompt, find_field, read_rows

ROWS = [{"question": "1+1", "answer": "2"}, {"question": "2+2", "answer": "4"}]


def test_json_and_json_lines_are_read_alike(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    assert read_rows(tmp_path / "a.json") == read_rows(tmp_path / "a.jsonl") == ROWS
    assert read_rows(tmp_path / "a.jsonl", limit=1) == ROWS[:1]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.jsonl", '{"a": 1}\n{"a": ', "line 2"),
        ("a.jsonl", '{"a": 1}\n3\n', "row 1 must be an object, got int"),
        ("a.jsonl", "\n", "no rows"),
        ("a.json", '{"a": 1}', "list of objects, got dict"),
        ("a.json", "[1", "is not JSON"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_place(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rows(tmp_path / name)


def test_fields_are_the_usual_ones_or_those_given():
    assert find_field(ROWS[0], None, ("question", "prompt"), "question_field") == "question"
    assert find_field({"q": 1, "question": 2}, "q", ("question",), "question_field") == "q"
    with pytest.raises(ValueError, match=r"`question_field`.*\['answer', 'question'\].*'?q'?"):
        find_field(ROWS[0], "q", ("question",), "question_field")


def test_prompts_are_filled_from_the_row():
    assert fill_prompt("Q: {question}\nA:", ROWS[0]) == "Q: 1+1\nA:"
    assert fill_prompt("{{x}} {question}", ROWS[0]) == "{x} 1+1"
    with pytest.raises(ValueError, match=r"\['hint'\]"):
        fill_prompt("{question} {hint}", ROWS[0])


@pytest.mark.parametrize(("answer", "index"), [(1, 1), ("1", 1), ("B", 1), ("no", 1), ("yes", 0), ("C", 2)])
def test_an_answer_is_an_index_a_letter_or_a_text(answer, index):
    assert answer_index(answer, ["yes", "no", "3"], "Row 0") == index


@pytest.mark.parametrize("answer", [3, -1, "D", "maybe", None, True])
def test_an_answer_that_is_no_choice_is_refused(answer):
    with pytest.raises(ValueError, match=r"Row 5.*3 choices"):
        answer_index(answer, ["yes", "no", "perhaps"], "Row 5")
