"""Lists and ranges become every decoder they mean, once, and nothing that `generate` would refuse."""

import pytest

from hf_latent import DiffusionGenerationConfig
from hf_latent.evaluation.grid import build_grid, parse_values


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.1:0.5:0.1", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("0.1:0.45:0.1", [0.1, 0.2, 0.3, 0.4]),
        ("4:16:4", [4, 8, 12, 16]),
        ("1:2:0.5", [1.0, 1.5, 2.0]),
        ("1e-3:3e-3:1e-3", [0.001, 0.002, 0.003]),
        ("0.3,0.1,0.3", [0.3, 0.1]),
        ("none,0.1:0.2:0.1", [None, 0.1, 0.2]),
        ("true,false", [True, False]),
        ("prefix,dual,null", ["prefix", "dual", None]),
        ("[1, 2]", [[1, 2]]),
        ("7", [7]),
    ],
)
def test_values_are_lists_and_ranges_with_both_ends(text, values):
    """In binary floats 0.1:0.3:0.1 loses its end or holds 0.30000000000000004."""
    found = parse_values(text, "knob")
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize("text", ["0.5:0.1:0.1", "0:1:0", "0:1:-1", "0:1", "a:b:c", "0:1:1e-9", "0:nan:1", "[1,"])
def test_ranges_that_mean_nothing_are_refused(text):
    with pytest.raises(ValueError, match="`entropy_threshold`"):
        parse_values(text, "entropy_threshold")


def test_a_knob_varies_for_the_rules_that_read_it():
    """Else the same decoder would be run once for each value of a knob that it ignores."""
    config = DiffusionGenerationConfig(entropy_bound=0.7)
    knobs = {"entropy_threshold": [0.1, 0.2], "max_tokens_per_step": [4], "max_denoising_steps": [8, None]}
    grid = build_grid(config, ["med", "entropy_bound", "random"], knobs)
    assert grid == [
        {"decoding": "med", "entropy_threshold": 0.1, "max_tokens_per_step": 4, "max_denoising_steps": 8},
        {"decoding": "med", "entropy_threshold": 0.1, "max_tokens_per_step": 4, "max_denoising_steps": None},
        {"decoding": "med", "entropy_threshold": 0.2, "max_tokens_per_step": 4, "max_denoising_steps": 8},
        {"decoding": "med", "entropy_threshold": 0.2, "max_tokens_per_step": 4, "max_denoising_steps": None},
        {"decoding": "entropy_bound", "entropy_bound": 0.7, "max_tokens_per_step": 4, "max_denoising_steps": 8},
        {"decoding": "entropy_bound", "entropy_bound": 0.7, "max_tokens_per_step": 4, "max_denoising_steps": None},
        {"decoding": "random", "max_denoising_steps": 8},
        {"decoding": "random", "max_denoising_steps": None},
    ]


def test_without_rules_the_checkpoint_decides():
    config = DiffusionGenerationConfig(decoding="med", entropy_threshold=0.3)
    assert build_grid(config, None, {}) == [{"decoding": "med", "entropy_threshold": 0.3}]


@pytest.mark.parametrize(
    ("decodings", "knobs", "message"),
    [
        (["mde"], {}, "'mde'"),
        (["med"], {"entropy_treshold": [1]}, "entropy_treshold.*entropy_threshold"),
        (["med"], {"entropy_bound": [1]}, "`entropy_bound` is read by none"),
        (["random"], {"max_tokens_per_step": [1]}, "read by none"),
        (["med"], {"entropy_threshold": [0.1, -1]}, "got -1"),
        (["med"], {"block_cache": ["suffix"]}, "'suffix'"),
    ],
)
def test_what_generate_would_refuse_is_refused_at_once(decodings, knobs, message):
    with pytest.raises(ValueError, match=message):
        build_grid(DiffusionGenerationConfig(), decodings, knobs)
