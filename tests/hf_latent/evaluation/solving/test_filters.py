"""What of an answer is compared."""

import pytest

from hf_latent.evaluation.solving.filters import ANSWER_FILTERS, is_match


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("exact", " 12\n", "12"),
        ("first_line", "\n\n yes \nno", "yes"),
        ("last_number", "3 and 4 make 7.", "7"),
        ("last_number", "It costs $1,080.00 in all", "1080"),
        ("last_number", "-0.50 degrees", "-0.5"),
        ("last_number", "minus zero is -0", "0"),
        ("last_number", "room 007", "7"),
        ("last_number", "nothing", None),
        ("gsm8k", "She makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),
        ("gsm8k", "#### 70,000 and 3 more", "70000"),
        ("gsm8k", "So 3 + 4 = 7", "7"),
        ("boxed", r"thus \boxed{\frac{1}{2}} is it", r"\frac{1}{2}"),
        ("boxed", r"\boxed{1} or \boxed{2}", "2"),
        ("boxed", r"\boxed{1", None),
        ("boxed", "1", None),
        ("letter", "The answer is (B) because A", "B"),
        ("letter", "C", "C"),
        ("letter", "none of Them", None),
    ],
)
def test_a_filter_finds(name, text, found):
    assert ANSWER_FILTERS[name](text) == found


def test_answers_match_after_the_filter_and_nothing_matches_nothing():
    """Two texts without a number are not the same number."""
    assert is_match("so it is 18.0", "work...\n#### 18", "gsm8k")
    assert not is_match("so it is 17", "#### 18", "gsm8k")
    assert is_match("b", ["a", "b "], "exact")
    assert not is_match("none", "none at all", "last_number")


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValueError, match="'number'"):
        is_match("1", "1", "number")
