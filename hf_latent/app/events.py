"""What happens when a visitor presses something: functions of the form's values, without gradio."""

import logging
import tempfile
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from hf_latent.app.drawing import draw_message, draw_panel, largest_entropy
from hf_latent.app.examples import ANY_WORDS, Example, Words, example_of, has_examples, words_of
from hf_latent.app.form import OWN_RULE, Request, fill_blanks, read_form
from hf_latent.app.loaded_checkpoints import LoadedCheckpoints, about_checkpoint, own_decoding
from hf_latent.app.preview import empty_panel, preview
from hf_latent.app.settings import AppSettings
from hf_latent.app.stepwise_generation import Snapshot, watch
from hf_latent.generation.commit.rules import RULES

LOGGER = logging.getLogger(__name__)
MOST_PAUSE = 5.0  # seconds
MOST_KEPT = 20  # replay pages


@dataclass
class Screen:
    """
    What the page shows of a run.

    Args:
        message: HTML; empty for none.
        panels: HTML, one a decoder.
        replay: the replay page, once the run has ended.
    """

    message: str = ""
    panels: list[str] = field(default_factory=list)
    replay: Path | None = None


class Events:
    """
    The page's functions.

    Args:
        settings: of the page.
        folder: where replay pages go; a temporary one if not given.
    """

    def __init__(self, settings: AppSettings, folder: Path | None = None) -> None:
        self.settings = settings
        self.checkpoints = LoadedCheckpoints()
        self._temporary = None if folder is not None else tempfile.TemporaryDirectory(prefix="hf-latent-app-")
        self.folder = folder if folder is not None else Path(self._temporary.name)  # type: ignore[union-attr]

    def run(self, form: Mapping[str, Any]) -> Iterator[Screen]:
        """Generate with one decoder or two in step, a screen after every forward. What fails becomes a message."""
        try:
            yield from self._run(form)
        except (ValueError, OSError, ImportError) as error:
            yield Screen(draw_message(str(error)))
        except Exception as error:
            LOGGER.exception("a run of the page failed")
            yield Screen(draw_message(f"{type(error).__name__}: {error}. The server's log says more."))

    def _run(self, form: Mapping[str, Any]) -> Iterator[Screen]:
        request = read_form(form)
        name = str(form["model"] or "").strip()
        trusted = self.settings.check_choice(name, bool(form["trust_remote_code"]))
        yield Screen(draw_message(f"Loading {name} …", "note"))
        revision = str(form["revision"] or "").strip() or None
        model, tokenizer = self.checkpoints.get(name, revision=revision, trust_remote_code=trusted)
        example = self._example(form, name)
        race = Race(model, tokenizer, request, example)
        pause = min(MOST_PAUSE, max(0.0, float(form["pause"] or 0)))
        with closing(race.snapshots()) as screens:
            for panels in screens:
                yield Screen("", panels)
                if not race.ended:
                    time.sleep(pause)
        yield Screen("", race.panels(), race.write_replay(self.folder, name))

    def _example(self, form: Mapping[str, Any], name: str) -> Example | None:
        """The puzzle that the prompt is, if it still is one."""
        about = about_checkpoint(name)
        if form["example"] is None or not has_examples(about):
            return None
        example = _cached_example(name, int(form["example"]))
        return example if (example.prompt, example.mode) == (form["prompt"], form["mode"]) else None

    def words(self, name: str) -> Words:
        """What the page calls things for a checkpoint."""
        name = str(name or "").strip()
        if self.settings.public and name not in self.settings.choices:
            return ANY_WORDS
        try:
            return words_of(about_checkpoint(name))
        except (ValueError, OSError):
            return ANY_WORDS

    def waiting_panels(self, name: str, number: int) -> list[str]:
        """Both panels before a run: the canvas of the example, or what to do where there is none."""
        press = f"Press {self.words(name).run}, or Shift+Enter in the text."
        example = self.fill_example(name, number)
        if example is None:
            return [empty_panel(side, press) for side in "ab"]
        return [preview(str(name).strip(), example, side, press) for side in "ab"]

    def fill_example(self, name: str, number: int) -> Example | None:
        """The puzzle of this number for a checkpoint; None if it has none."""
        name = str(name or "").strip()
        if self.settings.public and name not in self.settings.choices:
            return None
        try:
            return _cached_example(name, number) if has_examples(about_checkpoint(name)) else None
        except (ValueError, OSError):
            return None


@lru_cache(maxsize=64)
def _cached_example(name: str, number: int) -> Example:
    return example_of(about_checkpoint(name), number)


def describe_threshold(name: str, rule: str) -> tuple[str, str, bool]:
    """Label and placeholder of the threshold of `rule` for a checkpoint, and whether there is one to set."""
    own = own_decoding(str(name or "").strip())
    if rule == OWN_RULE or rule not in RULES:
        decoding = str(own.get("decoding", ""))
        published = own.get(RULES[decoding].knob or "") if decoding in RULES else None
        return (
            "threshold, as published",
            ", ".join(str(x) for x in (decoding, published) if x not in (None, "")),
            False,
        )
    knob = RULES[rule].knob
    if knob is None:
        return "threshold, none", "by schedule", False
    unit = "least probability" if knob == "confidence_threshold" else "threshold, nats"
    return unit, str(own.get(knob, "as published")), True


class Race:
    """
    One prompt and one decoder or two, run in step: neither computes while the other does.

    Args:
        model, tokenizer: a loaded checkpoint.
        request: what to run.
        example: the puzzle that the prompt is, or None.
    """

    def __init__(self, model: Any, tokenizer: Any, request: Request, example: Example | None) -> None:
        from hf_latent.viz.recording import find_mask_token_id, shown_settings
        from hf_latent.viz.spelling import Speller

        self.model, self.tokenizer, self.request, self.example = model, tokenizer, request, example
        self.mask_token_id = find_mask_token_id(model, request.knobs[0])
        self.text = request.text
        if request.infill:
            if self.mask_token_id is None:
                raise ValueError("`mask_token_id` is not set: neither the checkpoint nor the further knobs say it.")
            self.text = fill_blanks(request.text, str(tokenizer.convert_ids_to_tokens(self.mask_token_id)))
        try:
            tokenizer([self.text, *filter(None, [request.parts.get("delimiter")])])
        except Exception as error:  # of a class without name: tokenizers raises bare ones
            raise ValueError(f"`prompt` holds what the checkpoint's tokenizer has no token for: {error}.") from error
        special = {*tokenizer.all_special_ids, self.mask_token_id}
        self.special_ids = frozenset(token for token in special if token is not None)
        self.settings = [shown_settings(knobs, model.generation_config) for knobs in request.knobs]
        self.speller = Speller(tokenizer, self.special_ids)
        self.now: list[Snapshot | None] = [None] * len(request.knobs)
        self.given: list[bool] = []

    def snapshots(self) -> Generator[list[str], None, None]:
        """All panels after every forward that any decoder still needs."""
        from hf_latent.viz.recording import run_once

        runs = []
        for knobs in self.request.knobs:
            run = partial(
                run_once,
                self.model,
                self.tokenizer,
                self.text,
                knobs,
                parts=self.request.parts,
                infill=self.request.infill,
                chat=self.request.chat,
            )
            runs.append(watch(lambda streamer, run=run: run(streamer=streamer), self.mask_token_id))
        try:
            while not self.ended:
                for number, (run_, now) in enumerate(zip(runs, self.now, strict=True)):
                    if now is None or now.replay is None:
                        self.now[number] = next(run_)
                self._learn_given()
                yield self.panels()
        finally:
            for run_ in runs:
                run_.close()  # type: ignore[attr-defined]

    @property
    def ended(self) -> bool:
        """Whether every decoder is done."""
        return all(now is not None and now.replay is not None for now in self.now)

    def _learn_given(self) -> None:
        """Which positions were given: a run that has ended knows; before, all that stands without being written."""
        for now in self.now:
            if now is not None and now.replay is not None:
                self.given = now.replay.given
                return
        now = self.now[0]
        # Later on, what lies behind an end-of-sequence token stands there too, and was not given.
        if now is not None and now.num_forwards <= 1:
            steps = zip(now.ids, now.commit_step, strict=True)
            self.given = [token != self.mask_token_id and step < 0 for token, step in steps]

    def panels(self) -> list[str]:
        """The panels as they are now."""
        largest = largest_entropy(self.now)
        drawn = []
        for settings, now in zip(self.settings, self.now, strict=True):
            output = solved = None
            if now is not None and now.replay is not None:
                output = self.written(now)
                solved = self.example.judge(self.completion(now)) if self.example is not None else None
            drawn.append(
                draw_panel(
                    settings["decoding"],
                    {key: value for key, value in settings.items() if key != "decoding"},
                    now,
                    self.speller.text,
                    spell=self.speller.texts,
                    mask_token_id=self.mask_token_id,
                    special_ids=self.special_ids,
                    given=self.given[: len(now.ids)] if now is not None else (),
                    largest=largest,
                    output=output,
                    solved=solved,
                )
            )
        return drawn

    def completion(self, now: Snapshot) -> str:
        """All behind what was given, special tokens included."""
        assert now.replay is not None
        start = now.replay.given.index(False)
        return self.tokenizer.decode(now.replay.sequence[start:])

    def written(self, now: Snapshot) -> str:
        """The text for people: what was appended, or the whole text whose blanks were filled."""
        assert now.replay is not None
        start = 0 if self.request.infill else now.replay.given.index(False)
        return self.tokenizer.decode(now.replay.sequence[start:], skip_special_tokens=True)

    def write_replay(self, folder: Path, title: str) -> Path:
        """The page that replays what was run."""
        from hf_latent.viz import write_replay

        replays = [now.replay for now in self.now if now is not None and now.replay is not None]
        for old in sorted(folder.glob("replay-*.html"))[: -MOST_KEPT + 1]:
            old.unlink(missing_ok=True)
        return write_replay(replays, folder / f"replay-{time.time_ns()}.html", title)


__all__ = ["Events", "Race", "Screen", "describe_threshold"]
