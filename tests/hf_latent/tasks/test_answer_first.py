"""Sums and rotations, their reasoning, splits and tokens."""

import itertools
import re
from typing import Any

import pytest

from hf_latent.tasks.answer_first import CYCLE, KINDS, AnswerFirstTask, answer_first_tokenizer

EXAMPLES = [
    ("single_digit_additions", "3 + 5 + 7", "15 ; 3 + 5 = 8 ; 8 + 7 = 15"),
    ("double_digit_additions", "48 + 76", "124 ; 8 + 6 = 14 ; 40 + 70 = 110 ; 14 + 110 = 124"),
    ("single_digit_three_operations", "6 + ( 4 * 8 )", "38 ; 4 * 8 = 32 ; 6 + 32 = 38"),
    ("single_digit_three_operations", "0 - ( 9 - 3 )", "-6 ; 9 - 3 = 6 ; 0 - 6 = -6"),
    ("rotation", "1 3", "left up down up right"),
    ("rotation", "1 0 2 1", "left up down left right"),
    ("rotation", "0 0 0 0", "up"),
]


@pytest.fixture(params=list(KINDS))
def task(request: pytest.FixtureRequest) -> AnswerFirstTask:
    return AnswerFirstTask(request.param)


@pytest.mark.parametrize(("kind", "question", "completion"), EXAMPLES)
def test_examples_are_solved_as_written_in_the_docstrings(kind: str, question: str, completion: str) -> None:
    """The first rotation is the paper's worked example."""
    task = AnswerFirstTask(kind)
    assert task.format(task.solve(question)) == {"prompt": question, "completion": completion}


def test_answers_agree_with_python(task: AnswerFirstTask) -> None:
    """Independent of the reasoning: python's own arithmetic, and the sum of signed turns."""
    for problem in task.generate(200, 0):
        question, answer = problem["question"], problem["answer"]
        if task.name == "rotation":
            turns = [sign * int(n) for sign, n in zip((1, -1, 1, -1), question.split(), strict=True)]
            assert answer == CYCLE[sum(turns) % 4]
            assert len(problem["reasoning"].split()) == max(sum(map(abs, turns)), 0)
        else:
            assert int(answer) == eval(question)
            for step in problem["reasoning"].split(" ; "):
                left, right = step.split(" = ")
                assert eval(left) == int(right)


def test_the_same_seed_gives_the_same_problems_and_splits_never_meet(task: AnswerFirstTask) -> None:
    train, test = task.generate(2000, 3), task.generate(300, 3, split="test")
    assert train[:50] == task.generate(50, 3)
    assert train[:50] != task.generate(50, 4)
    questions = [problem["question"] for problem in train]
    assert len(set(questions)) == len(questions)
    assert not {problem["question"] for problem in task.generate(300, 9, split="test")} & set(questions)
    assert not {problem["question"] for problem in test} & set(questions)


def test_one_problem_in_ten_is_held_out(task: AnswerFirstTask) -> None:
    """Of 1,000 questions of each kind, within 5 standard errors."""
    numbers = itertools.product(range(10), repeat=3)
    templates = {
        "rotation": "{0} {1} {2} 5",
        "single_digit_three_operations": "{0} + ( {1} * {2} )",
        "double_digit_additions": "{0}{1} + {2}",
    }
    template = templates.get(task.name, "{0} + {1} + {2}")
    share = sum(task.split_of(template.format(*n)) == "test" for n in numbers) / 1000
    assert abs(share - 0.1) < 5 * (0.09 / 1000) ** 0.5


def test_every_completion_is_tokens_and_fits(task: AnswerFirstTask) -> None:
    """An unknown token, or one cut off, would be a target that no model can write."""
    tokenizer = answer_first_tokenizer()
    longest = 0
    for problem in task.generate(1500, 1):
        for text in task.format(problem).values():
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids[1:-1]) == text
            assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        longest = max(longest, len(ids))
    assert longest <= task.completion_length
    worst = {"single_digit_additions": "9 + 9 + 9 + 9 + 9", "rotation": "9 9 9 9"}
    if task.name in worst:
        text = task.format(task.solve(worst[task.name]))["completion"]
        assert len(tokenizer(text)["input_ids"]) == task.completion_length


def test_extreme_results_have_a_token() -> None:
    tokenizer = answer_first_tokenizer()
    task = AnswerFirstTask("single_digit_three_operations")
    for question in ("9 * ( 9 * 9 )", "0 - ( 9 * 9 )", "9 * ( 0 - 9 )"):
        assert tokenizer.unk_token_id not in tokenizer(task.solve(question)["answer"])["input_ids"]


@pytest.mark.parametrize("order", ["answer_first", "answer_last"])
def test_verifier_reads_the_answer_where_it_stands(order: str) -> None:
    task = AnswerFirstTask("single_digit_additions", order)
    problem = task.solve("3 + 5 + 7")
    right = task.format(problem)["completion"]
    assert task.is_solved(problem, f"</s><s> {right} </s> <pad>".replace("</s><s>", "</s> <s>"))
    assert task.is_sound(problem, right)
    wrong_step = right.replace("3 + 5 = 8", "3 + 5 = 9")
    assert task.is_solved(problem, wrong_step)
    assert not task.is_sound(problem, wrong_step)
    wrong_answer = {"answer_first": right.replace("15 ;", "16 ;", 1), "answer_last": f"{right[:-2]}16"}[order]
    assert not task.is_solved(problem, wrong_answer)
    assert not task.is_solved(problem, "")


def test_answer_last_has_the_same_problems(task: AnswerFirstTask) -> None:
    """Both orders have to be compared on the same data."""
    other = AnswerFirstTask(task.name, "answer_last")
    assert other.generate(100, 0) == task.generate(100, 0)
    first, last = (t.dataset(20, 0)["completion"] for t in (task, other))
    assert [sorted(text.split()) for text in first] == [sorted(text.split()) for text in last]
    assert list(first) != list(last)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "division"}, "`kind` must be one of 'single_digit_additions', .*got 'division'"),
        ({"order": "random"}, "`order` must be one of 'answer_first', 'answer_last', got 'random'"),
    ],
)
def test_bad_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnswerFirstTask(**arguments)
    with pytest.raises(ValueError, match=re.escape('`split` must be "train" or "test"')):
        AnswerFirstTask().generate(1, 0, split="dev")
    with pytest.raises(ValueError, match="Found only"):
        AnswerFirstTask("single_digit_three_operations").generate(5000, 0, split="test")
