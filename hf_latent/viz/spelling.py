"""Tokens as text, one by one and beside each other: a character may be spread over several of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BROKEN = "\ufffd"  # what decoding puts where bytes are no whole character
# A character has at most 4 bytes, what is shown as one (flags, families) several characters: of those each is shown.
MOST_PIECES = 8


class Speller:
    """
    Texts of tokens in their places.

    A token of which the bytes are no whole character (of emoji, rare letters, under a byte-level tokenizer) has no
    text alone. With its neighbours it has: the first of them shows it, the others nothing.

    Args:
        tokenizer: gives the tokens their text.
        apart: ids that are never part of a text, e.g. the mask and special tokens; ids below 0 are not, either.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, apart: frozenset[int] | set[int] = frozenset()) -> None:
        self.tokenizer, self.apart = tokenizer, frozenset(apart)
        self.text = lru_cache(maxsize=None)(self._text)
        self.is_piece = lru_cache(maxsize=None)(self._is_piece)
        self._together = lru_cache(maxsize=4096)(self._decode)

    def texts(self, ids: Sequence[int]) -> list[str]:
        """Text of each position: "" for those whose text stands before them, and for ids below 0."""
        found: list[str] = []
        while len(found) < len(ids):
            begin = len(found)
            if ids[begin] < 0:
                found.append("")
                continue
            end, text = self._whole(ids, begin)
            found += [text, *[""] * (end - begin - 1)]
        return found

    def _whole(self, ids: Sequence[int], begin: int) -> tuple[int, str]:
        """Where the shortest text that begins there ends, and the text; that of the token alone if there is none."""
        if ids[begin] not in self.apart and self.is_piece(ids[begin]):
            for end in range(begin + 2, min(begin + MOST_PIECES, len(ids)) + 1):
                if ids[end - 1] < 0 or ids[end - 1] in self.apart:
                    break
                text = self._together(tuple(ids[begin:end]))
                if text and BROKEN not in text:
                    return end, text
        return begin + 1, self.text(ids[begin])

    def _decode(self, ids: tuple[int, ...]) -> str:
        return str(self.tokenizer.decode(list(ids)))

    def _is_piece(self, token: int) -> bool:
        return BROKEN in self._decode((token,))

    def _text(self, token: int) -> str:
        text = self._decode((token,))
        # Models have more rows in their embedding than their tokenizer has tokens.
        name = self.tokenizer.convert_ids_to_tokens(token) or f"<{token}>"
        if BROKEN in text:
            return bytes_of(name)
        if not text:
            return name
        # Decoding a single piece drops the space that sentencepiece writes into its name.
        return f" {text}" if name.startswith("\u2581") and not text.startswith(" ") else text


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Text of one token, with its leading space; a piece of a character as its bytes, `<0xF0>`."""
    return Speller(tokenizer).text(token)


def bytes_of(name: str) -> str:
    """The name of a piece in a byte-level vocabulary, whose letters stand for bytes, as bytes; any other as it is."""
    alphabet = _byte_alphabet()
    if re.fullmatch(r"(<0x[0-9A-F]{2}>)+", name) or not all(letter in alphabet for letter in name):
        return name
    return "".join(f"<0x{alphabet[letter]:02X}>" for letter in name)


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    """Letter to byte of byte-level vocabularies: printable bytes are themselves, the others follow from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


__all__ = ["Speller", "bytes_of", "token_text"]
