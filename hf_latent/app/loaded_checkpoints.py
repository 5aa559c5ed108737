"""The checkpoints that the page has in memory, and what their folders say about them."""

from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import Any

MOST_LOADED = 2


class LoadedCheckpoints:
    """Loads checkpoints and keeps the last `MOST_LOADED` of them."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[tuple[str, str | None, bool], tuple[Any, Any]] = OrderedDict()
        self._lock = Lock()

    def get(self, name: str, *, revision: str | None = None, trust_remote_code: bool = False) -> tuple[Any, Any]:
        """Model and tokenizer of `name`; see `hf_latent.checkpoints.loading.load`."""
        from hf_latent.checkpoints.loading import load

        key = (name, revision, trust_remote_code)
        with self._lock:
            if key not in self._loaded:
                # Room is made first: two models too many are more than the machine may hold.
                while len(self._loaded) >= MOST_LOADED:
                    self._loaded.popitem(last=False)
                self._loaded[key] = load(name, revision=revision, trust_remote_code=trust_remote_code)
            self._loaded.move_to_end(key)
            return self._loaded[key]


def about_checkpoint(name: str) -> dict[str, Any]:
    """The `task.json` of a model folder or packaged checkpoint; empty if there is none."""
    return _read(name, "task.json")


def own_decoding(name: str) -> dict[str, Any]:
    """The `generation_config.json` of a model folder or packaged checkpoint; empty if there is none."""
    return _read(name, "generation_config.json")


def _read(name: str, file: str) -> dict[str, Any]:
    from hf_latent.checkpoints.names import resolve_checkpoint
    from hf_latent.data.json_files import read_json_object

    return read_json_object(Path(resolve_checkpoint(name, "checkpoint")) / file)


__all__ = ["LoadedCheckpoints", "about_checkpoint", "own_decoding"]
