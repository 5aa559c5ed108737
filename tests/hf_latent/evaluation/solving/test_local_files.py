"""Fields of a row, prompts and answers; what is wrong with them is said with its place."""

import pytest

from hf_latent.evaluation.solving.local_files import answer_index, fill_prompt, find_field

ROWS = [{"question": "1+1", "answer": "2"}, {"question": "2+2", "answer": "4"}]


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
    with pytest.raises(ValueError, match=r"\['hint'\], which is null"):
        fill_prompt("{question} {hint}", {"question": "1", "hint": None})


@pytest.mark.parametrize(("answer", "index"), [(1, 1), ("1", 1), ("B", 1), ("no", 1), ("yes", 0), ("C", 2)])
def test_an_answer_is_an_index_a_letter_or_a_text(answer, index):
    assert answer_index(answer, ["yes", "no", "3"], "Row 0") == index


@pytest.mark.parametrize("answer", [3, -1, "D", "maybe", None, True])
def test_an_answer_that_is_no_choice_is_refused(answer):
    with pytest.raises(ValueError, match=r"Row 5.*3 choices"):
        answer_index(answer, ["yes", "no", "perhaps"], "Row 5")
