"""Tokenizers whose tokens are the characters and numbers of a task, and the answer in what they decode."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["CHARACTERS", "NUMBERS", "before_eos", "symbol_tokenizer"]

CHARACTERS = r"[\s\S]"
NUMBERS = r"\d+|\D"  # a number is one token
SPECIAL = ("<pad>", "<eos>", "<mask>")


def symbol_tokenizer(
    symbols: Iterable[str], *, pattern: str = CHARACTERS, model_max_length: int
) -> PreTrainedTokenizerFast:
    """
    A tokenizer with the special tokens `<pad>`, `<eos>` and `<mask>`, then one token for each of `symbols`.

    Nothing is added to a text and decoding restores it exactly. "<eos>" in a text is the one end-of-sequence token.
    What is no symbol is an error, there is no unknown token.

    Args:
        symbols: all tokens but the special ones, in the order of their ids.
        pattern (`str`): regular expression of a token; a character by default.
    """
    # Imported here: instances can be drawn and looked at before transformers has loaded.
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({token: i for i, token in enumerate([*SPECIAL, *symbols])}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        mask_token="<mask>",
        clean_up_tokenization_spaces=False,
        model_max_length=model_max_length,
    )


def before_eos(text: str) -> str:
    """The answer in a decoded completion: what precedes the first `<eos>`, without `<pad>` or blanks at its end."""
    return re.sub(r"(<pad>|\s)+\Z", "", text.partition("<eos>")[0])
