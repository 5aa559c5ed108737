"""Named filters: what of a text is compared when an answer is matched."""

import re
from collections.abc import Callable, Sequence

_NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?"


def exact(text: str) -> str:
    """The text without blanks at its ends."""
    return text.strip()


def first_line(text: str) -> str:
    """The first line that is not blank."""
    return text.strip().partition("\n")[0].strip()


def last_number(text: str) -> str | None:
    """The last number: `"$1,080.00"` is `"1080"`."""
    found = re.findall(_NUMBER, text)
    return _plain(found[-1]) if found else None


def gsm8k(text: str) -> str | None:
    """The number behind `####`, as in GSM8K's answers; without it the last number."""
    match = re.search(rf"####\s*({_NUMBER})", text)
    return _plain(match.group(1)) if match else last_number(text)


def boxed(text: str) -> str | None:
    r"""What is in the last `\boxed{...}`, braces matched."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len(r"\boxed{")
    for place in range(begin, len(text)):
        if text[place] == "}" and depth == 0:
            return text[begin:place].strip()
        depth += {"{": 1, "}": -1}.get(text[place], 0)
    return None


def letter(text: str) -> str | None:
    """The first capital letter A-J that stands alone: `"(B) because"` is `"B"`."""
    match = re.search(r"(?<![A-Za-z])[A-J](?![A-Za-z])", text)
    return match.group(0) if match else None


def _plain(number: str) -> str:
    sign, digits = ("-" if number.startswith("-") else ""), re.sub(r"[-$,]", "", number)
    whole, _, decimals = digits.partition(".")
    decimals = decimals.rstrip("0")
    plain = (whole.lstrip("0") or "0") + (f".{decimals}" if decimals else "")
    return plain if plain == "0" else sign + plain


ANSWER_FILTERS: dict[str, Callable[[str], str | None]] = {
    function.__name__: function for function in (exact, first_line, last_number, gsm8k, boxed, letter)
}


def is_match(text: str, references: str | Sequence[str], answer_filter: str) -> bool:
    """
    Whether filtered `text` is one of the filtered `references`; a text in which the filter finds nothing matches none.

    Raises:
        ValueError: for an unknown filter.
    """
    if answer_filter not in ANSWER_FILTERS:
        raise ValueError(f"`answer_filter` must be one of {sorted(ANSWER_FILTERS)}, got {answer_filter!r}.")
    read = ANSWER_FILTERS[answer_filter]
    answer = read(text)
    return answer is not None and answer in [
        read(r) for r in ([references] if isinstance(references, str) else references)
    ]


__all__ = ["ANSWER_FILTERS", "is_match"]
