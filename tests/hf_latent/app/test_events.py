"""What the page does when something is pressed: the same as the command line, and never a traceback."""

import json
import re
from html import unescape
from pathlib import Path

import pytest

from hf_latent.app.events import MOST_KEPT, Events, describe_threshold
from hf_latent.app.loaded_checkpoints import MOST_LOADED, LoadedCheckpoints
from hf_latent.app.settings import AppSettings
from hf_latent.checkpoints.loading import load, resolve


@pytest.fixture
def events(tmp_path: Path) -> Events:
    return Events(AppSettings(), tmp_path)


def words(html: str) -> str:
    """The text of some HTML."""
    return unescape(re.sub(r"<[^>]*>", " ", html))


def message(events: Events, form: dict) -> str:
    """What a run ends with, of which nothing else may be left on the screen."""
    *_, last = events.run(form)
    assert not last.panels and last.replay is None
    assert 'role="alert"' in last.message
    return words(last.message)


def test_two_decoders_run_in_step_and_write_what_generate_writes(events, form):
    """The page shows the library's own results, a screen a forward, until the slower decoder is done."""
    settings = {"max_new_tokens": "20", "rule_a": "med", "rule_b": "low_confidence", "compare": True}
    loading, *screens, last = events.run(form(**settings))
    assert "Loading sudoku-4x4" in loading.message
    # The prompt, 20 forwards of the slower, its result; then the same with the replay.
    assert len(screens) == 22 and all(len(screen.panels) == 2 and not screen.message for screen in screens)
    model, tokenizer = load("sudoku-4x4")
    ids = tokenizer(form()["prompt"], return_tensors="pt")["input_ids"]
    replays = json.loads(re.search(r'id="replay-data"[^>]*>(.*?)</script>', last.replay.read_text(), re.DOTALL)[1])
    for panel, replay, rule in zip(last.panels, replays["replays"], ("med", "low_confidence"), strict=True):
        output = model.generate(ids, max_new_tokens=20, decoding=rule, return_dict_in_generate=True)
        assert replay["sequence"] == output.sequences[0].tolist()
        written = tokenizer.decode(output.sequences[0, ids.shape[1] :], skip_special_tokens=True)
        assert words(panel).rstrip().endswith(written)
        assert f"<dd>{int(output.num_forward_passes[0])}</dd>" in panel
        assert f"<dd>{float(output.tokens_per_forward[0]):.2f}</dd>" in panel
    opened = [screen.panels[1].count('data-state="open"') for screen in screens]
    assert opened[1:] == [*range(19, -1, -1), 0]


def test_blanks_are_filled_in_place(events, form):
    """A row of a board with two blanks; what stands around them stays."""
    prompt = form()["prompt"] + "1[[2]]4\n[[4]]\n2143\n4321"
    *_, last = events.run(form(mode="infill", prompt=prompt))
    written = words(last.panels[0]).rstrip()
    assert re.search(r"=\n1\S\S4\n\S{4}\n2143\n4321$", written)


def test_reasoning_shows_the_answers_entropy_and_its_exit(events, form):
    example = events.fill_example("arithmetic", 1)
    *_, last = events.run(form(model="arithmetic", mode=example.mode, prompt=example.prompt, **example.fields))
    assert "Entropy of the answer, nats" in last.panels[0]
    assert "exit at forward" in last.panels[0]


@pytest.mark.parametrize("name", ["sudoku-4x4", "sudoku-6x6", "arithmetic"])
def test_every_packaged_puzzle_model_has_examples_with_a_verdict(events, form, name):
    """The button fills in the form so that Generate works; whether it is solved is the task's verdict."""
    first, again, second = (events.fill_example(name, number) for number in (1, 1, 2))
    assert first.prompt == again.prompt != second.prompt
    filled = {"model": name, "mode": first.mode, "prompt": first.prompt, "example": 1, **first.fields}
    *_, last = events.run(form(**filled))
    assert re.search("solved|wrong", words(last.panels[0]))
    completion = json.loads(re.search(r'id="replay-data"[^>]*>(.*?)</script>', last.replay.read_text(), re.DOTALL)[1])
    replay = completion["replays"][0]
    tokenizer = load(name)[1]
    right = first.judge(tokenizer.decode(replay["sequence"][replay["given"].index(False) :]))
    assert ("solved" if right else "wrong") in words(last.panels[0])
    # Another prompt is no longer the puzzle.
    *_, changed = events.run(form(**filled | {"prompt": second.prompt}))
    assert not re.search("solved|wrong", words(changed.panels[0]))


def test_a_checkpoint_without_puzzles_has_no_example(events, tmp_path):
    assert events.fill_example(str(tmp_path), 1) is None
    assert events.fill_example("no/such-model", 1) is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"temperature": "-1"}, "`temperature` must be a number"),
        ({"model": ""}, "`checkpoint` is empty"),
        ({"max_denoising_steps": "1", "block_length": "4", "max_new_tokens": "8"}, "at least the number of blocks"),
        ({"prompt": "Sudoku?"}, "`prompt` holds what the checkpoint's tokenizer has no token for"),
        ({"mode": "infill"}, "has no blank to fill"),
        ({"max_new_tokens": "4000"}, "Prompt plus `max_new_tokens` is 4022 tokens"),
        ({"chat": True}, "chat"),
        ({"pause": "soon"}, "soon"),
    ],
)
def test_what_is_wrong_is_said_in_the_page(events, form, changes, said):
    """A traceback on the server and an empty page tell a visitor nothing."""
    assert said in message(events, form(**changes))


def test_a_folder_that_is_no_checkpoint_is_a_message(events, form, tmp_path):
    assert str(tmp_path) in message(events, form(model=str(tmp_path)))


def test_an_error_of_ours_is_a_message_too_and_is_logged(events, form, monkeypatch, caplog):
    """What nobody thought of must not leave the page waiting."""

    def fail(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(events.checkpoints, "get", fail)
    assert "RuntimeError: out of luck" in message(events, form())
    assert "out of luck" in caplog.text


def test_strangers_choose_listed_checkpoints_only_and_trust_no_code(form, tmp_path):
    """On a public page a typed name would read the server's disk, and its code would run on the server."""
    public = Events(AppSettings(("sudoku-4x4",), public=True), tmp_path)
    for name in ("arithmetic", resolve("arithmetic"), "somebody/model"):
        assert "`checkpoint` must be one of sudoku-4x4" in message(public, form(model=name))
        assert public.fill_example(name, 1) is None
    assert "`trust_remote_code` cannot be turned on" in message(public, form(trust_remote_code=True))
    *_, last = public.run(form())
    assert last.replay is not None


@pytest.mark.parametrize(
    ("settings", "asked", "trusted"),
    [
        (AppSettings(), False, False),
        (AppSettings(), True, True),
        (AppSettings(("a/b",), trust_remote_code=True), False, True),
        (AppSettings(("c/d",), trust_remote_code=True), False, False),
        (AppSettings(("a/b",), trust_remote_code=True, public=True), False, True),
    ],
)
def test_code_of_a_checkpoint_runs_only_when_somebody_asked_for_it(settings, asked, trusted):
    """Trusting the listed checkpoints is not trusting what a visitor types."""
    assert settings.check_choice("a/b", asked) is trusted


def test_two_checkpoints_are_kept_in_memory(monkeypatch):
    """A page that loads every checkpoint it is asked for, for good, runs out of memory."""
    calls = []

    def count(name, **kwargs):
        calls.append((name, kwargs))
        return name, object()

    monkeypatch.setattr("hf_latent.checkpoints.loading.load", count)
    loaded = LoadedCheckpoints()
    first = loaded.get("a")
    assert loaded.get("a") is first
    loaded.get("b")
    loaded.get("a")
    loaded.get("c", revision="main", trust_remote_code=True)  # b goes: a was asked for since
    loaded.get("a")
    loaded.get("b")
    assert [name for name, _ in calls] == ["a", "b", "c", "b"]
    assert calls[2][1] == {"revision": "main", "trust_remote_code": True}
    assert len(loaded._loaded) == MOST_LOADED


def test_old_replays_are_removed(events, form, tmp_path):
    """A server that runs for weeks would fill its disk."""
    for number in range(MOST_KEPT + 5):
        (tmp_path / f"replay-{number:03}.html").touch()
    *_, last = events.run(form())
    assert len(list(tmp_path.glob("replay-*.html"))) == MOST_KEPT
    assert last.replay.is_file()


def test_the_threshold_field_says_what_it_sets():
    """Nats and probabilities must not be mixed up; a rule by schedule has none."""
    assert describe_threshold("sudoku-6x6", "as published") == ("threshold, as published", "med, 0.02", False)
    assert describe_threshold("sudoku-6x6", "med") == ("threshold, nats", "0.02", True)
    assert describe_threshold("sudoku-6x6", "confidence_threshold") == ("least probability", "0.9", True)
    assert describe_threshold("sudoku-6x6", "random") == ("threshold, none", "by schedule", False)
    assert describe_threshold("no/such", "med") == ("threshold, nats", "as published", True)
