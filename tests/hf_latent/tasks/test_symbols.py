"""Tokens of characters and numbers, and where an answer ends."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer

from hf_latent.tasks.symbols import NUMBERS, before_eos, symbol_tokenizer


def test_ids_follow_the_order_of_the_symbols_and_texts_survive() -> None:
    tokenizer = symbol_tokenizer("\n ab", model_max_length=9)
    assert tokenizer("ab\n <mask>a<eos><pad>").input_ids == [5, 6, 3, 4, 2, 5, 1, 0]
    assert tokenizer.decode(tokenizer("ab\n <mask>a<eos><pad>").input_ids) == "ab\n <mask>a<eos><pad>"
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id) == (0, 1, 2)


def test_a_number_is_one_token_where_asked_for() -> None:
    tokenizer = symbol_tokenizer([",", "1", "12", "2"], pattern=NUMBERS, model_max_length=9)
    assert tokenizer("12,1,2").input_ids == [5, 3, 4, 3, 6]
    assert tokenizer.decode([5, 3, 4, 3, 6]) == "12,1,2"


def test_what_is_no_symbol_is_an_error() -> None:
    """An unknown token would be a target that no model can write."""
    with pytest.raises(Exception, match="UNK"):
        symbol_tokenizer("ab", model_max_length=9)("abc")


def test_a_saved_tokenizer_is_the_same(tmp_path) -> None:
    tokenizer = symbol_tokenizer([",", "1", "12"], pattern=NUMBERS, model_max_length=9)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded("12,1<mask>").input_ids == tokenizer("12,1<mask>").input_ids
    assert loaded.get_vocab() == tokenizer.get_vocab() and loaded.mask_token_id == 2


@pytest.mark.parametrize(
    ("text", "answer"),
    [("a\nb", "a\nb"), ("a<eos>b", "a"), ("a <pad>\n<pad><eos>", "a"), ("<eos>a", ""), ("<pad>a", "<pad>a")],
)
def test_an_answer_ends_at_the_first_end(text: str, answer: str) -> None:
    assert before_eos(text) == answer
