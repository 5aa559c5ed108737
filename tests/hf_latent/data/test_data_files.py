"""Files are read as they are written, by training, evaluation and traces alike; what is wrong has a place."""

import gzip
import json

import pytest
from datasets import Dataset

from hf_latent.data import read_questions
from hf_latent.data.data_files import check_features, read_rows, text_of, to_dataset
from hf_latent.evaluation.metric_specs import MetricOptions, build_metric
from hf_latent.training.common.sources import TrainArguments, load_data

ROWS = [{"question": "1+1", "answer": "2"}, {"question": "2+2", "answer": "4"}]
# What some readers take for the end of a line, or for nothing.
SEPARATORS = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei"


def write_lines(path, rows, start=""):
    path.write_bytes((start + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)).encode())
    return path


def pairs(path):
    """Questions and answers as the training, the evaluation and the traces reader have them."""
    train, _, _ = load_data(TrainArguments(train_file=str(path), prompt_column="question", completion_column="answer"))
    metric = build_metric(str(path), MetricOptions())
    found = read_questions(str(path))
    likely = build_metric(f"{path}:likelihood", MetricOptions())
    sides = [(row["prompt"], row["completion"]) for row in likely.rows]
    trained = list(zip(train["prompt"], train["completion"], strict=True))
    evaluated = list(zip(metric.prompts, metric.references, strict=True))
    assert trained == evaluated == list(zip(*found, strict=True)) == sides
    return trained


@pytest.mark.parametrize("start", ["", "\ufeff"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "lines.json", "a.csv", "a.tsv", "a.jsonl.gz", "a.parquet"])
def test_every_kind_of_file_is_read_alike(tmp_path, name, start):
    rows = [*ROWS, {"question": SEPARATORS, "answer": f"'{SEPARATORS}', \"x\""}]
    path, lines = tmp_path / name, start + "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if name.endswith("parquet"):
        Dataset.from_list(rows).to_parquet(path)
    elif name.endswith("gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif name == "a.json":
        path.write_bytes((start + json.dumps(rows, ensure_ascii=False, indent=1)).encode())
    elif name in ("a.csv", "a.tsv"):
        cells = [list(rows[0]), *(list(row.values()) for row in rows)]
        quoted = [['"' + cell.replace('"', '""') + '"' for cell in row] for row in cells]
        separator = "," if name == "a.csv" else "\t"
        path.write_bytes((start + "".join(separator.join(row) + "\r\n" for row in quoted)).encode())
    else:
        path.write_bytes(lines.replace("\n", "\r\n\n").encode())  # as on Windows, with empty lines
    assert read_rows(path) == rows
    assert read_rows(path, limit=1) == rows[:1]
    assert pairs(path) == [(row["question"], row["answer"]) for row in rows]


def test_numbers_are_texts_and_texts_stay_texts(tmp_path):
    """datasets reads "007" as 7 and "null" as nothing in a column that mixes numbers and texts."""
    answers = ["007", 7, "null", "true", 7.5, "1e3", "[1]", -0.0, 10**30]
    path = write_lines(tmp_path / "a.jsonl", [{"question": f"q{n}", "answer": a} for n, a in enumerate(answers)])
    wanted = ["007", "7", "null", "true", "7.5", "1e3", "[1]", "-0.0", "1" + "0" * 30]
    assert [answer for _, answer in pairs(path)] == wanted
    write_lines(tmp_path / "n.jsonl", [{"question": 12, "answer": n} for n in range(3)])
    assert pairs(tmp_path / "n.jsonl") == [("12", "0"), ("12", "1"), ("12", "2")]


def test_a_column_may_first_appear_after_megabytes(tmp_path):
    """datasets raises where a later part of a file has a column that the first had not."""
    rows = [{"question": "q" * 5000, "answer": "a"} for _ in range(2200)] + [{**ROWS[0], "hint": "h", "other": [1]}]
    assert len(pairs(write_lines(tmp_path / "a.jsonl", rows))) == 2201


def test_several_right_answers_and_conversations(tmp_path):
    """Evaluation takes any of them, training the first; messages are a conversation everywhere."""
    path = write_lines(tmp_path / "a.jsonl", [{"question": "q", "answer": ["two", 2]}, ROWS[0]])
    assert build_metric(str(path), MetricOptions()).references == [["two", "2"], "2"]
    arguments = {"prompt_column": "question", "completion_column": "answer"}
    assert list(load_data(TrainArguments(train_file=str(path), **arguments))[0]["completion"]) == ["two", "2"]
    talk = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    write_lines(path, [{"prompt": talk[:1], "completion": talk[1:]}])
    assert load_data(TrainArguments(train_file=str(path)))[0][0] == {"prompt": talk[:1], "completion": talk[1:]}
    metric = build_metric(str(path), MetricOptions())
    assert (metric.prompts, metric.references) == ([talk[:1]], ["Ho"])
    found = read_questions(str(path), question_column="prompt", answer_column="completion")
    assert found == ([talk[:1]], ["Ho"])
    write_lines(path, [{"messages": talk}])
    assert load_data(TrainArguments(train_file=str(path)))[0]["messages"] == [talk]
    metric = build_metric(str(path), MetricOptions())
    assert (metric.prompts, metric.references) == ([talk[:1]], ["Ho"])


def test_training_knows_the_names_that_evaluation_knows(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", ROWS)
    train, _, _ = load_data(TrainArguments(train_file=str(path)))
    assert train.to_list() == [{"prompt": row["question"], "completion": row["answer"]} for row in ROWS]


NOT_TEXT = [
    (None, "must be a text or a number, got null"),
    ("", "is empty"),
    (" \n", "is empty"),
    (True, "must be a text or a number, got true"),
    ({"a": 1}, "must be a text or a number, got {'a': 1}"),
    ([], "got an empty list"),
    ([None], "item 0: must be a text or a number, got null"),
    (["x", ["y"]], r"item 1: must be a text or a number, got \['y'\]"),
    ("\ud800", "half a character"),
]


@pytest.mark.parametrize(("answer", "message"), NOT_TEXT)
def test_what_is_no_answer_is_refused_by_every_reader_with_its_place(tmp_path, answer, message):
    """An answer of null was counted as a wrong answer, and stopped training in the middle of a library."""
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, {"question": "q", "answer": answer}]))
    place = (
        rf"a\.jsonl, line 3, column 'answer', {message}"
        if "item" in message
        else rf"a\.jsonl, line 3, column 'answer': .*{message}"
    )
    for spec in (str(path), f"{path}:likelihood"):
        with pytest.raises(ValueError, match=place):
            build_metric(spec, MetricOptions())
    with pytest.raises(ValueError, match=place):
        read_questions(str(path))
    arguments = {"prompt_column": "question", "completion_column": "answer"}
    with pytest.raises(ValueError, match=place):
        load_data(TrainArguments(train_file=str(path), **arguments))
    with pytest.raises(ValueError, match=place):
        load_data(
            TrainArguments(train_file=str(write_lines(tmp_path / "b.jsonl", ROWS)), eval_file=str(path), **arguments)
        )


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": ', "a.jsonl, line 2: is not JSON"),
        ("a.jsonl", b'{"a": 1}\n\n3\n', "a.jsonl, line 3: must be an object, got int"),
        ("a.jsonl", b'{"a": 1}\n{"a": NaN}\n', "a.jsonl, line 2: is not JSON: NaN is no JSON"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl, line 2: is not UTF-8"),
        ("a.jsonl", '{"a": 1}\n'.encode("utf-16"), "a.jsonl, line 1: is not UTF-8"),
        ("a.jsonl", b"\n", "no rows"),
        ("a.jsonl", b"", "no rows"),
        ("a.json", b"[]", "no rows"),
        ("a.json", b'{"a": 1}', "must hold a list of objects, got dict"),
        ("a.json", b"[1", "a.json: is not JSON"),
        ("a.json", b"[[1]]", "a.json, row 0: must be an object, got list"),
        ("a.json", b'{"a": 1}\n{"a": 1\n', "a.json, line 2: is not JSON"),
        ("a.csv", b"a,b\n1,2\n3\n", r"a.csv, line 3: has 1 values for the 2 columns \['a', 'b'\]"),
        ("a.csv", b"a,a\n1,2\n", r"a.csv, line 1: columns are named twice: \['a'\]"),
        ("a.csv", b'a,b\n1,"2\n', "a.csv, line 2: is not CSV"),
        ("a.csv", b"a,b\n\xff,2\n", "a.csv, behind line 0: is not UTF-8"),
        ("a.csv", b"a,b\n", "no rows"),
        ("a.parquet", b"PAR1 and no more", "a.parquet is not Parquet"),
        ("a.jsonl.gz", b"no gzip", "a.jsonl.gz cannot be unpacked"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line_with_its_place(tmp_path, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        read_rows(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_columns_are_named(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [*ROWS, {"question": "q"}])
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: there is no 'answer'; it has \['question'\]"):
        build_metric(str(path), MetricOptions())
    with pytest.raises(ValueError, match=r"a\.jsonl, line 3: there is no 'answer'"):
        load_data(TrainArguments(train_file=str(path)))
    write_lines(path, [{"ask": "q", "full": "a"}])
    with pytest.raises(ValueError, match=r"a\.jsonl has no column \['completion', 'prompt'\]; it has \['ask', 'f"):
        load_data(TrainArguments(train_file=str(path)))
    with pytest.raises(ValueError, match=r"there is no file"):
        load_data(TrainArguments(train_file=str(tmp_path / "none.jsonl")))


def test_what_datasets_has_changed_is_refused(tmp_path):
    """A folder of files is read by datasets, which leaves no trace of what stood there but the feature."""
    write_lines(tmp_path / "train.jsonl", [{"question": "q", "answer": "007"}, {"question": "q", "answer": 7}])
    from datasets import load_dataset

    data = load_dataset("json", data_files=str(tmp_path / "train.jsonl"), split="train", cache_dir=str(tmp_path / "c"))
    assert data[0]["answer"] == 7  # as of datasets 5.2; otherwise the check is not needed
    with pytest.raises(ValueError, match="here, column 'answer': mixes texts with numbers"):
        check_features(data, "here")


def test_columns_that_no_feature_holds_become_text(tmp_path):
    rows = read_rows(write_lines(tmp_path / "a.jsonl", [{"text": "a", "x": 1}, {"text": "b", "x": "1"}]))
    assert to_dataset(rows, ("text",)).to_list() == [{"text": "a", "x": "1"}, {"text": "b", "x": '"1"'}]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), b"x", (1,)])
def test_what_is_no_number_is_no_text(value):
    with pytest.raises(ValueError, match="here: must be a text or a number"):
        text_of(value, "here")
