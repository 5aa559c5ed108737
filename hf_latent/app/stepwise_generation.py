"""A run that stops after every forward until somebody wants to see the next."""

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import torch

from hf_latent.generation.state.progress import Progress
from hf_latent.viz.replay import Replay

# Seconds after which a run that nobody watches any more ends itself.
PATIENCE = 300.0


@dataclass
class Snapshot:
    """
    The canvas after a forward. `P` positions; plain lists, as in `Replay`.

    Args:
        ids: `(P,)`, masks included.
        commit_step: `(P,)` 0-based forward that wrote the position; -1 for none.
        confidence: `(P,)` probability in [0, 1]: of what was written when it was, of the candidate where it is open;
            None where neither is known.
        candidate: `(P,)` what the forward proposed where it is open; -1 for nothing.
        commit_entropy: `(P,)` nats.
        answer_entropy: nats, one a forward; None without an answer.
        num_forwards: so far.
        seconds: of computing so far, waiting left out.
        replay: the whole run, once it has ended.
    """

    ids: list[int]
    commit_step: list[int]
    confidence: list[float | None]
    candidate: list[int]
    commit_entropy: list[float | None] = field(default_factory=list)
    answer_entropy: list[float | None] | None = None
    num_forwards: int = 0
    seconds: float = 0.0
    replay: Replay | None = None


class RunStopped(Exception):
    """Raised inside a run that nobody watches any more."""


class Watch:
    """
    Streamer for `generate` (`put`, `put_progress`, `put_draft`, `end`) that hands over a snapshot after every forward
    and waits until the next is asked for.

    Models whose own code has no `put_progress` are shown from their drafts, without candidates and confidence.
    """

    def __init__(self, mask_token_id: int | None) -> None:
        self.mask_token_id = mask_token_id
        self.now = Snapshot([], [], [], [])
        self.ready: SimpleQueue[Snapshot | BaseException] = SimpleQueue()
        self.asked = threading.Semaphore(0)
        self.stopped = False
        self._begin: int | None = None  # column of the next token that becomes final
        self._progress: Progress | None = None
        self._tells_progress = False
        self._since = 0.0

    def wait(self) -> None:
        """Return when the next snapshot is wanted; raise `RunStopped` if none ever will be."""
        if not self.asked.acquire(timeout=PATIENCE) or self.stopped:
            raise RunStopped
        self._since = time.perf_counter()

    def put_progress(self, progress: Progress) -> None:
        """Everything that the loop knows; drawn with the `put` or `put_draft` that follows."""
        self._progress = progress
        self._tells_progress = True

    def put(self, value: torch.Tensor) -> None:
        """Final tokens; the first call brings the given ones."""
        ids = value.flatten().tolist()
        if self._begin is None:
            self._begin = len(ids)
            self.now = Snapshot(ids, [-1] * len(ids), [None] * len(ids), [-1] * len(ids))
            self._hand_over(0)
            return
        self._step(ids)
        self._begin += len(ids)

    def put_draft(self, value: torch.Tensor, **kwargs: Any) -> None:
        """A step's state of what is not final yet."""
        self._step(value.flatten().tolist())

    def end(self) -> None:
        """Nothing more is written."""

    def _step(self, ids: list[int]) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            self._read(progress)
        elif self._tells_progress:
            return  # what follows the last forward: the result itself comes next
        else:
            self._guess(ids)
        self._hand_over(1)

    def _read(self, progress: Progress) -> None:
        """Take the row out of what the loop knows."""
        old = self.now.confidence
        ids = progress.ids[0].tolist()
        steps = progress.commit_step[0].tolist()
        candidate = [-1] * len(ids) if progress.candidate is None else progress.candidate[0].tolist()
        known: list[float | None] = (
            [None] * len(ids) if progress.confidence is None else finite(progress.confidence[0])
        )
        newest = max(steps, default=-1)
        confidence = []
        for position, step in enumerate(steps):
            is_read = step < 0 or step == newest
            earlier = old[position] if position < len(old) else None
            confidence.append(known[position] if is_read and known[position] is not None else earlier)
        self.now = Snapshot(
            ids,
            steps,
            confidence,
            candidate,
            finite(progress.commit_entropy[0]),
            [finite(value)[0] for value in progress.answer_entropy] or None,
            self.now.num_forwards,
            self.now.seconds,
        )

    def _guess(self, draft: list[int]) -> None:
        """What was a mask and is none now was written by this forward."""
        assert self._begin is not None
        now, end = self.now, self._begin + len(draft)
        ids, steps = list(now.ids), list(now.commit_step)
        ids += [self.mask_token_id if self.mask_token_id is not None else -1] * (end - len(ids))
        steps += [-1] * (end - len(steps))
        for position, token in enumerate(draft, self._begin):
            if token != ids[position]:
                steps[position] = now.num_forwards
            ids[position] = token
        unknown: list[float | None] = [None] * len(ids)
        self.now = Snapshot(ids, steps, unknown, [-1] * len(ids), num_forwards=now.num_forwards, seconds=now.seconds)

    def _hand_over(self, forwards: int) -> None:
        self.now.num_forwards += forwards
        self.now.seconds += time.perf_counter() - self._since
        self.ready.put(self.now)
        self.wait()


def watch(run: Callable[[Watch], Replay], mask_token_id: int | None) -> Iterator[Snapshot]:
    """
    Snapshots of `run`, which generates with the streamer it is given, on a thread of its own.

    The first is the canvas before any forward, the last has the `replay`. Nothing is computed while nobody asks for
    the next one, and closing the iterator ends the run.
    """
    streamer = Watch(mask_token_id)

    def work() -> None:
        try:
            streamer.wait()
            replay = run(streamer)
            streamer.now.seconds += time.perf_counter() - streamer._since
            streamer.ready.put(finished(streamer.now, replay))
        except RunStopped:
            pass
        except BaseException as error:
            streamer.ready.put(error)

    thread = threading.Thread(target=work, name="hf-latent app run", daemon=True)
    thread.start()
    try:
        while True:
            streamer.asked.release()
            item = streamer.ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
            if item.replay is not None:
                return
    finally:
        streamer.stopped = True
        streamer.asked.release()
        thread.join()


def finished(last: Snapshot, replay: Replay) -> Snapshot:
    """The snapshot of a run that has ended: what was returned, and how surely each token was written."""
    confidence: list[float | None] = [
        replay.confidences[step][position] if replay.confidences is not None and step >= 0 else None
        for position, step in enumerate(replay.commit_step)
    ]
    return Snapshot(
        replay.sequence,
        replay.commit_step,
        confidence,
        [-1] * len(replay.sequence),
        list(replay.commit_entropy or []),
        replay.answer_entropy,
        replay.num_forwards,
        last.seconds,
        replay,
    )


def finite(values: torch.Tensor) -> list[float | None]:
    """Values of a tensor, None for nan."""
    return [None if value != value else value for value in values.flatten().tolist()]


__all__ = ["RunStopped", "Snapshot", "Watch", "finished", "watch"]
