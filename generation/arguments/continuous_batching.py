"""Continuous batching of transformers, which our models inherit and which decodes causally, whatever the model is."""

from typing import Any


class ContinuousBatchingRefusal:
    """Comes before `GenerationMixin` among the bases of a class."""

    def refuse_continuous_batching(self, name: str) -> None:
        """Raise `ValueError` for the method `name`."""
        raise ValueError(
            f"`{name}` is not supported by {type(self).__name__}: continuous batching reads every text causally, from "
            "left to right, whatever the attention of the model. Use `generate`, with `attention_mask` for a batch."
        )

    def generate_batch(self, *args: Any, **kwargs: Any) -> Any:
        """Not supported: see `refuse_continuous_batching`."""
        self.refuse_continuous_batching("generate_batch")
        return super().generate_batch(*args, **kwargs)  # type: ignore[misc]

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Not supported: see `refuse_continuous_batching`."""
        self.refuse_continuous_batching("init_continuous_batching")
        return super().init_continuous_batching(*args, **kwargs)  # type: ignore[misc]

    def continuous_batching_context_manager(self, *args: Any, **kwargs: Any) -> Any:
        """Not supported: see `refuse_continuous_batching`."""
        self.refuse_continuous_batching("continuous_batching_context_manager")
        return super().continuous_batching_context_manager(*args, **kwargs)  # type: ignore[misc]


__all__ = ["ContinuousBatchingRefusal"]
