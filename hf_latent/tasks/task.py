"""What training and evaluation ask of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

__all__ = ["Task"]


class Task(Protocol):
    """
    Instances with a generator, a formatter and a verifier.

    Attributes:
        name: as in `TrainArguments.task`.
        version: raised whenever the same seed gives other instances.
    """

    name: str
    version: int

    @property
    def completion_length(self) -> int:
        """Tokens of a completion."""

    def generate(self, num: int, seed: int, /, *, split: str = "train") -> list[dict[str, Any]]:
        """Distinct instances of the "train" or "test" side, the same on every platform for the same arguments."""

    def dataset(self, num: int, seed: int, /, *, split: str = "train") -> Dataset:
        """Generated instances with the columns of `format`."""

    def format(self, instance: dict[str, Any], /) -> dict[str, str]:
        """ "prompt" and "completion" of an instance."""

    def is_solved(self, instance: dict[str, Any], completion: str, /) -> bool:
        """Whether a decoded completion, special tokens included, solves the instance."""

    def difficulty(self, instance: dict[str, Any], /) -> int:
        """How much an instance asks for, from 0; each task says what is counted."""

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer for a model that is trained from scratch."""
