"""Templates with their parts filled in: ids by hand, what a model is trained on, what is refused."""

import pytest
import torch

from hf_latent import ReasoningTemplate
from hf_latent.data import fill_template, format_traces
from hf_latent.tasks import ArithmeticTask

EOS, PAD, MASK = 9, 10, 11


def test_parts_stand_where_the_template_leaves_room(words, layout):
    """By hand; a filler in the wrong block would teach the model to end where the delimiter is."""
    filled = fill_template(words, ["w1 w2", "w3"], ["w4", "w4 w5"], layout, traces=["w0 w4 w1", "w2"])
    assert filled.input_ids.tolist() == [
        [1, 2, 0, 4, 1, EOS, 7, 8, 4, EOS, 6],
        [PAD, 3, 2, EOS, EOS, EOS, 7, 8, 4, 5, 6],
    ]
    assert filled.valid.tolist() == [[True] * 11, [False] + [True] * 10]
    assert filled.reasoning[0].nonzero().flatten().tolist() == [2, 3, 4, 5]
    assert filled.answer.nonzero().tolist() == [[0, 8], [0, 9], [1, 8], [1, 9]]
    assert filled.num_reasoning.tolist() == [3, 1]
    assert filled.num_answer.tolist() == [2, 2], "an answer that fills its block has no end"
    assert filled.stated.nonzero().tolist() == [[0, 3]], "w4 is said in the first trace; w4 w5 not in the second"


def test_the_reasoning_stays_masked_without_traces(words, layout):
    filled = fill_template(words, ["w1"], ["w4"], layout)
    assert filled.input_ids.tolist() == [[1, MASK, MASK, MASK, MASK, 7, 8, 4, EOS, 6]]
    assert filled.num_reasoning.tolist() == [0]


def test_reasoning_ends_at_its_first_end(words, layout):
    """What a model writes behind an end-of-sequence token is no part of its trace."""
    filled = fill_template(words, ["w1"], ["w4"], layout)
    written = filled.with_reasoning(torch.tensor([[4, EOS, 4, 3]]), words, ["w4"])
    assert written.input_ids[0, 1:5].tolist() == [4, EOS, EOS, EOS]
    assert (written.num_reasoning.tolist(), written.stated.sum()) == ([1], 1)
    assert filled.input_ids[0, 1] == MASK, "the first is left alone"


def test_an_answer_is_stated_where_it_stands_alone():
    """48 is not stated in 148 or 480: masking those would hide what the answer follows from."""
    task = ArithmeticTask()
    tokenizer = task.tokenizer()
    template = ReasoningTemplate(task.reasoning_length, task.answer_length, task.delimiter)
    trace = "Ida 16*3=48. Finn 148+480=48. So Finn has 48 coins."
    filled = fill_template(tokenizer, ["Ida has 16 coins."], ["48"], template, traces=[trace])
    assert tokenizer.decode(filled.input_ids[filled.stated]) == "484848"
    ids = tokenizer(trace)["input_ids"]
    places = (filled.stated[filled.reasoning].nonzero().flatten()).tolist()
    assert [tokenizer.decode(ids[: place + 1])[-2:] for place in places] == ["=4", "48", "=4", "48", " 4", "48"]


def test_rows_to_train_on_are_those_of_the_task():
    """Token for token what `ArithmeticTask.format` and the trainer make of the human trace, question unsupervised."""
    task = ArithmeticTask()
    tokenizer = task.tokenizer()
    template = ReasoningTemplate(task.reasoning_length, task.answer_length, task.delimiter)
    problems = task.generate(20, seed=3)
    texts = [task.format(problem) for problem in problems]
    columns = ([t["prompt"] for t in texts], [p["reasoning"] for p in problems], [p["answer"] for p in problems])
    for row, text in zip(format_traces(tokenizer, *columns, template), texts, strict=True):
        prompt = tokenizer(text["prompt"])["input_ids"]
        completion = [*tokenizer(text["completion"])["input_ids"], tokenizer.eos_token_id]
        assert row == {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answers": ["w1", "w1 w2 w3"]}, r"`answers` must fit in `answer_length` \(2 tokens\), got 3 tokens at 1"),
        ({"answers": ["w1", ""]}, r"`answers` must not be empty, got '' at 1"),
        ({"answers": ["w1"]}, r"`answers` must be one a question, a list of 2, got 1"),
        ({"answers": "w1"}, r"`answers` must be one a question, a list of 2, got a string"),
        ({"answers": ["w1", 2]}, r"`answers` must hold texts, got 2 at 1"),
        ({"traces": ["w1", "w1 w1 w1 w1 w1"]}, r"`traces` must fit in `reasoning_length` \(4 tokens\), got 5"),
        ({"traces": ["w1 <mask>", "w1"]}, r"`traces` 0 holds the mask token \(11\)"),
        ({"traces": ["w1 <eos>", "w1"]}, r"`traces` 0 holds the end-of-sequence token \(9\)"),
        ({"traces": ["w1"]}, r"`traces` must be one a question, a list of 2, got 1"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(words, layout, changes, message):
    parts = {"answers": ["w1", "w2"], "traces": ["w1", "w2"]} | changes
    with pytest.raises(ValueError, match=message):
        fill_template(words, ["w1", "w2"], parts["answers"], layout, traces=parts["traces"])
    with pytest.raises(ValueError, match=message.replace(" 0 ", " . ").replace("at 1", "at .")):
        format_traces(words, ["w1", "w2"], parts["traces"], parts["answers"], layout)
