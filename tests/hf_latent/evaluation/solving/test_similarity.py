"""Similarity of texts, against the formula of chrF by hand."""

import sys
from collections import Counter

import pytest

from hf_latent.evaluation import text_similarity


def chrf_by_hand(text: str, reference: str, order: int = 6, beta: float = 2.0) -> float:
    """F-beta of the mean precision and recall of character n-grams, without spaces (Popović, 2015)."""
    precisions, recalls = [], []
    sides = [side.replace(" ", "") for side in (text, reference)]
    for n in range(1, order + 1):
        ours, theirs = (Counter(side[i : i + n] for i in range(len(side) - n + 1)) for side in sides)
        if not ours or not theirs:
            continue
        common = sum((ours & theirs).values())
        precisions.append(common / ours.total())
        recalls.append(common / theirs.total())
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def test_chrf_is_that_of_its_paper() -> None:
    text, reference = "the cat sat on a mat", "the cat sits on the mat"
    assert text_similarity([text], [reference]) == pytest.approx(chrf_by_hand(text, reference), rel=1e-6)


def test_equal_texts_are_wholly_similar() -> None:
    assert text_similarity(["up down left", "right"], ["up down left", "right"]) == pytest.approx(100)
    assert text_similarity(["up"], ["left"]) == pytest.approx(0)


def test_bad_input_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="`metric` must be one of"):
        text_similarity(["a"], ["a"], "meteor")
    for texts, references in ((["a"], ["a", "b"]), ([], [])):
        with pytest.raises(ValueError, match="`texts` and `references`"):
            text_similarity(texts, references)
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(ImportError, match=r"hf-latent\[eval\]"):
        text_similarity(["a"], ["a"])
