"""Panels say what a snapshot holds, and nothing that a model or a visitor wrote becomes markup."""

import re
from html.parser import HTMLParser

import pytest

from hf_latent.app.drawing import draw_message, draw_panel, draw_replay, entropy_curve, largest_entropy
from hf_latent.app.stepwise_generation import Snapshot

MASK, EOS = 0, 1
EVIL = "<img src=x onerror=alert(1)>\"'&${1+1}{{x}}"
NAMES = {MASK: "<mask>", EOS: "<eos>", 2: "two", 3: "three ", 4: "\n", 5: EVIL}


class Tags(HTMLParser):
    """Every tag with its attributes, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def tokens(self) -> list[dict[str, str | None]]:
        return [a for tag, a in self.tags if tag == "span" and "hl-token" in (a.get("class") or "")]


def snapshot(**changes: object) -> Snapshot:
    """Given 2, written 3 at forward 1 and a newline at forward 2, open with candidate 2, open and unread."""
    values = {
        "ids": [2, 3, 4, MASK, MASK],
        "commit_step": [-1, 0, 1, -1, -1],
        "confidence": [None, 0.5, 0.75, 0.25, None],
        "candidate": [-1, -1, -1, 2, -1],
        "commit_entropy": [None, 0.5, 1.5, None, None],
        "num_forwards": 2,
        "seconds": 1.234,
    }
    return Snapshot(**values | changes)  # type: ignore[arg-type]


def draw(now: Snapshot | None, **options: object) -> str:
    options = {"mask_token_id": MASK, "special_ids": frozenset({MASK, EOS}), "given": [True]} | options
    return draw_panel("med", {"seed": 0}, now, NAMES.__getitem__, **options)  # type: ignore[arg-type]


def test_each_token_shows_its_state():
    """Given, written before, written now, open with a candidate, open without: five looks."""
    panel = Tags(draw(snapshot()))
    tokens = panel.tokens()
    assert [token["data-state"] for token in tokens] == ["given", "written", "now", "open", "open"]
    assert [token["style"] for token in tokens[1:4]] == [
        "--c:0.500;--o:0.000",
        "--c:0.750;--o:1.000",
        "--c:0.250;--o:0.000",
    ]
    assert tokens[1]["title"] == "written at forward 1, confidence 0.500, entropy 0.500 nats"
    assert re.search(r"two.*three␣.*↵.*two.*·", panel.text, re.DOTALL)
    numbers = dict(zip(*[iter(re.findall(r"<d[td]>([^<]*)", draw(snapshot())))] * 2, strict=True))
    assert numbers == {"forwards": "2", "tokens per forward": "1.00", "tokens": "2", "seconds": "1.23"}
    assert ("i", {"style": "width:50.0%"}) in panel.tags


def test_no_text_becomes_markup():
    """A checkpoint's vocabulary, a prompt or a knob with a tag in it would run script in every visitor's browser."""
    now = snapshot(ids=[5, 5, 5, MASK, MASK], candidate=[-1, -1, -1, 5, -1])
    html = draw_panel(EVIL, {EVIL: EVIL}, now, NAMES.__getitem__, mask_token_id=MASK, given=[True], output=EVIL)
    for text in (html, draw_message(EVIL)):
        parsed = Tags(text)
        assert not {"img", "script"} & {tag for tag, _ in parsed.tags}
        assert not any(name.startswith("on") for _, attributes in parsed.tags for name in attributes)
        assert EVIL in parsed.text
    (frame,) = Tags(draw_replay(f"<html>{EVIL}</html>")).tags
    assert frame[1]["srcdoc"] == f"<html>{EVIL}</html>" and frame[1]["sandbox"] == "allow-scripts"


def test_what_an_exit_left_open_is_not_shown_as_padding():
    replayed = snapshot(ids=[2, 3, 4, EOS, EOS], candidate=[-1] * 5)
    replayed.replay = type("Ended", (), {"exit_threshold": 0.1, "exit_step": 1})()
    panel = Tags(draw(replayed))
    assert [token["data-state"] for token in panel.tokens()] == ["given", "written", "written", "filled", "filled"]
    assert "<eos>" not in panel.text
    assert "exit at forward 2" in panel.text


def test_the_curve_is_the_answers_entropy_or_that_of_what_was_written():
    """By hand: forward 1 wrote one token of 0.5 nats, forward 2 one of 1.5."""
    assert entropy_curve(snapshot())[1] == [0.5, 1.5]
    assert entropy_curve(snapshot(commit_step=[-1, 1, 1, -1, -1]))[1] == [None, 1.0]
    name, values = entropy_curve(snapshot(answer_entropy=[3.0, None]))
    assert (name, values) == ("Entropy of the answer, nats", [3.0, None])
    assert largest_entropy([snapshot(), None, snapshot(answer_entropy=[3.0])]) == 3.0
    assert largest_entropy([None]) == 0.0


@pytest.mark.parametrize(("largest", "height"), [(None, 1.0), (3.0, 0.5)])
def test_two_curves_share_their_scale(largest, height):
    """Curves of two decoders on scales of their own would look alike whatever they are."""
    points = re.search(r'<polyline points="([^"]*)"', draw(snapshot(), largest=largest))
    assert points is not None
    (_, low), (_, high) = ([float(x) for x in point.split(",")] for point in points.group(1).split())
    bottom, top = 98, 20  # of the plot, in the units of its viewBox
    assert high == pytest.approx(bottom - (bottom - top) * height / 1.05, abs=0.1)
    assert low == pytest.approx(bottom - (bottom - top) * height / 3 / 1.05, abs=0.1)


def test_waiting_and_verdicts_are_said_in_words():
    assert "waiting" in Tags(draw(None)).text
    assert "✓ solved" in Tags(draw(snapshot(), solved=True)).text
    assert "✗ wrong" in Tags(draw(snapshot(), solved=False)).text
    assert not {"solved", "wrong"} & set(re.findall(r"\w+", Tags(draw(snapshot())).text))
    assert draw_message("") == ""
