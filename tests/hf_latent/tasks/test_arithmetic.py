"""Word problems: what they ask is what the reasoning works out; no train problem is a test problem in other words."""

import random
import re

import pytest

from hf_latent.tasks import ArithmeticTask, arithmetic_tokenizer
from hf_latent.tasks.arithmetic import FRACTIONS, extract_answer

NUMBER_WORDS = {text: divisor for divisor, text in FRACTIONS.items()}
FACT = re.compile(
    r"(?:On|By) \w+ \w+ (?P<change>.+)|(?P<who>\w+) has (?P<compare>.+) (?:than|as) (?P<whom>\w+)$|"
    r"(?P<owner>\w+) has (?P<boxes>\d+) boxes with (?P<each>\d+) \w+ each|(?P<first>\w+) has (?P<start>\d+) \w+"
)


def apply_words(value: int, words: str) -> int:
    """Change `value` as a sentence says, read without the task's own code."""
    number = re.search(r"\d+", words)
    if number is None:
        return value // next(d for text, d in NUMBER_WORDS.items() if text in words)
    n = int(number[0])
    if "times" in words:
        return value * n
    return value - n if re.search("sells|loses|gives|fewer", words) else value + n


def solve_by_reading(question: str) -> int:
    *sentences, asked = question.rstrip("?").split(". ")
    facts = [FACT.match(sentence) for sentence in sentences]
    has = {f["first"]: int(f["start"]) for f in facts if f["first"]}
    has |= {f["owner"]: int(f["boxes"]) * int(f["each"]) for f in facts if f["owner"]}
    if any(f["change"] for f in facts):
        (name,) = has
        for fact in facts[1:]:
            has[name] = apply_words(has[name], fact["change"])
        return has[name]
    pending = [f for f in facts if f["who"]]
    while pending:
        fact = next(f for f in pending if f["whom"] in has)
        has[fact["who"]] = apply_words(has[fact["whom"]], fact["compare"])
        pending.remove(fact)
    if together := re.search(r"do (\w+) and (\w+) have together", asked):
        return has[together[1]] + has[together[2]]
    return has[re.search(r"does (\w+) have", asked)[1]]


@pytest.fixture(scope="module")
def problems() -> list[dict]:
    return ArithmeticTask().generate(800, seed=3)


def test_answers_are_what_the_questions_ask(problems: list[dict]) -> None:
    for problem in problems:
        assert solve_by_reading(problem["question"]) == int(problem["answer"]), problem["question"]


def test_reasoning_works_the_answer_out_in_as_many_steps_as_it_says(problems: list[dict]) -> None:
    for problem in problems:
        steps = re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", problem["reasoning"])
        assert len(steps) == problem["num_steps"]
        for a, sign, b, c in steps:
            assert eval(f"{a}{sign}{b}") == int(c)
            assert 10 <= int(c) <= 99
        assert steps[-1][3] == problem["answer"]
        assert (
            f"has {problem['answer']} " in problem["reasoning"] or f"have {problem['answer']} " in problem["reasoning"]
        )


def test_every_kind_of_problem_occurs(problems: list[dict]) -> None:
    assert {(p["template"], p["num_steps"]) for p in problems} == {
        (template, steps) for template in ("story", "boxes", "people", "together") for steps in (2, 3, 4, 5)
    }
    told_in_order = [
        p["question"].index(p["reasoning"].split()[0]) < 12 for p in problems if p["template"] == "people"
    ]
    assert any(told_in_order) and not all(told_in_order)


def test_the_answer_is_seldom_a_number_of_the_question(problems: list[dict]) -> None:
    """It cannot be read off: by chance two-digit numbers agree now and then."""
    read_off = [p["answer"] in re.findall(r"\d+", p["question"]) for p in problems]
    assert sum(read_off) / len(read_off) < 0.12


def test_same_seed_same_problems_other_seed_others() -> None:
    task = ArithmeticTask()
    assert task.generate(20, seed=5) == task.generate(20, seed=5)
    assert task.generate(20, seed=5) != task.generate(20, seed=6)
    assert task.generate(3, seed=5) == task.generate(20, seed=5)[:3]


def test_no_calculation_is_on_both_sides() -> None:
    """Whatever the seeds: the side is a function of template and calculations, not of names and items."""
    task = ArithmeticTask((2, 2))

    def keys(split: str, seed: int) -> set[tuple]:
        found = task.generate(400, seed, split=split)
        return {(p["template"], *re.findall(r"\d+[-+*/]\d+", p["reasoning"])) for p in found}

    assert not keys("train", 1) & keys("test", 2)


@pytest.mark.parametrize("arguments", [{"num_steps": (1, 3)}, {"num_steps": (3, 6)}, {"num_steps": (4, 2)}])
def test_steps_beyond_the_templates_are_refused(arguments: dict) -> None:
    with pytest.raises(ValueError, match="`num_steps`"):
        ArithmeticTask(**arguments)


def test_bad_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="`split`"):
        ArithmeticTask().generate(1, 0, split="dev")


def test_texts_survive_the_tokenizer_and_fill_the_template(problems: list[dict]) -> None:
    task, tokenizer = ArithmeticTask(), arithmetic_tokenizer()
    behind = len(tokenizer(task.delimiter)["input_ids"]) + task.answer_length
    assert task.completion_length == task.reasoning_length + behind
    for problem in problems:
        texts = task.format(problem)
        prompt = tokenizer(texts["prompt"])["input_ids"]
        whole = tokenizer(texts["prompt"] + texts["completion"] + "<eos>")["input_ids"]
        assert tokenizer.decode(whole) == texts["prompt"] + texts["completion"] + "<eos>"
        assert whole[: len(prompt)] == prompt
        assert len(whole) - len(prompt) == task.completion_length
        assert len(whole) <= tokenizer.model_max_length


def test_reasoning_may_be_given_in_part(problems: list[dict]) -> None:
    """Cut between tokens, mostly behind an equals sign; together the two parts are what they were."""
    task, tokenizer, rng = ArithmeticTask(), arithmetic_tokenizer(), random.Random(0)
    behind_equals = 0
    for problem in problems[:200]:
        whole, parts = task.format(problem), task.format_partly(problem, rng)
        text = parts["prompt"] + parts["completion"]
        assert text == whole["prompt"] + whole["completion"]
        prompt = tokenizer(parts["prompt"])["input_ids"]
        assert tokenizer(text)["input_ids"][: len(prompt)] == prompt
        assert len(whole["prompt"]) <= len(parts["prompt"]) < len(whole["prompt"]) + len(problem["reasoning"])
        behind_equals += parts["prompt"].endswith("=")
    assert 110 < behind_equals < 170, "two in three, and some of the others"


def test_a_share_of_a_dataset_is_given_in_part() -> None:
    task = ArithmeticTask()
    rows = task.dataset(100, 4, given_share=0.5)
    given = sum(not row["prompt"].endswith("?\n") for row in rows)
    assert 30 < given < 65
    assert rows["prompt"] == task.dataset(100, 4, given_share=0.5)["prompt"]
    assert all(prompt.endswith("?\n") for prompt in task.dataset(20, 4)["prompt"])


def test_drills_are_right_and_only_their_results_are_predicted() -> None:
    task, tokenizer = ArithmeticTask(), arithmetic_tokenizer()
    rows = task.dataset(30, 4, given_share=0.5, num_drills=20)
    assert set(rows.column_names) == {"input_ids", "labels"} and len(rows) == 50
    num_drills = 0
    for row in rows:
        assert all(label in (-100, token) for token, label in zip(row["input_ids"], row["labels"], strict=True))
        text = tokenizer.decode(row["input_ids"])
        assert task.is_sound(text.partition("\nThe answer")[0])
        assert len(row["input_ids"]) <= tokenizer.model_max_length
        if "answer is" in text:
            supervised = [label for label in row["labels"] if label != -100]
            assert row["input_ids"][-len(supervised) :] == supervised, "a completion stands at the end, whole"
            assert text.endswith("<eos>")
            continue
        num_drills += 1
        asked = re.sub(r"=\d+", "=", text)
        given = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label == -100]
        assert tokenizer.decode(given) == asked
    assert num_drills == 20
    firsts = ["answer is" in tokenizer.decode(ids) for ids in rows["input_ids"][:25]]
    assert any(firsts) and not all(firsts), "shuffled"


def test_unknown_words_are_an_error() -> None:
    with pytest.raises(Exception, match="UNK"):
        arithmetic_tokenizer()("Zoe has 12 apples.")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Ida 16*3=48. So Ida has 48 coins.<eos><eos>\nThe answer is 48<eos>", "48"),
        ("Ida 16*3=48.<pad><pad>\nThe answer is 49<eos>", "49"),
        ("Ida 16*3=48. So Ida has 48 coins.<eos>", "48"),
        ("Ida 16*3=48.\nThe answer is <eos>", None),
        ("Ida 16*3=48.\nThe answer is coins", None),
        ("", None),
    ],
)
def test_the_answer_is_what_stands_behind_the_delimiter(text: str, answer: str | None) -> None:
    assert extract_answer(text) == answer


def test_only_the_right_number_solves_a_problem(problems: list[dict]) -> None:
    task = ArithmeticTask()
    problem = problems[0]
    right = task.format(problem)["completion"]
    assert task.is_solved(problem, right)
    wrong = right[: right.index(task.delimiter)] + task.delimiter + str(int(problem["answer"]) + 1)
    assert not task.is_solved(problem, wrong)
    assert not task.is_solved(problem, right + "0")


@pytest.mark.parametrize(
    ("text", "sound"),
    [("Ida 16*3=48. Leo 48/2=24.", True), ("Ida 16*3=46.", False), ("Ida 15/2=7.", False), ("no numbers", False)],
)
def test_sound_reasoning_has_right_calculations(text: str, sound: bool) -> None:
    assert ArithmeticTask().is_sound(text) is sound
