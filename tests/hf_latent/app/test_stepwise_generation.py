"""A watched run computes one forward at a time, shows what `generate` does, and leaves no thread behind."""

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from hf_latent.app.stepwise_generation import Snapshot, Watch, watch
from hf_latent.viz import Replay
from hf_latent.viz.recording import run_once

KNOBS = {"decoding": "low_confidence", "max_new_tokens": 8, "block_length": 4, "eos_token_id": None}


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "hf-latent app run"]


class DraftsOnly:
    """What a checkpoint's own, older code knows of a streamer."""

    def __init__(self, streamer: Watch) -> None:
        self.put, self.put_draft, self.end = streamer.put, streamer.put_draft, streamer.end


@pytest.fixture
def run(sudoku_model: Any, tokenizer: Any, puzzles: list[dict[str, Any]]) -> Callable[..., Replay]:
    return partial(run_once, sudoku_model, tokenizer, puzzles[0]["prompt"], KNOBS, parts={}, infill=False, chat=False)


def test_nothing_is_computed_until_it_is_asked_for(run):
    """Two decoders side by side would slow each other down, and a page that is left would go on computing."""
    began = []

    def work(streamer: Watch) -> Replay:
        began.append(True)
        return run(streamer=streamer)

    snapshots = watch(work, None)
    assert not began and not threads()
    for k in range(4):
        assert next(snapshots).num_forwards == k
    assert began and len(threads()) == 1
    snapshots.close()


def test_closing_ends_the_run(run):
    """A visitor who stops, or goes away, must not leave a thread that waits for ever with a model in its hands."""
    snapshots = watch(lambda streamer: run(streamer=streamer), None)
    next(snapshots)
    next(snapshots)
    snapshots.close()
    assert not threads()


def test_a_run_that_nobody_closes_ends_itself(run, monkeypatch):
    """A server may drop an iterator without closing it."""
    monkeypatch.setattr("hf_latent.app.stepwise_generation.PATIENCE", 0.05)
    snapshots = watch(lambda streamer: run(streamer=streamer), None)
    next(snapshots)
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "hf-latent app run")
    thread.join(10)
    assert not threads()


def test_what_goes_wrong_in_the_run_is_raised_where_it_is_watched():
    """An exception on a thread is otherwise printed on the server, and the page waits for ever."""

    def work(streamer: Watch) -> Replay:
        streamer.put(torch.tensor([1, 2]))
        raise ValueError("`block_length` is wrong")

    snapshots = watch(work, 0)
    assert next(snapshots).ids == [1, 2]
    with pytest.raises(ValueError, match="`block_length` is wrong"):
        next(snapshots)
    assert not threads()


def test_snapshots_are_the_history_of_the_run(run, sudoku_model, tokenizer, puzzles):
    """The page must show what the decoder did, not an animation of its result."""
    *live, last = watch(lambda streamer: run(streamer=streamer), tokenizer.mask_token_id)
    ids = tokenizer(puzzles[0]["prompt"], return_tensors="pt")["input_ids"]
    output = sudoku_model.generate(ids, output_history=True, return_dict_in_generate=True, **KNOBS)
    assert live[0].ids == ids[0].tolist()
    steps = output.commit_step[0].tolist()
    for k, snapshot in enumerate(live[1:]):
        assert snapshot.num_forwards == k + 1
        assert snapshot.ids == output.history[k][0].tolist()
        assert snapshot.candidate == output.candidate_history[k][0].tolist()
        assert snapshot.commit_step == [step if step <= k else -1 for step in steps]
        # What is written keeps the confidence it was written with; what is open has that of its candidate.
        for position, step in enumerate(steps):
            read = k if step < 0 or step > k else step
            expected = output.confidence_history[read][0, position].item()
            if expected == expected:
                assert snapshot.confidence[position] == pytest.approx(expected)
    assert len(live) == 9 and last.replay is not None
    assert (last.ids, last.commit_step, last.num_forwards) == (output.sequences[0].tolist(), steps, 8)
    for position, step in enumerate(steps):
        if step >= 0:
            assert last.confidence[position] == pytest.approx(live[step + 1].confidence[position], abs=1e-4)


def test_drafts_alone_show_when_each_token_was_written(run, tokenizer):
    """Checkpoints that run their own code, from before `put_progress`, must be watchable too."""
    snapshots: Iterator[Snapshot] = watch(lambda s: run(streamer=DraftsOnly(s)), tokenizer.mask_token_id)
    *live, last = snapshots
    assert [snapshot.num_forwards for snapshot in live] == list(range(9))
    assert live[-1].commit_step == last.commit_step
    assert live[-1].ids == last.ids
