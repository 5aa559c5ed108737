"""The forwards of a run: how long they take within it, and how long the same ones take alone."""

import time
from typing import Any

import torch
from parts.report import timed

from hf_latent.generation.model_calls.block_cache import BlockCache


class Stopwatch:
    """
    Watches a model's forwards.

    Args:
        seconds: that they take.
        forwards: how many there are.
        softmax_seconds: that the softmax of their logits and its maxima take, where they are examined.
        calls: inputs, and which columns of the cache they belong to, of those that are examined.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.seconds, self.forwards, self.softmax_seconds, self._start = 0.0, 0, 0.0, 0.0
        self._model, self._examines = model, False
        self.calls: list[tuple[dict[str, Any], dict[str, Any] | None]] = []
        begin = model.register_forward_pre_hook(self._begin, with_kwargs=True)
        self._hooks = (begin, model.register_forward_hook(self._end))

    def _begin(self, _model: torch.nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
        if self._examines:
            past = kwargs.get("cache")
            inputs = {k: v for k, v in kwargs.items() if k not in ("cache", "logits_to_keep")}
            self.calls.append((inputs, None if past is None else dict(vars(past.target))))
        self._start = time.perf_counter()

    def _end(self, _model: torch.nn.Module, _inputs: object, output: Any) -> None:
        self.seconds += time.perf_counter() - self._start
        self.forwards += 1
        if self._examines:
            self.softmax_seconds += timed(lambda: output.logits.softmax(-1).max(-1))

    def reset(self, examine: bool = False) -> None:
        """Start anew; `examine`: remember the coming forwards for `repeat`, and time the softmax of their logits."""
        self.seconds, self.forwards, self.softmax_seconds = 0.0, 0, 0.0
        self._examines = examine
        if examine:
            self.calls.clear()

    @torch.no_grad()
    def repeat(self) -> float:
        """Seconds of the forwards that were examined, called anew: the same shapes, logits of all that is read."""
        cache = BlockCache()
        start = time.perf_counter()
        for inputs, slots in self.calls:
            if slots is None:
                self._model(**inputs)
            else:
                vars(cache.target).update(slots)
                self._model(**inputs, cache=cache)
        return time.perf_counter() - start

    def remove(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()
