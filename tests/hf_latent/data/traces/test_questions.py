"""Questions from a task and from files, and answers out of a column that holds more."""

import json

import pytest
from datasets import Dataset

from hf_latent.data import questions_of_task, read_questions
from hf_latent.tasks import ArithmeticTask

ROWS = [{"question": f"q{i}", "answer": f"Because of {i}.\n#### {i:,}", "n": i} for i in (7, 1234, 5)]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("ending", ["jsonl", "json", "parquet", "csv"])
def test_files_of_every_kind(tmp_path, ending):
    path = tmp_path / f"data.{ending}"
    data = Dataset.from_list(ROWS)
    if ending == "json":
        path.write_text(json.dumps(ROWS))
    else:
        {"jsonl": data.to_json, "parquet": data.to_parquet, "csv": data.to_csv}[ending](str(path))
    found = read_questions(str(path), answer_pattern="#### (.*)")
    assert found == (["q7", "q1234", "q5"], ["7", "1,234", "5"])
    assert read_questions(str(path), answer_column="n", limit=2) == (["q7", "q1234"], ["7", "1234"])


def test_a_task_gives_its_prompts():
    problems = ArithmeticTask().generate(3, 5, split="test")
    found = questions_of_task("arithmetic", 3, 5, split="test")
    assert found.questions == [p["question"] + "\n" for p in problems]
    assert found.answers == [p["answer"] for p in problems]


def test_bad_sources_are_refused_by_name(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, {"question": "q", "answer": "", "n": 0}]))
    for options, message in (
        (
            {"question_column": "prompt"},
            r"`question_column` must be one of \['question', 'answer', 'n'\], got 'prompt'",
        ),
        ({"answer_column": "solution"}, "`answer_column` must be one of .*, got 'solution'"),
        ({"answer_pattern": "#### .*"}, "`answer_pattern` must have one group, got '#### .*'"),
        ({"answer_pattern": "#### (.*)"}, r"line 4, column 'answer': is empty"),
        (
            {"answer_pattern": "9(.*)"},
            r"line 1, column 'answer': `answer_pattern` \('9\(.\*\)'\) does not match 'Because",
        ),
        ({}, r"data\.jsonl, line 4, column 'answer': is empty"),
        ({"limit": 0}, "`limit` must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            read_questions(str(path), **options)
    with pytest.raises(ValueError, match="there is no file"):
        read_questions(str(tmp_path / "none.jsonl"))
    with pytest.raises(ValueError, match="`task` must be one of"):
        questions_of_task("chess", 3)
