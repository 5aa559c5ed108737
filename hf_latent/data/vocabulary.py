"""Texts that a tokenizer has no tokens for, said by name: small vocabularies have none for what is unknown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def naming(place: str) -> Iterator[None]:
    """
    Within, a tokenizer that has no token for a part of a text raises a `ValueError` that names the `place`.

    By itself it raises a bare `Exception`, which says neither text nor place.
    """
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:  # of a class without a name: tokenizers has no own
            raise
        raise ValueError(f"{place} holds what the tokenizer has no token for: {error}.") from error


@contextmanager
def naming_rows(name: str, tokenizer: Any, rows: Iterable[Mapping[str, Any]]) -> Iterator[None]:
    """[`naming`] for many rows at once: which of them it is is looked for where one was refused."""
    try:
        yield
    except Exception as error:
        if type(error) is not Exception:
            raise
        for number, row in enumerate(rows):
            for column, value in row.items():
                for text in _texts(value):
                    with naming(f"{name}, row {number}, column {column!r}: {text[:80]!r}"):
                        tokenizer(text)
        raise


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _texts(one)
    elif isinstance(value, Mapping):
        yield from _texts(value.get("content"))


__all__ = ["naming", "naming_rows"]
