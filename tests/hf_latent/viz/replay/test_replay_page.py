"""The page of a replay shows what the run did, runs nothing of what it wrote, and asks nothing of a network."""

import dataclasses
import re

import pytest

from hf_latent.viz import write_replay

STATES = """[...document.querySelectorAll(".panel")].map((panel) =>
    [...panel.querySelectorAll(".token")].map((token) => token.dataset.state))"""
FORWARDS = '[...document.querySelectorAll(".panel .forward")].map((line) => line.textContent)'


@pytest.fixture
def both(slow, fast, page, tmp_path):
    """The page of both decoders, still, at the canvas before the first forward."""
    page.open(write_replay([slow, fast], tmp_path / "page.html", "a model"))
    return page


def test_it_loads_in_silence(both, tmp_path):
    for k in (-1, 0, 1, 2, 3):
        both.evaluate(f"replay.goTo({k})")
    assert both.evaluate("[replay.current, replay.length, document.title]") == [3, 4, "a model: replay"]
    assert both.complaints() == []
    assert both.requests() == [(tmp_path / "page.html").as_uri()]


def test_the_highlighted_tokens_are_those_of_the_forward(both, slow, fast):
    for k in range(4):
        both.evaluate(f"replay.goTo({k})")
        for states, replay in zip(both.evaluate(STATES), (slow, fast), strict=True):
            expected = []
            for given, step in zip(replay.given, replay.commit_step, strict=True):
                now = "open" if step > k else "now" if step == k else "written"
                expected.append("given" if given else now)
            assert states == expected, (replay.name, k)
    both.evaluate("replay.goTo(-1)")
    assert both.evaluate(STATES) == [["given"] * 4 + ["open"] * 4] * 2


def test_open_tokens_show_their_candidate_and_colour_its_confidence(both):
    read = """(() => { const t = document.querySelector('.token[data-position="5"]');
        return [t.textContent, getComputedStyle(t).getPropertyValue("--confidence"),
                getComputedStyle(t).backgroundColor]; })()"""
    assert both.evaluate(read)[:2] == ["·", "0"]
    both.evaluate("replay.goTo(0)")
    text, confidence, before = both.evaluate(read)
    assert (text, float(confidence)) == ("↵", 0.5)
    both.evaluate("replay.goTo(1)")
    _, confidence, after = both.evaluate(read)
    assert float(confidence) == pytest.approx(0.6)
    assert before != after


def test_keys_move_both_decoders_and_the_faster_one_waits_at_its_end(both):
    seen = []
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "End", "Home", "ArrowLeft"):
        both.press(key)
        seen.append([both.evaluate("replay.current"), *both.evaluate(FORWARDS)])
    assert seen == [
        [0, "forward 1 of 4", "forward 1 of 2"],
        [1, "forward 2 of 4", "forward 2 of 2"],
        [2, "forward 3 of 4", "forward 2 of 2, finished"],
        [1, "forward 2 of 4", "forward 2 of 2"],
        [3, "forward 4 of 4", "forward 2 of 2, finished"],
        [-1, "forward 0 of 4", "forward 0 of 2"],
        [-1, "forward 0 of 4", "forward 0 of 2"],
    ]
    written = '[...document.querySelectorAll(".panel .written")].map((line) => line.textContent)'
    both.evaluate("replay.goTo(1)")
    lines = [text for text in both.evaluate(written) if text]
    assert lines == ["2 of 4 tokens written", "4 of 4 tokens written"]


def test_the_slider_moves_both_decoders_by_pointer_and_keys(both):
    x, y, width = both.evaluate(
        '(() => { const b = document.getElementById("slider").getBoundingClientRect();'
        " return [b.x, b.y + b.height / 2, b.width]; })()"
    )
    place = {"x": x + width / 2, "y": y, "button": "left", "clickCount": 1}
    both.call("Input.dispatchMouseEvent", type="mousePressed", **place)
    both.call("Input.dispatchMouseEvent", type="mouseReleased", **place)
    assert both.evaluate("replay.current") == 1
    both.press("ArrowRight")  # the slider has the focus now and must not take a second step of its own
    assert both.evaluate("replay.current") == 2
    assert both.evaluate(FORWARDS) == ["forward 3 of 4", "forward 2 of 2, finished"]
    assert both.evaluate('document.getElementById("slider").getAttribute("aria-valuetext")') == "forward 3 of 4"


WAIT = "new Promise((done) => setTimeout(done, {}))"


def test_space_plays_and_pauses_and_play_stops_at_the_end(both):
    both.evaluate('document.getElementById("speed").value = "16"')
    label = 'document.getElementById("play").textContent.trim()'
    assert both.evaluate(label) == "Play"
    both.press(" ")
    assert both.evaluate(label) == "Pause"
    both.evaluate(
        "new Promise((done) => { (function look() { replay.current > 0 ? done() : setTimeout(look, 5); })(); })"
    )
    both.press(" ")
    stopped = both.evaluate("replay.current")
    both.evaluate(WAIT.format(200))
    assert both.evaluate("replay.current") == stopped
    both.evaluate("replay.goTo(2); replay.play()")
    both.evaluate(WAIT.format(300))
    assert both.evaluate("replay.current") == 3
    assert both.evaluate(label) == "Play"


def test_it_plays_by_itself_only_where_motion_is_welcome(slow, page, tmp_path):
    path = write_replay([slow], tmp_path / "page.html", "a model")
    label = 'document.getElementById("play").textContent.trim()'
    page.open(path, still=False)
    assert page.evaluate(label) == "Pause"
    page.open(path)
    assert page.evaluate(label) == "Play"


def test_a_token_tells_its_story_to_pointer_and_keyboard(both):
    detail = 'document.getElementById("detail")'
    both.evaluate("replay.goTo(2)")
    both.move_mouse('.token[data-position="6"]')
    text = both.evaluate(f"{detail}.innerText").split()
    assert text == [
        "␣the",
        "position",
        "6",
        "written",
        "at",
        "forward",
        "2",
        "confidence",
        "0.6",
        "entropy",
        "0.25",
        "nats",
    ]
    both.move_mouse("h1")
    assert both.evaluate(f"{detail}.hidden") is True
    both.evaluate("document.querySelector('.token[data-position=\"0\"]').focus()")
    both.press("ArrowDown")
    assert both.evaluate("document.activeElement.dataset.position") == "1"
    assert both.evaluate("document.activeElement.getAttribute('aria-describedby')") == "detail"
    assert both.evaluate(f"{detail}.innerText").split() == ["+", "position", "1", "state", "given"]
    both.press("ArrowRight")  # still one forward on, with a token in focus
    assert both.evaluate("replay.current") == 3


def test_commit_order_colours_every_written_position_by_its_forward(both, slow):
    colours = """[...document.querySelector(".panel").querySelectorAll(".token")].map(
        (token) => getComputedStyle(token).backgroundColor)"""
    both.evaluate("replay.goTo(3)")
    plain = both.evaluate(colours)
    both.evaluate('document.getElementById("order").click()')
    ordered = both.evaluate(colours)
    assert both.evaluate('document.getElementById("order").getAttribute("aria-pressed")') == "true"
    assert ordered[:4] == plain[:4]
    assert len(set(ordered[4:])) == 4
    strip = both.evaluate(
        '[...document.querySelector(".strip").children].map((cell) => getComputedStyle(cell).backgroundColor)'
    )
    assert strip == ordered[4:]


def test_the_answers_entropy_has_its_curve_threshold_exit_and_marker(both):
    panel = 'document.querySelector(".panel")'
    assert both.evaluate(f'{panel}.querySelector(".curve polyline").points.length') == 4
    assert both.evaluate(f'{panel}.querySelector(".exit text").textContent') == "exit at forward 3"
    assert both.evaluate(f'{panel}.querySelectorAll(".threshold").length') == 1
    marker = f'Number({panel}.querySelector(".here circle").getAttribute("cx"))'
    exit_point = f'Number({panel}.querySelector(".exit circle").getAttribute("cx"))'
    places = []
    for k in range(4):
        both.evaluate(f"replay.goTo({k})")
        places.append(both.evaluate(marker))
    assert places == sorted(set(places))
    assert places[2] == both.evaluate(exit_point)
    # The other decoder recorded none.
    hidden = '[...document.querySelectorAll(".entropy")].map((part) => part.hidden)'
    assert both.evaluate(hidden) == [False, True]


def test_header_and_panels_say_what_was_run(both):
    assert both.evaluate('document.querySelector("h1").textContent') == "a model"
    assert both.evaluate('document.querySelector(".prompts pre").textContent') == "2+3="
    panels = both.evaluate('[...document.querySelectorAll(".panel")].map((panel) => panel.innerText)')
    for line in ("low_confidence", "left-most share", "0.25", "left-most distance", "1.5", "add them"):
        assert line in panels[0]
    assert "entropy_threshold = 0.2" in panels[1]
    assert "left-most share" not in panels[1] and "Reasoning" not in panels[1]


def test_text_of_the_run_is_shown_and_never_run(slow, evil, page, tmp_path):
    """Every text of the page in turn; the handler would change the title, and any element would be an `img`."""
    texts = dict.fromkeys(slow.texts, evil)
    hostile = dataclasses.replace(
        slow, texts=texts, prompt=evil, name=evil, reasoning=evil, answer=evil, settings={evil: evil}
    )
    page.open(write_replay([hostile], tmp_path / "page.html", evil))
    page.evaluate("replay.goTo(1)")
    page.move_mouse('.token[data-position="6"]')
    page.evaluate(WAIT.format(100))
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.title") == f"{evil}: replay"
    assert page.evaluate("document.querySelector('.panel .token').textContent") == evil.replace(" ", "␣")
    assert page.complaints() == []
    assert len(page.requests()) == 1


@pytest.mark.parametrize(("width", "height", "columns"), [(1280, 900, 2), (390, 844, 1)])
def test_it_fits_a_desktop_and_a_phone(slow, fast, page, tmp_path, width, height, columns):
    long = "a_name_without_any_place_to_break_" * 4
    wide = dataclasses.replace(slow, name=long, prompt=long, texts={**slow.texts, 7: long})
    page.open(write_replay([wide, fast], tmp_path / "page.html", long), width, height)
    for k in (-1, 1, 3):
        page.evaluate(f"replay.goTo({k})")
        assert page.evaluate("document.documentElement.scrollWidth") == width
    left = page.evaluate('[...document.querySelectorAll(".panel")].map((panel) => panel.getBoundingClientRect().left)')
    assert len(set(left)) == columns


def test_dark_is_dark(slow, page, tmp_path):
    path = write_replay([slow], tmp_path / "page.html", "a model")
    brightness = []
    for dark in (False, True):
        page.open(path, dark=dark)
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness.append(sum(map(int, re.findall(r"\d+", colour))))
    assert brightness[0] > 600 > 150 > brightness[1]


def test_every_control_has_a_name(both):
    """What the accessibility tree, not the markup, calls them."""
    both.call("Accessibility.enable")
    nodes = both.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "slider", "combobox"}
    names = [n["name"]["value"] for n in nodes if n.get("role", {}).get("value") in roles and not n.get("ignored")]
    assert all(names)
    assert {"Play", "One forward back", "One forward on", "Forward", "Forwards per second", "Commit order"} <= set(
        names
    )
