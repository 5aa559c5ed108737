"""Traces come from the posterior, whatever the batch; what was given stays; misuse is refused."""

from collections import Counter

import pytest
import torch
from transformers.modeling_outputs import MaskedLMOutput

from hf_latent import (
    LatentTokenConfig,
    LatentTokenForMaskedDiffusion,
    ReasoningTemplate,
    sample_posterior_traces,
    score_traces,
)

EOS, PAD, MASK = 9, 10, 11
QUESTIONS, ANSWERS = ["w1 w2", "w3", "w5 w5 w0", "w4"], ["w4", "w4 w5", "w2", "w1"]


def sample(model, words, layout, questions=QUESTIONS, answers=ANSWERS, **kwargs):
    options = {"seed": 3, "decoding": "random", "num_cuts": 2} | kwargs
    return sample_posterior_traces(model, words, questions, answers, layout, **options).to_list()


def test_a_trace_is_a_function_of_seed_question_and_sample(tiny, words, layout):
    """Not of batch, neighbours, padding or how many samples are drawn; 4 random words agree by chance 1 in 6,561."""
    rows = sample(tiny, words, layout, num_traces=3, batch_size=5)
    assert [(row["question_id"], row["sample"]) for row in rows] == [(i, k) for i in range(4) for k in range(3)]
    traces = {(row["question_id"], row["sample"]): row["trace"] for row in rows}
    assert len(set(traces.values())) > 6
    one = sample(tiny, words, layout, num_traces=1, batch_size=1)
    assert [row["trace"] for row in one] == [traces[i, 0] for i in range(4)]
    part = sample(tiny, words, layout, QUESTIONS[2:], ANSWERS[2:], num_traces=3, question_ids=[2, 3])
    assert [row["trace"] for row in part] == [traces[i, k] for i in (2, 3) for k in range(3)]
    other = sample(tiny, words, layout, num_traces=3, seed=4)
    assert [row["trace"] for row in other] != [row["trace"] for row in rows]


def test_samples_follow_the_conditional_of_the_answer(tiny, words):
    """
    One token of reasoning: its frequencies over 3,000 samples are the model's distribution given the answer, within
    four standard errors (chance of a false alarm below 1 in 1,000), and not that given another answer.
    """
    template = ReasoningTemplate(1, 1, delimiter="w7")
    num = 3000

    def expected(answer: int) -> torch.Tensor:
        with torch.no_grad():
            logits = tiny(torch.tensor([[1, MASK, 7, answer]])).logits[0, 1]
        logits[MASK] = float("-inf")
        return logits.softmax(-1)

    rows = sample(tiny, words, template, ["w1"], ["w2"], num_traces=num, estimator=None, batch_size=1000)
    counts = Counter(row["trace"] for row in rows)
    wanted, other = expected(2), expected(5)
    shares = torch.tensor([counts[f"w{i}"] / num for i in range(9)])
    errors = (wanted[:9] * (1 - wanted[:9]) / num).sqrt()
    assert bool(((shares - wanted[:9]).abs() < 4 * errors).all())
    assert bool(((shares - other[:9]).abs() > 8 * errors).any()), "the answers must differ for this to prove anything"


def test_the_model_sees_the_answer_and_only_reasoning_is_written(tiny, words, layout, monkeypatch):
    """A model that copies what stands at the first position of the answer into the reasoning."""
    seen = []

    def forward(input_ids, logits_to_keep, attention_mask=None, **kwargs):
        rows, _ = logits_to_keep
        seen.append(input_ids)
        logits = torch.zeros(len(rows), 12)
        logits[torch.arange(len(rows)), input_ids[rows, -3]] = 30.0  # suffix, two of the answer
        return MaskedLMOutput(logits=logits)

    monkeypatch.setattr(tiny, "forward", forward)
    rows = sample(tiny, words, layout, estimator=None, temperature=0.0, decoding="entropy")
    assert [row["trace"] for row in rows] == ["w4 w4 w4 w4", "w4 w4 w4 w4", "w2 w2 w2 w2", "w1 w1 w1 w1"]
    assert [row["num_forward_passes"] for row in rows] == [4] * 4
    assert all(batch[0, -3:].tolist() == [4, EOS, 6] for batch in seen)
    assert "score" not in rows[0]


def test_a_row_says_where_it_comes_from(tiny, words, layout):
    row = sample(tiny, words, layout)[1]
    assert set(row) == {
        *("question", "answer", "trace", "question_id", "sample", "num_trace_tokens", "num_forward_passes"),
        *("score", "scores", "cuts", "estimator", "hide_answer", "seed", "model", "revision"),
    }
    assert (row["question"], row["answer"], row["seed"], row["estimator"]) == ("w3", "w4 w5", 3, "left_to_right")


def test_traces_are_scored_as_their_texts_are(tiny, words, layout):
    """The scores beside a trace are those that `score_traces` gives for its text."""
    rows = [row for row in sample(tiny, words, layout, num_traces=4) if "<" not in row["trace"]]
    columns = [[row[name] for row in rows] for name in ("question", "trace", "answer")]
    again = score_traces(tiny, words, *columns, layout, num_cuts=2, hide_answer=True)
    clean = [(row, score) for row, score in zip(rows, again, strict=True) if row["num_trace_tokens"] == score.cuts[-1]]
    assert len(clean) > 4
    for row, score in clean:
        assert row["scores"] == pytest.approx(score.scores, abs=1e-5)
        assert row["cuts"] == score.cuts


def test_conversations_are_questions_too(tiny, words, layout, monkeypatch):
    template = "{% for m in messages %}w1 {{ m['content'] }} {% endfor %}"
    monkeypatch.setattr(words, "chat_template", template)
    talk = [{"role": "user", "content": "w2"}]
    rows = sample(tiny, words, layout, [talk], ["w4"]) + sample(tiny, words, layout, ["w2"], ["w4"], chat=True)
    assert rows[0]["question"] == talk
    assert rows[0]["trace"] == rows[1]["trace"] == sample(tiny, words, layout, ["w1 w2"], ["w4"])[0]["trace"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_traces": 0}, "`num_traces` must be an integer of at least 1, got 0"),
        ({"num_traces": 2, "temperature": 0.0, "decoding": "entropy"}, "`num_traces`=2 gives equal traces"),
        ({"seed": None}, "`seed` must be an integer, got None"),
        ({"question_ids": [1, 1, 2, 3]}, "`question_ids` must be 4 different integers"),
        ({"question_ids": [-1, 1, 2, 3]}, r"`question_ids` must lie in \[0, "),
        ({"early_exit_threshold": 0.1}, "`early_exit_threshold` is not an argument of posterior sampling, got 0.1"),
        ({"answers": ["w1"]}, "`answers` must be one a question, a list of 4, got 1"),
        ({"questions": [], "answers": []}, "`questions` must hold at least one question, got none"),
        ({"decodng": "med"}, "Did you mean `decoding`"),
        ({"estimator": "exact"}, "`estimator` must be one of"),
    ],
)
def test_misuse_is_refused_before_any_forward(tiny, words, layout, monkeypatch, changes, message):
    def forward(*args, **kwargs):
        raise AssertionError("called")

    monkeypatch.setattr(tiny, "forward", forward)
    with pytest.raises(ValueError, match=message):
        sample(tiny, words, layout, **changes)


def test_a_model_that_does_not_see_the_answer_writes_no_posterior_trace(tiny, words, layout):
    """Block-causal attention hides later blocks: traces were drawn without the answer, in silence."""
    text = {"model_type": "llama", "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 12}
    kind = {"attention": "block_causal", "block_size": 4, "mask_token_id": MASK, "pad_token_id": PAD}
    blocks = LatentTokenForMaskedDiffusion(LatentTokenConfig(text_config=text, eos_token_id=EOS, **kind)).eval()
    with pytest.raises(
        ValueError, match=r"blocks of 4 positions.*without the known answer.*Use a bidirectional model"
    ):
        sample(blocks, words, layout)
    assert len(sample(blocks, words, layout, block_length=32)) == len(QUESTIONS)  # all in one block
    scores = score_traces(blocks, words, QUESTIONS, ["w1"] * 4, ANSWERS, layout, num_cuts=1)
    assert all(score.score < 0 for score in scores)
