"""Files of templates become wordings, and what is wrong in them is said with its line."""

import json

import pytest

from hf_latent.evaluation.metric_specs import MetricOptions, build_metric
from hf_latent.evaluation.sharded_runs import example_keys, run_key
from hf_latent.evaluation.solving.wordings import Wording, check_spelling, read_wordings
from hf_latent.tasks import sudoku_tokenizer


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_and_lines_are_the_same_wordings(tmp_path):
    rows = [{"template": "Q: {question}\nA:", "name": "short"}, {"template": "{question} {x}"}]
    found = read_wordings(write(tmp_path / "t.jsonl", rows))
    assert found == [Wording("short", "Q: {question}\nA:"), Wording("2", "{question} {x}")]
    assert found[1].ask("1+1? {question}") == "1+1? {question} {x}", "other braces are plain text"
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfQ: {question}\\nA:\r\n\n{question} {x}\n")
    lines = read_wordings(tmp_path / "t.txt")
    assert [w.template for w in lines] == [w.template for w in found] and [w.name for w in lines] == ["1", "2"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"template": "{question}"}, {"template": "none"}],
            r"t\.jsonl, line 2, column 'template': .* 0 times: 'none'",
        ),
        ([{"template": "{question}{question}"}], "line 1, .* 2 times"),
        ([{"text": "{question}"}], r"line 1: knows .*\['text'\]"),
        ([{"name": "a"}], "line 1: there is no 'template'"),
        ([{"template": "{question}", "name": "a|b"}], "line 1, column 'name': must be one line .* 'a|b'"),
        ([{"template": 5}], "line 1, column 'template': must hold"),
        ([{"template": "{question}"}, {"template": "{question}"}], "line 2: the template '{question}' is there twice"),
        (
            [{"template": "{question}", "name": "2"}, {"template": "{question}."}],
            "line 2: the name '2' is there twice",
        ),
    ],
)
def test_a_bad_row_is_named(rows, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_wordings(write(tmp_path / "t.jsonl", rows))


def test_a_bad_file_is_named(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\n")
    with pytest.raises(ValueError, match=r"t\.txt has no templates"):
        read_wordings(tmp_path / "t.txt")
    (tmp_path / "t.txt").write_bytes(b"{question}\n\xff{question}\n")
    with pytest.raises(ValueError, match=r"t\.txt, line 2: is not UTF-8"):
        read_wordings(tmp_path / "t.txt")
    with pytest.raises(ValueError, match="there is no file"):
        read_wordings(tmp_path / "u.txt")


def test_a_template_that_a_tokenizer_cannot_spell_is_refused():
    check_spelling(Wording("digits", "12{question}"), "34", sudoku_tokenizer())
    with pytest.raises(ValueError, match=r"no tokens for all of wording 'solve', 'Solve \{question\}'"):
        check_spelling(Wording("solve", "Solve {question}"), "34", sudoku_tokenizer())


def test_a_wording_is_part_of_what_is_asked_and_of_the_identity(tmp_path):
    """Its name is not: a renamed wording is measured once. Without a wording nothing changes."""
    path = write(tmp_path / "a.jsonl", [{"question": "2+2?", "answer": "4", "choices": ["4", "5"]}])
    ask = Wording("a", "Q: {question}\nA:")
    plain, worded, renamed = (
        build_metric(str(path), MetricOptions(wording=w)) for w in (None, ask, Wording("b", ask.template))
    )
    assert worded.examples == [("Q: 2+2?\nA:", "4")] and plain.examples == [("2+2?", "4")]
    keys = [run_key({}, metric, {}) for metric in (plain, worded, renamed)]
    assert keys[0] != keys[1] == keys[2] and "template" not in plain.identity
    assert example_keys(worded) == example_keys(renamed) != example_keys(plain)
    assert worded.question_digest == plain.question_digest, "the same questions, asked otherwise"
    assert build_metric(f"{path}:likelihood", MetricOptions(wording=ask)).examples[0]["prompt"] == "Q: 2+2?\nA:"
    assert build_metric(f"{path}:choice", MetricOptions(wording=ask)).examples[0][0] == "Q: 2+2?\nA:"
    task = build_metric("countdown-3", MetricOptions(limit=1, wording=ask), {})
    assert task.examples[0][0] == ask.ask(task.prompts[0]) and task.judge(0, task.references[0])


def test_what_has_no_question_cannot_be_worded(tmp_path):
    ask = MetricOptions(wording=Wording("a", "Q: {question}"))
    path = write(tmp_path / "a.jsonl", [{"text": "abc"}])
    with pytest.raises(ValueError, match="`templates` word questions"):
        build_metric(f"{path}:likelihood", ask)
    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    with pytest.raises(ValueError, match="`templates` word questions that are texts, got a conversation"):
        build_metric(str(write(tmp_path / "b.jsonl", [{"messages": talk}])), ask)
