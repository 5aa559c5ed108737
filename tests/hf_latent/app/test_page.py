"""The page in a browser: it opens, denoises live, compares, says what is wrong, and asks nobody but its server."""

import json
import os
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("gradio", reason="needs gradio: pip install 'hf-latent[app]'")

from hf_latent.app import AppSettings
from hf_latent.app.form import FIELDS
from hf_latent.app.page import build_page, launch_options

PATIENCE = 90.0  # seconds; a machine may be busy
# A visitor's typing, as far as the page can tell.
TYPE = """(selector, text) => {
  const field = document.querySelector(selector);
  const kind = field.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
  Object.getOwnPropertyDescriptor(kind.prototype, "value").set.call(field, text);
  field.dispatchEvent(new Event("input", { bubbles: true }));
}"""
# Counts what the page changes in itself.
COUNT = """(() => {
  if (window.changes === undefined) {
    window.changes = 0;
    new MutationObserver(() => { window.changes += 1; })
      .observe(document.documentElement, { subtree: true, childList: true, attributes: true });
  }
  return window.changes;
})()"""
CHOOSE = """(selector, text) => {
  const options = [...document.querySelectorAll(`${selector} [role=option], ul[role=listbox] [role=option]`)];
  const option = options.find((item) => item.textContent.trim().endsWith(text));
  option?.dispatchEvent(new MouseEvent("mousedown", { bubbles: true }));
  return !!option;
}"""
# Writes down how many positions are open whenever the page is redrawn.
RECORD = """window.seen = { a: [], b: [] };
new MutationObserver(() => {
  for (const side of "ab") {
    const panel = document.querySelector(`#hl-panel-${side} .hl-panel[data-state=running]`);
    if (!panel) continue;
    const open = panel.querySelectorAll("[data-state=open]").length;
    const now = panel.querySelectorAll("[data-state=now]").length;
    const last = window.seen[side].at(-1);
    if (!last || last.open !== open || last.now !== now) window.seen[side].push({ open, now });
  }
}).observe(document.getElementById("hl-results"), { subtree: true, childList: true, attributes: true });"""


class Visitor:
    """Somebody at the page."""

    def __init__(self, tab: Any, address: str) -> None:
        self.tab, self.address = tab, address

    def open(self, *arguments: Any, **options: Any) -> None:
        self.tab.open(self.address, *arguments, **options)
        self.until("!!document.querySelector('#hl-generate')")
        # The form has its values only once the page is connected.
        self.until("document.querySelector('#hl-prompt textarea')?.value.length > 0")

    def until(self, condition: str) -> None:
        end = time.monotonic() + PATIENCE
        while not self.tab.evaluate(condition):
            assert time.monotonic() < end, f"never: {condition}\n{self.text('#hl-results')}"
            time.sleep(0.05)

    def call(self, function: str, *arguments: str) -> Any:
        return self.tab.evaluate(f"({function})({', '.join(map(json.dumps, arguments))})")

    def press(self, selector: str) -> None:
        self.tab.evaluate(f"document.querySelector({json.dumps(selector)}).click()")

    def press_text(self, text: str) -> None:
        self.tab.evaluate(
            f"[...document.querySelectorAll('button')].find(b => b.textContent.includes({json.dumps(text)})).click()"
        )

    def type(self, selector: str, text: str) -> None:
        """Once the page is at rest: a field that has only just appeared does not listen yet."""
        self.until_at_rest()
        self.call(TYPE, f"{selector} :is(textarea, input)", text)
        self.until_at_rest()
        assert self.tab.evaluate(f"document.querySelector('{selector} :is(textarea, input)').value") == text

    def until_at_rest(self) -> None:
        """Until the page has changed nothing for as long as it takes anybody to look at it."""
        end = time.monotonic() + PATIENCE
        before, now = None, self.tab.evaluate(COUNT)
        while now != before:
            assert time.monotonic() < end, "the page never comes to rest"
            time.sleep(0.5)
            before, now = now, self.tab.evaluate(COUNT)

    def choose(self, selector: str, text: str) -> None:
        self.tab.evaluate(f"document.querySelector({json.dumps(selector + ' input')}).focus()")
        self.until(f"({CHOOSE})({json.dumps(selector)}, {json.dumps(text)})")

    def text(self, selector: str) -> str:
        return self.tab.evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''")

    def until_done(self, number: int = 2) -> None:
        self.until(f"document.querySelectorAll('.hl-panel[data-state=done]').length === {number}")


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of a server of the page."""
    served = build_page(AppSettings(("sudoku-4x4", "arithmetic")))
    _, url, _ = served.queue(default_concurrency_limit=1).launch(
        **launch_options(), prevent_thread_lock=True, quiet=True, server_name="127.0.0.1"
    )
    yield url
    served.close(verbose=False)


@pytest.fixture
def visitor(page: Any, address: str) -> Visitor:
    return Visitor(page, address)


def components(settings: AppSettings) -> dict[str, dict[str, Any]]:
    """Properties of the page's components by their id in the page."""
    parts = build_page(settings).get_config_file()["components"]
    return {part["props"]["elem_id"]: part["props"] for part in parts if part["props"].get("elem_id")}


def test_every_field_is_sent_and_no_event_is_for_programs():
    """A field left out of the inputs shifts all behind it; public endpoints would be an interface nobody promised."""
    config = build_page(AppSettings()).get_config_file()
    widest = max(config["dependencies"], key=lambda event: len(event["inputs"]))
    assert len(widest["inputs"]) == len(set(widest["inputs"])) == len(FIELDS)
    assert {event["api_visibility"] for event in config["dependencies"]} == {"private"}


@pytest.mark.parametrize(
    ("model", "label", "run"), [("sudoku-4x4", "puzzle", "Solve"), ("arithmetic", "question", "Answer")]
)
def test_words_fit_the_task_and_the_panels_show_what_will_be_written(model, label, run):
    """A Sudoku is no "prompt"; two empty boxes that say "waiting" tell a visitor nothing."""
    parts = components(AppSettings((model,)))
    assert parts["hl-prompt"]["label"] == label and parts["hl-prompt"]["value"]
    assert parts["hl-generate"]["value"] == run
    for side in "ab":
        panel = parts[f"hl-panel-{side}"]["value"]
        opened = panel.count('data-state="open"')
        assert opened == (20 if model == "sudoku-4x4" else 63) and 'data-state="given"' in panel
        assert f"Press {run}" in panel


def test_labels_that_are_quantities_have_units():
    texts = [part["props"].get("label") for part in build_page(AppSettings()).get_config_file()["components"]]
    labels = {text for text in texts if text}
    for label in ("reasoning, tokens", "answer, tokens", "block, tokens", "text to write, tokens", "exit below, nats"):
        assert label in labels


def test_strangers_are_offered_the_list_and_no_code():
    """What the page does not offer cannot be chosen by mistake; the events refuse it besides."""
    assert components(AppSettings())["hl-model"]["allow_custom_value"] is True
    public = components(AppSettings(("sudoku-4x4",), public=True))
    assert public["hl-model"]["allow_custom_value"] is False
    assert public["hl-model"]["choices"] == [("sudoku-4x4", "sudoku-4x4")]
    assert public["hl-loading"]["visible"] is False


def test_the_page_reports_to_nobody():
    """Fonts and statistics of a page of one's own machine are nobody else's business."""
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"
    assert build_page(AppSettings()).analytics_enabled is False
    options = launch_options()
    assert not options["theme"]._stylesheets
    assert "@import" not in options["css"] and "url(" not in options["css"]


@pytest.mark.slow
def test_two_decoders_denoise_live(visitor):
    """Several states between masks and text reach the browser, one a forward, and both ends are right."""
    visitor.open()
    visitor.tab.evaluate(RECORD)
    visitor.press("#hl-generate")
    visitor.until_done()
    seen = visitor.tab.evaluate("window.seen")
    # 20 tokens one by one; a frame may be skipped by a slow browser, never come out of order.
    opened = [state["open"] for state in seen["b"] if state["now"]]
    assert len(opened) >= 10 and opened == sorted(opened, reverse=True)
    assert all(state["now"] <= 1 for state in seen["b"])
    assert any(state["now"] > 1 for state in seen["a"])
    first, second = (visitor.text(f"#hl-panel-{side}") for side in "ab")
    assert first.startswith("med") and second.startswith("low_confidence")
    numbers = [int(re.search(r"forwards\s+(\d+)", text)[1]) for text in (first, second)]
    assert numbers[0] < numbers[1] == 20
    for text in (first, second):
        assert re.search("solved|wrong", text) and "tokens per forward" in text and "entropy" in text
    assert visitor.tab.evaluate("document.querySelectorAll('.hl-curve polyline').length") == 2
    # Everything came from the page's own server, and nothing complained.
    assert all(url.startswith((visitor.address, "data:", "about:")) for url in visitor.tab.requests())
    assert not visitor.tab.complaints()


@pytest.mark.slow
def test_keys_alone_run_the_example_on_a_narrow_screen(visitor):
    """On a phone button and result come before the knobs; nobody needs a pointer for them."""
    visitor.open(390, 844)
    tops = [
        visitor.tab.evaluate(f"document.querySelector('{place}').getBoundingClientRect().y")
        for place in ("#hl-prompt", "#hl-generate", "#hl-panel-a", "#hl-panel-b", "#hl-settings")
    ]
    assert tops == sorted(tops) and tops[1] < 500 and tops[2] < 700
    for _ in range(10):
        visitor.tab.press("Tab")
        if visitor.tab.evaluate("document.activeElement.id") == "hl-generate":
            break
    assert visitor.tab.evaluate("document.activeElement.id") == "hl-generate"
    assert visitor.tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    visitor.tab.press(" ")
    visitor.until_done()


@pytest.mark.slow
def test_a_bad_knob_is_a_message_and_the_next_run_works(visitor):
    """After a mistake the page must neither be stuck nor show the message for ever."""
    visitor.open()
    visitor.press_text("Knobs")
    visitor.until("!!document.querySelector('#hl-temperature textarea')")
    visitor.type("#hl-temperature", "-1")
    visitor.press("#hl-generate")
    visitor.until("!!document.querySelector('.hl-message[data-kind=error]')")
    assert "`temperature` must be a number in [0.0, 1e+30], got -1." in visitor.text("#hl-message")
    assert "Traceback" not in visitor.tab.evaluate("document.body.innerText")
    visitor.type("#hl-temperature", "0")
    visitor.press("#hl-generate")
    visitor.until_done()
    assert visitor.text("#hl-message") == ""


@pytest.mark.slow
def test_checkpoints_rules_and_puzzles_fill_the_form(visitor):
    """What a visitor picks is what runs: another checkpoint, one decoder, its threshold, the next puzzle."""
    visitor.open()
    visitor.choose("#hl-model", "arithmetic")
    visitor.until("document.querySelector('#hl-prompt textarea').value.includes('How many')")
    before = visitor.tab.evaluate("document.querySelector('#hl-prompt textarea').value")
    visitor.press("#hl-puzzle")
    visitor.until(f"document.querySelector('#hl-prompt textarea').value !== {json.dumps(before)}")
    visitor.press("#hl-compare input")
    visitor.choose("#hl-rule-a", "confidence_threshold")
    visitor.until("!document.querySelector('#hl-threshold-a textarea').disabled")
    visitor.type("#hl-threshold-a", "0.75")
    visitor.until("!document.querySelector('#hl-panel-b')")
    visitor.press("#hl-generate")
    visitor.until_done(1)
    shown = visitor.text("#hl-panel-a")
    assert shown.startswith("confidence_threshold") and "confidence_threshold = 0.75" in shown
    assert "Entropy of the answer, nats" in shown and "The answer is" in shown


@pytest.mark.slow
def test_a_run_can_be_stopped_and_another_begun(visitor):
    """One visitor's long run must not hold the page."""
    visitor.open()
    visitor.press_text("Knobs")
    visitor.until("!!document.querySelector('#hl-pause input')")
    visitor.type("#hl-pause", "0.6")  # however slow the machine is, the run is slower
    visitor.press("#hl-generate")
    visitor.until("!!document.querySelector('.hl-panel[data-state=running] [data-state=now]')")
    visitor.press("#hl-stop")
    shown, later = "", visitor.text("#hl-panel-b")
    deadline = time.monotonic() + 30  # what was on its way still arrives
    while shown != later and time.monotonic() < deadline:
        shown = later
        time.sleep(2)
        later = visitor.text("#hl-panel-b")
    assert shown == later
    assert not visitor.tab.evaluate("!!document.querySelector('#hl-panel-b .hl-panel[data-state=done]')")
    visitor.press("#hl-generate")
    visitor.until_done()


@pytest.mark.slow
def test_colours_change_without_another_run_and_the_replay_plays(visitor):
    """By confidence or by order; and every forward again in the replay's own page, inside a frame."""
    visitor.open()
    visitor.press("#hl-generate")
    visitor.until_done()
    colour = "getComputedStyle(document.querySelector('#hl-panel-b [data-state=written]')).backgroundColor"
    by_order = visitor.tab.evaluate(colour)
    visitor.tab.evaluate("document.querySelectorAll('#hl-colour input')[1].click()")
    visitor.until(f"{colour} !== {json.dumps(by_order)}")
    # It comes one message behind the finished panels.
    visitor.until("document.querySelector('#hl-results').innerText.includes('Replay, forward by forward')")
    visitor.press_text("Replay, forward by forward")
    visitor.until("!!document.querySelector('.hl-replay')?.srcdoc.includes('replay-data')")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, False), (390, True)])
def test_the_page_fits_its_window(visitor, width, dark):
    """On a phone nobody scrolls sideways; in the dark nothing stays black on black."""
    visitor.open(width, 844, dark=dark)
    visitor.press("#hl-generate")
    visitor.until_done()
    assert visitor.tab.evaluate("document.documentElement.scrollWidth") <= width
    boxes = [visitor.tab.evaluate(f"document.querySelector('#hl-panel-{s}').getBoundingClientRect().x") for s in "ab"]
    assert (boxes[0] == boxes[1]) is (width == 390)
    style = "getComputedStyle(document.querySelector('.hl-panel'))"
    text, paper = (
        sum(map(int, re.findall(r"\d+", visitor.tab.evaluate(f"{style}.{name}"))[:3]))
        for name in ("color", "backgroundColor")
    )
    assert (text > paper) is dark
