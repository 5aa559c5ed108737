"""The reasoning template: its ids as documented, what is refused, and its two texts out of what a model writes."""

from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from hf_latent import LladaForMaskedDiffusion, ReasoningTemplate

EOS, PAD, MASK = 45, 46, 47
TEMPLATE = ReasoningTemplate(reasoning_length=4, answer_length=2, delimiter="w10 w11", suffix="w12")
BEHIND = [MASK] * 4 + [10, 11] + [MASK] * 2 + [12]
ANSWER = [False] * 6 + [True] * 2 + [False]


@pytest.fixture(scope="module")
def make_tokenizer(make_words: Callable) -> Callable[..., PreTrainedTokenizerFast]:
    """One word per token: `w0` ... `w44`, `<eos>`, `<pad>`, `<mask>`; a conversation is `w1 text w2` a message."""

    def make(*special: str) -> PreTrainedTokenizerFast:
        tokenizer = make_words(EOS, special)
        tokenizer.chat_template = (
            "{% for m in messages %}w1 {{ m['content'] }} w2 {% endfor %}{% if add_generation_prompt %}w3{% endif %}"
        )
        return tokenizer

    return make


@pytest.fixture(scope="module")
def words(make_tokenizer: Callable) -> PreTrainedTokenizerFast:
    return make_tokenizer("eos", "pad", "mask")


@pytest.fixture(scope="module")
def model(make_llada: Callable) -> LladaForMaskedDiffusion:
    """Random, in float64 and far from ties."""
    fields = {"vocab_size": 48, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
    special = {"eos_token_id": EOS, "pad_token_id": PAD, "mask_token_id": MASK}
    return make_llada(**fields, **special, initializer_range=0.3).double()


def test_one_question(words: PreTrainedTokenizerFast) -> None:
    inputs = TEMPLATE.apply(words, "w20 w21")
    assert set(inputs) == {"input_ids", "attention_mask", "answer_mask"}
    assert inputs["input_ids"].tolist() == [[20, 21, *BEHIND]]
    assert inputs["attention_mask"].tolist() == [[1] * 11]
    assert inputs["answer_mask"].tolist() == [[False, False, *ANSWER]]
    assert [inputs[name].dtype for name in ("input_ids", "attention_mask", "answer_mask")] == [
        torch.int64,
        torch.int64,
        torch.bool,
    ]
    assert inputs.to("cpu")["answer_mask"].dtype == torch.bool


@pytest.mark.parametrize("side", ["left", "right"])
def test_questions_of_unequal_length_are_padded(words: PreTrainedTokenizerFast, side: str) -> None:
    inputs = TEMPLATE.apply(words, ["w20 w21 w22", "w23"], padding_side=side)
    left = side == "left"
    short, no = [23, *BEHIND], [False, *ANSWER]
    assert inputs["input_ids"].tolist() == [[20, 21, 22, *BEHIND], [PAD, PAD, *short] if left else [*short, PAD, PAD]]
    assert inputs["attention_mask"].tolist() == [[1] * 12, [0, 0, *[1] * 10] if left else [*[1] * 10, 0, 0]]
    assert inputs["answer_mask"].tolist() == [
        [False, False, False, *ANSWER],
        [False, False, *no] if left else [*no, False, False],
    ]


def test_padding_is_on_the_left_if_nothing_is_said(words: PreTrainedTokenizerFast) -> None:
    assert TEMPLATE.apply(words, ["w20 w21", "w23"])["input_ids"][1].tolist() == [PAD, 23, *BEHIND]


def test_without_delimiter_and_suffix(words: PreTrainedTokenizerFast) -> None:
    inputs = ReasoningTemplate(1, 1, delimiter="").apply(words, ("w20",))
    assert inputs["input_ids"].tolist() == [[20, MASK, MASK]]
    assert inputs["answer_mask"].tolist() == [[False, False, True]]


def test_texts_and_conversations(words: PreTrainedTokenizerFast) -> None:
    """Texts are taken as they are unless `chat`; conversations always go through the chat template."""
    talk = [{"role": "user", "content": "w20"}, {"role": "assistant", "content": "w21"}]

    def question(questions: list, **options: object) -> list[list[int]]:
        return [row[: -len(BEHIND)].tolist() for row in TEMPLATE.apply(words, questions, **options)["input_ids"]]

    assert question(["w20"]) == question(["w20"], chat=False) == [[20]]
    assert question(["w20"], chat=True) == [[1, 20, 2, 3]]
    assert question([talk]) == question([talk], chat=True) == [[1, 20, 2, 1, 21, 2, 3]]
    assert question([talk, "w30"]) == [[1, 20, 2, 1, 21, 2, 3], [PAD] * 6 + [30]]
    assert question([talk], add_generation_prompt=False) == [[1, 20, 2, 1, 21, 2]]
    assert question(["w20"], chat=True, chat_template="w5 {{ messages[0]['content'] }}") == [[5, 20]]


def test_a_mask_token_may_be_given(make_tokenizer: Callable) -> None:
    """Tokenizers of published checkpoints often have none."""
    bare = make_tokenizer("eos")
    inputs = TEMPLATE.apply(bare, ["w20 w21", "w22"], mask_token_id=MASK)
    assert inputs["input_ids"].tolist() == [[20, 21, *BEHIND], [EOS, 22, *BEHIND]], "padded by end-of-sequence"
    with pytest.raises(ValueError, match="`mask_token_id` is needed, as the tokenizer has none"):
        TEMPLATE.apply(bare, "w20")
    other = TEMPLATE.apply(make_tokenizer("mask"), "w20", mask_token_id=40)
    assert (other["input_ids"] == 40).sum() == 6
    assert MASK not in other["input_ids"]


def test_questions_of_equal_length_need_no_padding_token(make_tokenizer: Callable) -> None:
    bare = make_tokenizer("mask")
    assert TEMPLATE.apply(bare, ["w20", "w21"])["input_ids"].tolist() == [[20, *BEHIND], [21, *BEHIND]]
    with pytest.raises(ValueError, match="`questions` of unequal length need a padding token"):
        TEMPLATE.apply(bare, ["w20", "w21 w22"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reasoning_length": 0}, "`reasoning_length` must be an integer of at least 1, got 0"),
        ({"answer_length": 2.0}, "`answer_length` must be an integer of at least 1, got 2.0"),
        ({"answer_length": True}, "`answer_length` must be an integer of at least 1, got True"),
        ({"delimiter": None}, "`delimiter` must be a string, got None"),
        ({"suffix": 3}, "`suffix` must be a string, got 3"),
    ],
)
def test_a_bad_template_is_refused_by_name(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ReasoningTemplate(**({"reasoning_length": 4, "answer_length": 2} | arguments))


def test_bad_questions_are_refused_by_name(words: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="`questions` must hold at least one question, got none"):
        TEMPLATE.apply(words, [])
    with pytest.raises(ValueError, match=r"`questions` 1 holds the mask token \(47\)"):
        TEMPLATE.apply(words, ["w20", "w21 <mask>"])
    with pytest.raises(ValueError, match='`padding_side` must be "left" or "right", got \'middle\''):
        TEMPLATE.apply(words, "w20", padding_side="middle")
    for name in ("delimiter", "suffix"):
        holed = ReasoningTemplate(4, 2, **{name: "w10 <mask>"})
        with pytest.raises(ValueError, match=rf"`{name}` holds the mask token \(47\)"):
            holed.apply(words, "w20")


# Split.


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_two_texts_come_out_of_a_filled_template(words: PreTrainedTokenizerFast, side: str) -> None:
    """By hand; padding of an early exit and what ends a text are no text."""
    inputs = TEMPLATE.apply(words, ["w20 w21 w22", "w23"], padding_side=side)
    filled = inputs["input_ids"].clone()
    filled[filled == MASK] = torch.tensor([1, 2, 3, 4, 5, 6, 7, PAD, PAD, 8, 9, EOS])
    assert TEMPLATE.split(words, filled, inputs["answer_mask"]) == [("w1 w2 w3 w4", "w5 w6"), ("w7 w8", "w9")]
    first = TEMPLATE.split(words, filled, inputs["answer_mask"])[0]
    assert (first.reasoning, first.answer) == ("w1 w2 w3 w4", "w5 w6")


def test_several_samples_of_each_question(words: PreTrainedTokenizerFast) -> None:
    inputs = TEMPLATE.apply(words, ["w20 w21 w22", "w23"])
    filled = inputs["input_ids"].repeat_interleave(2, dim=0)
    filled[filled == MASK] = torch.arange(24)
    found = TEMPLATE.split(words, filled, inputs["answer_mask"])
    assert [answer for _, answer in found] == ["w4 w5", "w10 w11", "w16 w17", "w22 w23"]
    assert found[2].reasoning == "w12 w13 w14 w15"
    with pytest.raises(ValueError, match="`answer_mask` has 2 rows, which do not divide the 3 of `sequences`"):
        TEMPLATE.split(words, filled[:3], inputs["answer_mask"])


@pytest.mark.parametrize("threshold", [None, 2.5, 99.0])
@pytest.mark.parametrize("delimiter", ["", "w10 w11"])
def test_padding_does_not_change_what_is_written(
    words: PreTrainedTokenizerFast, model: LladaForMaskedDiffusion, threshold: float | None, delimiter: str
) -> None:
    """Left, right, alone; and with several samples of a question."""
    template = ReasoningTemplate(6, 2, delimiter, "w12")
    questions = ["w20 w21 w22", "w23", "w4 w5 w6 w7 w8"]
    knobs = {"early_exit_threshold": threshold, "block_length": 3, "return_dict_in_generate": True}
    found = {}
    for side in ("left", "right"):
        inputs = template.apply(words, questions, padding_side=side)
        out = model.generate(**inputs, **knobs)
        assert MASK not in out.sequences
        given = (inputs["input_ids"] != MASK) & (inputs["attention_mask"] == 1)
        assert torch.equal(out.sequences[given], inputs["input_ids"][given])
        texts = template.split(words, out.sequences, inputs["answer_mask"])
        found[side] = texts, out.exit_step.tolist(), out.num_forward_passes.tolist()
    assert found["left"] == found["right"]
    for i, question in enumerate(questions):
        inputs = template.apply(words, question)
        out = model.generate(**inputs, **knobs)
        assert template.split(words, out.sequences, inputs["answer_mask"]) == [found["left"][0][i]]
        assert out.exit_step.tolist() == [found["left"][1][i]]
    if threshold == 99.0:
        assert [text.reasoning for text in found["left"][0]] == [""] * 3, "left before it was begun"
    inputs = template.apply(words, questions)
    out = model.generate(**inputs, **(knobs | {"temperature": 1.0, "num_return_sequences": 2, "seed": 0}))
    assert len(template.split(words, out.sequences, inputs["answer_mask"])) == 6
