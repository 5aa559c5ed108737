"""The page of a replay shows what the run did, runs nothing of what the run wrote, and asks nothing of a network."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_latent import DiffusionGenerateOutput
from hf_latent.viz import Replay, replay_of, write_replay

MASK, EOS, PAD = 0, 1, 2
SVG_NAMESPACE = "http://www.w3.org/2000/svg"
NAN = float("nan")
EVIL = "</script><img src=x onerror=\"document.title='ran'\"><!--"


class Words:
    """A tokenizer of whole words; ids are places in the list."""

    mask_token_id: int | None = MASK
    all_special_ids = (MASK, EOS, PAD)

    def __init__(self, *words: str) -> None:
        self.words = ["<mask>", "<eos>", "<pad>", *words]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.words[i] for i in ids)

    def convert_ids_to_tokens(self, token: int) -> str:
        return self.words[token]


def run_of(steps: list[int], ids: list[int], num_given: int, **fields: Any) -> DiffusionGenerateOutput:
    """A run of one row that commits position p at `steps[p]`; -1 is given. Open positions propose their final token
    with a confidence of 0.5 at first and 0.1 more at every forward."""
    sequence, commit_step = torch.tensor([ids]), torch.tensor([steps])
    num = max(steps) + 1
    to_write = torch.arange(len(ids))[None] >= num_given
    open_before = [to_write & ((commit_step < 0) | (commit_step >= k)) for k in range(num + 1)]
    nothing = torch.full(sequence.shape, -1)
    values: dict[str, Any] = {
        "sequences": sequence,
        "num_forward_passes": torch.tensor([num]),
        "tokens_per_forward": torch.tensor([(commit_step >= 0).sum() / num]),
        "commit_step": commit_step,
        "commit_entropy": torch.where(commit_step >= 0, 0.25, NAN),
        "history": tuple(sequence.masked_fill(open_before[k + 1], MASK) for k in range(num)),
        "candidate_history": tuple(torch.where(open_before[k], sequence, nothing) for k in range(num)),
        "confidence_history": tuple(torch.where(open_before[k], 0.5 + 0.1 * k, NAN) for k in range(num)),
    }
    return DiffusionGenerateOutput(**values | fields)


def words() -> Words:
    return Words("2", "+", "3", "=", "5", "\n", " the", " sum")


@pytest.fixture
def slow() -> Replay:
    """Four tokens in four forwards, from right to left, with the entropy of the answer and an exit."""
    output = run_of(
        [-1, -1, -1, -1, 3, 2, 1, 0],
        [3, 4, 5, 6, 7, 8, 9, EOS],
        4,
        answer_entropy=torch.tensor([[2.0, 1.0, 0.5, 0.0]]),
        exit_step=torch.tensor([2]),
        leftmost_share=torch.tensor([0.25]),
        leftmost_distance=torch.tensor([1.5]),
    )
    return replay_of(
        output,
        0,
        words(),
        name="low_confidence",
        settings={"block_length": None},
        input_ids=[3, 4, 5, 6],
        exit_threshold=0.75,
        reasoning="add them",
        answer="5",
    )


@pytest.fixture
def fast() -> Replay:
    """The same four tokens in two forwards."""
    output = run_of([-1, -1, -1, -1, 0, 0, 1, 0], [3, 4, 5, 6, 7, 8, 9, EOS], 4)
    return replay_of(output, 0, words(), name="med", settings={"entropy_threshold": 0.2}, input_ids=[3, 4, 5, 6])


def data_of(path: Path) -> Any:
    found = re.search(r'<script id="replay-data" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found.group(1))


# What the page is given


def test_a_replay_holds_the_canvas_the_candidates_and_the_steps(slow):
    assert slow.start == [3, 4, 5, 6, MASK, MASK, MASK, MASK]
    assert slow.given == [True] * 4 + [False] * 4
    assert slow.canvas[1] == [3, 4, 5, 6, MASK, MASK, 9, EOS]
    assert slow.candidates[1] == [-1, -1, -1, -1, 7, 8, 9, -1]
    assert slow.confidences[1] == [None] * 4 + [pytest.approx(0.6)] * 3 + [None]
    assert slow.commit_step == [-1, -1, -1, -1, 3, 2, 1, 0]
    assert slow.commit_entropy == [None] * 4 + [0.25] * 4
    assert (slow.num_forwards, slow.tokens_per_forward, slow.leftmost_share, slow.leftmost_distance) == (
        4,
        1,
        0.25,
        1.5,
    )
    assert (slow.answer_entropy, slow.exit_step, slow.exit_threshold) == ([2.0, 1.0, 0.5, 0.0], 2, 0.75)
    assert slow.prompt == "2+3="
    assert slow.texts[9] == " the" and slow.special_ids == [MASK, EOS]


def test_a_row_of_a_batch_ends_with_its_own_forwards_and_loses_its_padding():
    """The batch goes on after the row: others' forwards, and padding on the left, are not part of its story."""
    history = tuple(torch.tensor([[5, 6, 3, MASK], [PAD, 4, 7, 8]]) for _ in range(5))
    output = DiffusionGenerateOutput(
        sequences=torch.tensor([[5, 6, 3, 7], [PAD, 4, 7, 8]]),
        num_forward_passes=torch.tensor([5, 2]),
        commit_step=torch.tensor([[-1, -1, 0, 4], [-1, -1, 0, 1]]),
        answer_entropy=torch.tensor([[1.0, 1, 1, 1, 1], [2, 0, NAN, NAN, NAN]]),
        exit_step=torch.tensor([-1, -1]),
        history=history,
    )
    replay = replay_of(
        output,
        1,
        words(),
        name="x",
        settings={},
        input_ids=torch.tensor([PAD, 4]),
        attention_mask=torch.tensor([0, 1]),
    )
    assert (replay.start, replay.sequence, replay.commit_step) == ([4, MASK, MASK], [4, 7, 8], [-1, 0, 1])
    assert (replay.num_forwards, len(replay.canvas), replay.answer_entropy) == (2, 2, [2.0, 0.0])
    assert replay.exit_step is None and replay.candidates is None


def test_masks_within_the_prompt_are_open_and_the_answer_is_marked():
    output = run_of([-1, 0, -1, 1], [3, 4, 5, 6], 0)
    replay = replay_of(
        output,
        0,
        words(),
        name="x",
        settings={},
        input_ids=[3, MASK, 5, MASK],
        answer_mask=[False, False, False, True],
    )
    assert replay.given == [True, False, True, False]
    assert replay.in_answer == [False, False, False, True]
    assert replay.prompt == "23"


def test_without_history_the_canvas_is_rebuilt_from_the_steps():
    output = run_of([-1, 1, 0, -1], [3, 4, EOS, PAD], 1, history=None, candidate_history=None, confidence_history=None)
    replay = replay_of(output, 0, words(), name="x", settings={}, input_ids=[3])
    assert replay.canvas == [[3, MASK, EOS, MASK], [3, 4, EOS, PAD]]
    assert replay.confidences is None


def test_pieces_keep_their_space_and_characters_in_parts_their_name():
    class Pieces(Words):
        def decode(self, ids: list[int]) -> str:
            return {3: "word", 4: "\ufffd", 5: ""}.get(ids[0], super().decode(ids))

        def convert_ids_to_tokens(self, token: int) -> str | None:
            return {3: "\u2581word", 4: "<0xE2>", 5: None}.get(token, self.words[token])

    output = run_of([-1, 0, 0], [3, 4, 5], 1)
    replay = replay_of(output, 0, Pieces("a", "b", "c"), name="x", settings={}, input_ids=[3])
    assert {token: replay.texts[token] for token in (3, 4, 5)} == {3: " word", 4: "<0xE2>", 5: "<5>"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": 1}, r"`row` must be in \[0, 0\], got 1"),
        ({"row": -1}, r"`row` must be in \[0, 0\], got -1"),
        ({"output": DiffusionGenerateOutput(sequences=torch.tensor([[3]]))}, "return_dict_in_generate=True"),
        ({"input_ids": [3] * 9}, "`input_ids` must not be longer than the row's 3 tokens, got 9"),
        ({"tokenizer": type("NoMask", (Words,), {"mask_token_id": None})()}, "`mask_token_id` must be given"),
    ],
)
def test_what_cannot_be_replayed_is_said(changes, message):
    output = run_of([-1, 0, 0], [3, 4, 5], 1)
    arguments = {"output": output, "row": 0, "tokenizer": words(), "name": "x", "settings": {}, "input_ids": [3]}
    with pytest.raises(ValueError, match=message):
        replay_of(**arguments | changes)


@pytest.mark.parametrize("number", [0, 3])
def test_a_page_has_one_or_two_replays(slow, number, tmp_path):
    with pytest.raises(ValueError, match=f"`replays` must be 1 or 2 of them, got {number}"):
        write_replay([slow] * number, tmp_path / "page.html", "model")


# The file


def test_the_page_carries_the_replays_and_names_no_address(slow, fast, tmp_path):
    path = write_replay([slow, fast], tmp_path / "new" / "page.html", "a model")
    content = data_of(path)
    assert content["title"] == "a model"
    for written, replay in zip(content["replays"], (slow, fast), strict=True):
        for field in dataclasses.fields(Replay):
            expected = json.loads(json.dumps(getattr(replay, field.name)))
            assert written[field.name] == expected
    assert "//" not in re.sub(r"(?m)^\s*//.*$", "", path.read_text().replace(SVG_NAMESPACE, ""))
    assert not re.search(r"<link[^>]*href=(?!\"data:)|@import|url\(|\bsrc=", path.read_text())


def test_text_cannot_end_the_script_it_stands_in(slow, tmp_path):
    evil = dataclasses.replace(slow, prompt=EVIL, name=EVIL, texts={**slow.texts, 7: EVIL}, answer=EVIL)
    path = write_replay([evil], tmp_path / "page.html", EVIL)
    assert EVIL not in path.read_text()
    assert data_of(path)["replays"][0]["texts"]["7"] == EVIL
    assert path.read_text().count("</script>") == 2


def test_an_interruption_leaves_the_earlier_page_whole(slow, tmp_path, monkeypatch):
    path = write_replay([slow], tmp_path / "page.html", "earlier")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", interrupt)
        write_replay([slow], path, "later")
    assert data_of(path)["title"] == "earlier"
    write_replay([slow], path, "later")
    assert data_of(path)["title"] == "later"
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]


# In a browser

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


def test_text_of_the_run_is_shown_and_never_run(slow, page, tmp_path):
    """Every text of the page in turn; the handler would change the title, and any element would be an `img`."""
    texts = dict.fromkeys(slow.texts, EVIL)
    evil = dataclasses.replace(
        slow, texts=texts, prompt=EVIL, name=EVIL, reasoning=EVIL, answer=EVIL, settings={EVIL: EVIL}
    )
    page.open(write_replay([evil], tmp_path / "page.html", EVIL))
    page.evaluate("replay.goTo(1)")
    page.move_mouse('.token[data-position="6"]')
    page.evaluate(WAIT.format(100))
    assert page.evaluate("document.querySelectorAll('img').length") == 0
    assert page.evaluate("document.title") == f"{EVIL}: replay"
    assert page.evaluate("document.querySelector('.panel .token').textContent") == EVIL.replace(" ", "␣")
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
