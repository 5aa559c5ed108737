"""What `--tasks` names becomes the examples, prompts and judges it says."""

import json

import pytest

from hf_latent import ReasoningTemplate
from hf_latent.evaluation.metric_specs import MetricOptions, build_metric, split_spec
from hf_latent.tasks import TASKS, ArithmeticTask, SudokuTask, get_task


@pytest.fixture
def gsm8k(tmp_path):
    rows = [
        {"question": "How many?", "answer": "3 + 4 = <<3+4=7>>7 of them.\n#### 7"},
        {"question": "How much?", "answer": "It is\n#### 1,080"},
    ]
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_spec_is_a_source_and_what_is_measured():
    assert split_spec("sudoku") == ("sudoku", "exact_match")
    assert split_spec("a/b.jsonl:choice") == ("a/b.jsonl", "choice")
    assert split_spec("C:/b.jsonl") == ("C:/b.jsonl", "exact_match")


def test_own_tasks_are_held_out_and_as_the_checkpoint_says():
    metric = build_metric("sudoku", MetricOptions(limit=4), {"task": "sudoku", "size": 4, "num_givens": [6, 7]})
    task = SudokuTask(4)
    found = task.generate(4, 1234, split="test", num_givens=(6, 7))
    assert metric.prompts == [task.format(puzzle)["prompt"] for puzzle in found]
    assert metric.layout.max_new_tokens == 20 and metric.layout.template is None
    for number, puzzle in enumerate(found):
        assert metric.judge(number, puzzle["solution"])
        assert not metric.judge(number, puzzle["solution"][::-1])
    other = build_metric("sudoku-6x6", MetricOptions(limit=1), {"task": "sudoku", "size": 4, "num_givens": [6, 7]})
    assert other.source["split"] == "test" and "num_givens" not in other.source


def test_arithmetic_reasons_in_place_unless_told_not_to():
    task = ArithmeticTask()
    template = ReasoningTemplate(task.reasoning_length, task.answer_length, task.delimiter)
    assert build_metric("arithmetic", MetricOptions(limit=1), {}).layout.template == template
    plain = build_metric("arithmetic", MetricOptions(limit=1, use_template=False), {})
    assert plain.layout.template is None
    assert plain.layout.max_new_tokens == task.completion_length
    bound = build_metric("arithmetic:likelihood", MetricOptions(limit=1), {})
    assert bound.rows[0]["completion"].count(task.delimiter) == 1


@pytest.mark.parametrize("name", [*TASKS, "zebra-3x2", "star_graph-3x4", "countdown-3"])
def test_every_task_of_the_library_is_measured_under_its_name(name):
    metric = build_metric(name, MetricOptions(limit=3, use_template=False), {})
    task = get_task(name)
    found = task.generate(3, 1234, split="test")
    texts = [task.format(instance) for instance in found]
    assert metric.prompts == [text["prompt"] for text in texts]
    assert metric.layout.max_new_tokens == task.completion_length
    assert all(metric.judge(number, text["completion"]) for number, text in enumerate(texts))
    assert not any(metric.judge(number, "") for number in range(3))
    assert build_metric(f"{name}:likelihood", MetricOptions(limit=3), {}).rows == texts


def test_a_task_has_the_options_of_the_checkpoint_that_was_trained_on_it():
    about = {"task": "zebra", "options": {"num_houses": 3, "num_attributes": 2}}
    metric = build_metric("zebra", MetricOptions(limit=2), about)
    assert metric.layout.max_new_tokens == 2 * 4 and metric.source["num_houses"] == 3
    assert build_metric("zebra-4x4", MetricOptions(limit=2), about).layout.max_new_tokens == 4 * 5
    assert build_metric("countdown", MetricOptions(limit=2), about).layout.max_new_tokens == 35


def test_a_file_is_matched_through_the_filter(gsm8k):
    metric = build_metric(str(gsm8k), MetricOptions(answer_filter="gsm8k", prompt="Q: {question}\nA:", stop=("Q:",)))
    assert metric.prompts == ["Q: How many?\nA:", "Q: How much?\nA:"]
    assert metric.layout.stop == ("Q:",)
    assert metric.judge(0, "so there are 7.") and not metric.judge(0, "so there are 8.")
    assert metric.judge(1, "$1,080.00") and not metric.judge(1, "1080.5")
    plain = build_metric(str(gsm8k), MetricOptions(limit=1))
    assert plain.prompts == ["How many?"]
    assert not plain.judge(0, "7"), "the whole text is compared without a filter"
    assert plain.source["file_sha256"] == metric.source["file_sha256"]


def test_any_of_several_references_will_do(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "?", "answer": ["yes", "Yes"]}) + "\n")
    judge = build_metric(str(path), MetricOptions()).judge
    assert judge(0, " Yes") and judge(0, "yes") and not judge(0, "YES")


def test_likelihood_of_a_file_is_of_answers_texts_or_ids(gsm8k, tmp_path):
    metric = build_metric(f"{gsm8k}:likelihood", MetricOptions(limit=1, prompt="{question} "))
    assert metric.rows == [{"prompt": "How many? ", "completion": "3 + 4 = <<3+4=7>>7 of them.\n#### 7"}]
    for row in ({"text": "abc"}, {"input_ids": [1, 2], "labels": [-100, 2]}):
        path = tmp_path / "rows.jsonl"
        path.write_text(json.dumps(row) + "\n")
        assert build_metric(f"{path}:likelihood", MetricOptions()).rows == [row]


def test_choices_of_a_file(tmp_path):
    path = tmp_path / "mc.jsonl"
    rows = [
        {"question": "2+2?", "choices": ["4", "5"], "answer": "B"},
        {"question": "x", "choices": ["a", "b"], "answer": 0},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metric = build_metric(f"{path}:choice", MetricOptions())
    assert (metric.contexts, metric.answers) == (["2+2?", "x"], [1, 0])
    assert metric.choices == [[" 4", " 5"], [" a", " b"]]
    assert build_metric(f"{path}:choice", MetricOptions(separator="")).choices[0] == ["4", "5"]
    path.write_text(json.dumps(rows[0] | {"choices": ["4"]}) + "\n")
    with pytest.raises(ValueError, match=r"mc\.jsonl, line 1, column 'choices': must be a list of at least two texts"):
        build_metric(f"{path}:choice", MetricOptions())


def test_an_empty_prompt_is_refused_with_its_row(tmp_path):
    """`generate` would refuse it in the middle of the run, by its place in a batch."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "a", "answer": "b"}\n{"question": "", "answer": "b"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2: the prompt is empty"):
        build_metric(str(path), MetricOptions())
    assert len(build_metric(str(path), MetricOptions(template=ReasoningTemplate(1, 1))).prompts) == 2
    assert len(build_metric(f"{path}:likelihood", MetricOptions()).rows) == 2


@pytest.mark.parametrize(
    ("spec", "options", "message"),
    [
        ("sudoku-5x5", {}, "got 5"),
        ("sudoku-4x6", {}, "Got 'sudoku-4x6'"),
        ("sudoku:choice", {}, "has no choices"),
        ("zebra-4", {}, "Got 'zebra-4'"),
        ("kakuro", {}, r"`tasks` takes answer_first, .* zebra .*Got 'kakuro'"),
        ("nothing.jsonl", {}, "no file nothing.jsonl"),
        ("FILE", {"question_field": "q"}, "`question_field`"),
        ("FILE", {"answer_field": "a"}, "`answer_field`"),
        ("FILE", {"prompt": "{hint}"}, "hint"),
        ("FILE:choice", {}, "'choices'"),
        ("FILE", {"answer_filter": "number"}, "'number'"),
        ("FILE", {"limit": 0}, "got 0"),
    ],
)
def test_what_is_wrong_is_said(spec, options, message, gsm8k):
    with pytest.raises(ValueError, match=message):
        build_metric(spec.replace("FILE", str(gsm8k)), MetricOptions(**options))
