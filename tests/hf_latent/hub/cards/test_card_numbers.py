"""Which numbers of a card need a source, and when a file holds them."""

import json

import pytest

from hf_latent.hub.cards.numbers import is_known, known_numbers, shown_numbers, unknown_numbers

TEXT = """# Model 9000

It solves 99.6 % in 1.69 forwards with `entropy_threshold=0.2`, 4x4 boards, two draws of 8 questions, see
arXiv 2510.19990 and [here](page-777.md); 134,515,584 parameters, 220 updates.

| size 4711 | right |
|---|---|
| 4 | 73/75 |

```
print(123.456)
```
"""


def test_tables_percentages_decimals_and_large_numbers_need_a_source():
    """Would catch a walk that skips tables, and one that stumbles over names, code and papers."""
    assert shown_numbers(TEXT) == ["99.6", "1.69", "134,515,584", "220", "4", "73", "75"]


@pytest.mark.parametrize(
    ("shown", "number", "expected"),
    [
        ("0.99", 0.9851, True),
        ("0.99", 0.9849, False),
        ("98.5", 0.9851, True),  # a percentage
        ("98.6", 0.9851, False),
        ("1,024", 1024.0, True),
        ("12", 12.4, True),
        ("13", 12.4, False),
        ("1000000.0", 1e6, True),
    ],
)
def test_a_number_is_known_when_one_rounds_to_it(shown, number, expected):
    assert is_known(shown, [number]) is expected


def test_ratios_and_means_follow_from_results(tmp_path):
    """20 forwards at one token a forward against 1.6 are 12.5 times fewer; 3 seconds for 24 boards are 0.125."""
    rows = [
        {"forwards_per_example": 20.0, "tokens_per_forward": 1.0, "num_examples": 24, "seconds": 48.0},
        {"forwards_per_example": 1.6, "tokens_per_forward": 12.5, "num_examples": 24, "seconds": 3.0},
    ]
    (tmp_path / "decoding_results.json").write_text(json.dumps({"command": "python x.py", "results": rows}))
    assert unknown_numbers("12.5 times fewer, in 0.125 s", tmp_path) == []
    assert unknown_numbers("12.7 times fewer, in 0.126 s", tmp_path) == ["12.7", "0.126"]


def test_the_log_counts_when_the_run_names_its_command(tmp_path):
    (tmp_path / "training_log.jsonl").write_text('{"loss": 1.2345}\n')
    assert known_numbers(tmp_path) == []
    (tmp_path / "run.json").write_text(json.dumps({"command": ["train.py"], "seed": 3}))
    assert known_numbers(tmp_path) == [1.2345, 3.0]
