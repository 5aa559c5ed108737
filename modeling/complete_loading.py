"""Checkpoints that do not have exactly the weights of a model: an error that names them, not a table in the log."""

from collections.abc import Iterable
from typing import Any

SHOWN = 4


class CompleteLoadingMixin:
    """
    `from_pretrained` that makes no weights up and drops none. Comes before `PreTrainedModel` among a class's bases.

    What is missing for a reason is none of it: heads that share the embeddings, what a quantizer puts in another form,
    adapters, which are loaded after the model. What is of another shape transformers refuses itself.
    """

    def _adjust_missing_and_unexpected_keys(self, *args: Any, **kwargs: Any) -> None:
        # Where all that is accounted for has been taken out of the lists, before they are reported.
        super()._adjust_missing_and_unexpected_keys(*args, **kwargs)  # type: ignore[misc]
        for info in (*args, *kwargs.values()):
            if hasattr(info, "missing_keys"):
                missing, unexpected = info.missing_keys, info.unexpected_keys
                info.missing_keys, info.unexpected_keys = set(), set()  # the error says it, the report need not
                refuse_incomplete(type(self).__name__, missing, unexpected)


def refuse_incomplete(name: str, missing: Iterable[str], unexpected: Iterable[str]) -> None:
    """Raise `ValueError` if weights of a model are `missing` in a checkpoint or others there are `unexpected`."""
    found = [
        f"{what} {_listed(sorted(keys))}" for what, keys in (("has not", missing), ("has also", unexpected)) if keys
    ]
    if found:
        raise ValueError(
            f"the weights must be those of a {name}, but the checkpoint {' and '.join(found)}: it is of another "
            "architecture than its configuration says, or was cut."
        )


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    return shown if len(names) <= SHOWN else f"{shown} and {len(names) - SHOWN} more"


__all__ = ["CompleteLoadingMixin", "refuse_incomplete"]
