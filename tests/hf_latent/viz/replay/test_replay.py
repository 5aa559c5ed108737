"""A replay holds what the run did; its page is one file that carries it and nothing else."""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_latent import DiffusionGenerateOutput
from hf_latent.viz import Replay, replay_of, write_replay

MASK, EOS, PAD = 0, 1, 2
SVG_NAMESPACE = "http://www.w3.org/2000/svg"
NAN = float("nan")


def data_of(path: Path) -> Any:
    found = re.search(r'<script id="replay-data" type="application/json">(.*?)</script>', path.read_text(), re.DOTALL)
    return json.loads(found.group(1))


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


def test_a_row_of_a_batch_ends_with_its_own_forwards_and_loses_its_padding(words):
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
        words,
        name="x",
        settings={},
        input_ids=torch.tensor([PAD, 4]),
        attention_mask=torch.tensor([0, 1]),
    )
    assert (replay.start, replay.sequence, replay.commit_step) == ([4, MASK, MASK], [4, 7, 8], [-1, 0, 1])
    assert (replay.num_forwards, len(replay.canvas), replay.answer_entropy) == (2, 2, [2.0, 0.0])
    assert replay.exit_step is None and replay.candidates is None


def test_masks_within_the_prompt_are_open_and_the_answer_is_marked(run_of, words):
    output = run_of([-1, 0, -1, 1], [3, 4, 5, 6], 0)
    replay = replay_of(
        output,
        0,
        words,
        name="x",
        settings={},
        input_ids=[3, MASK, 5, MASK],
        answer_mask=[False, False, False, True],
    )
    assert replay.given == [True, False, True, False]
    assert replay.in_answer == [False, False, False, True]
    assert replay.prompt == "23"


def test_without_history_the_canvas_is_rebuilt_from_the_steps(run_of, words):
    output = run_of([-1, 1, 0, -1], [3, 4, EOS, PAD], 1, history=None, candidate_history=None, confidence_history=None)
    replay = replay_of(output, 0, words, name="x", settings={}, input_ids=[3])
    assert replay.canvas == [[3, MASK, EOS, MASK], [3, 4, EOS, PAD]]
    assert replay.confidences is None


def test_pieces_keep_their_space_and_characters_in_parts_their_name(run_of, words):
    class Pieces(type(words)):
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
        ({"tokenizer": SimpleNamespace(mask_token_id=None)}, "`mask_token_id` must be given"),
    ],
)
def test_what_cannot_be_replayed_is_said(run_of, words, changes, message):
    output = run_of([-1, 0, 0], [3, 4, 5], 1)
    arguments = {"output": output, "row": 0, "tokenizer": words, "name": "x", "settings": {}, "input_ids": [3]}
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


def test_text_cannot_end_the_script_it_stands_in(slow, evil, tmp_path):
    hostile = dataclasses.replace(slow, prompt=evil, name=evil, texts={**slow.texts, 7: evil}, answer=evil)
    path = write_replay([hostile], tmp_path / "page.html", evil)
    assert evil not in path.read_text()
    assert data_of(path)["replays"][0]["texts"]["7"] == evil
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
