"""Entries of a results file, compared by hand."""

import pytest

from hf_latent.evaluation.comparison.compare import compare
from hf_latent.evaluation.reports.plots import name_lines
from hf_latent.evaluation.reports.report import results_of, show_comparisons, write_report


def entry(decoding, correct, rate, wording=None, **more):
    """An exact match of four questions, `rate` tokens per forward."""
    value = correct.count("1") / len(correct)
    worded = {} if wording is None else {"wording": wording}
    identity = {"task": "t"} | ({} if wording is None else {"template": f"{wording} {{question}}"})
    numbers = {"value": value, "accuracy": value, "num_correct": correct.count("1"), "num_examples": len(correct)}
    costs = {"forwards_per_example": 8 / rate, "tokens_per_forward": rate, "seconds": 2.0, "standard_error": 0.1}
    about = {
        "task": "t",
        "measure": "exact_match",
        "metric": "accuracy",
        "settings": {"decoding": decoding, "seed": 0},
    }
    origin = {"examples": "abc", "identity": identity, "source": {}, "command": "c", "run": f"{decoding}{wording}"}
    return {**about, **worded, **numbers, **costs, "correct": correct, **origin, **more}


WORDED = [
    entry("careful", "1110", 1.0, "a"),
    entry("fast", "1100", 4.0, "a"),
    entry("careful", "1100", 1.0, "b"),
    entry("fast", "1111", 2.0, "b"),
]


def test_means_spreads_and_ranks_are_over_the_wordings():
    (found,) = compare(WORDED)
    assert found["wordings"] == ["a", "b"]
    careful, fast = found["decoders"]
    assert (careful["values"], careful["value"], careful["ranks"]) == ([0.75, 0.5], 0.625, [1, 2])
    assert (fast["values"], fast["value"], fast["ranks"]) == ([0.5, 1.0], 0.75, [2, 1])
    assert careful["spread"] == pytest.approx(0.25 / 2**0.5) and fast["spread"] == pytest.approx(0.5 / 2**0.5)
    assert fast["tokens_per_forward"] == 3.0 and fast["seconds_per_example"] == 0.5
    assert found["order_changes"] == {"pairs": 1, "of": 1}


def test_differences_are_of_an_examples_mean_over_the_wordings():
    """careful 1, 1, 1/2, 0; fast 1, 1, 1/2, 1/2: mean -1/8, se^2 = (3/64 + 9/64) / 12 = 1/64."""
    (found,) = compare(WORDED)
    (pair,) = found["differences"]
    assert (pair["decoders"], pair["value"], pair["num_better"], pair["num_worse"]) == ([0, 1], -0.125, 0, 1)
    assert pair["standard_error"] == pytest.approx(1 / 8)


def test_areas_are_of_the_means_and_of_each_wording():
    """One point a rule: tokens per forward times percent."""
    (found,) = compare(WORDED)
    assert [(a["decoding"], a["value"], a["values"]) for a in found["aup"]] == [
        ("careful", pytest.approx(62.5), [pytest.approx(75), pytest.approx(50)]),
        ("fast", pytest.approx(225), [pytest.approx(200), pytest.approx(200)]),
    ]
    assert found["aup"][1]["spread"] == pytest.approx(0)


def test_only_what_is_alike_is_compared():
    """Other examples, seeds, models, sets of wordings, and questions as they stand are groups of their own."""
    others = [
        entry("careful", "1110", 1.0, "a", examples="xyz"),
        entry("careful", "1110", 1.0, "a", settings={"decoding": "careful", "seed": 1}),
        entry("careful", "1110", 1.0, "a", model={"name": "other"}),
        entry("third", "1110", 1.0, "a"),
        entry("careful", "1110", 1.0),
        entry("careful", "1110", 1.0) | {"measure": "harness", "examples": None},
    ]
    assert compare([*WORDED, *others]) == compare(WORDED)
    plain = compare([entry("careful", "1110", 1.0), entry("fast", "1111", 2.0)])
    assert [c["wordings"] for c in plain] == [[None]]
    assert plain[0]["decoders"][0]["spread"] is None and plain[0]["order_changes"] == {"pairs": 0, "of": 1}


def test_results_of_which_single_answers_are_not_known_have_no_differences():
    old = [entry(name, "1110", 1.0) for name in ("careful", "fast")]
    for each in old:
        del each["correct"], each["examples"]
    assert "differences" not in compare(old)[0] and len(compare(old)[0]["aup"]) == 2


def test_lower_is_better_of_a_likelihood():
    rows = [
        entry(name, "1", 1.0, "a", measure="likelihood", metric="nats_per_token", value=value)
        for name, value in (("chain", 0.5), ("masked_count", 0.7))
    ]
    (found,) = compare(rows)
    assert [d["ranks"] for d in found["decoders"]] == [[1], [2]] and "aup" not in found


def test_the_report_shows_wordings_areas_and_differences_in_tables_and_plots(tmp_path):
    text = show_comparisons(compare(WORDED))
    assert "over 2 wordings (spread: standard deviation); the order of 1 of 1 pairs of decoders changes" in text
    assert "| fast | 75.0 | 35.4 | 50.0 | 100.0 | 1 to 2 | 3.00 | 3.00 | 0.500 |" in text
    assert "| fast | 1 | 225.0 (spread 0.0) |" in text
    assert (
        "accuracy less that of fast, on the same 4 examples" in text and "| careful | -12.5 ± 12.5 | 0 | 1 |" in text
    )
    plain = [entry("careful", "1110", 1.0), entry("fast", "1111", 2.0)]
    names = [path.name for path in write_report(tmp_path, [*WORDED, *plain])]
    over = [f"t{part}_accuracy_over_{cost}.png" for part in ("", "_wordings") for cost in ("forwards", "seconds")]
    assert names == ["results.md", *over]
    assert "| t | exact_match | a | careful |" in (tmp_path / "results.md").read_text()
    name = name_lines(results_of(plain, "t"))
    assert [name(result) for result in results_of(plain, "t")] == ["careful (AUP 75.0)", "fast (AUP 200.0)"]
