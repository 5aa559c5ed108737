"""A generation configuration with fields of its own, which refuses names that nobody knows."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Self

from transformers import GenerationConfig, PreTrainedConfig

from hf_latent.generation.arguments.stock_arguments import plain

# Names that a stock configuration carries for itself.
METADATA_FIELDS = ("_from_model_config", "_commit_hash", "_original_object_hash", "transformers_version")


class StrictGenerationConfig(GenerationConfig):
    """
    transformers' configuration, but that a mistyped name raises.

    Class attributes:
        own_defaults: the fields that a subclass adds, and their defaults.
    """

    own_defaults: dict[str, Any] = {}

    def __init__(self, **kwargs: Any) -> None:
        for name, default in self.own_defaults.items():
            setattr(self, name, kwargs.pop(name, default))
        # A file or a model configuration may carry foreign names; they are kept for whoever wrote them.
        if not kwargs.get("_from_model_config", False) and not kwargs.pop("_lenient", False):
            self.refuse_unknown(kwargs)
        super().__init__(**kwargs)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, plain(value))

    @classmethod
    def known_names(cls) -> set[str]:
        """Names of all knobs, ours and those of transformers."""
        return {*cls.own_defaults, *(name for name in GenerationConfig().to_dict() if not name.startswith("_"))}

    @classmethod
    def refuse_unknown(cls, names: Iterable[str]) -> None:
        """Raise `ValueError` for the first of `names` that is not a knob, with the nearest known name."""
        known = cls.known_names()
        for name in names:
            if name in known or name in METADATA_FIELDS:
                continue
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"Unknown argument `{name}` for generation with {cls.__name__}.{hint}")

    @classmethod
    def from_dict(cls, config_dict: Mapping[str, Any], **kwargs: Any) -> Self:
        """Build from what a file says; names unknown here are kept as attributes."""
        # The marker makes the stock constructor drop every name it does not know.
        values = {key: value for key, value in config_dict.items() if key != "_from_model_config"}
        return super().from_dict({**values, "_lenient": True}, **kwargs)

    @classmethod
    def from_model_config(cls, model_config: PreTrainedConfig) -> Self:
        """The defaults of a model without `generation_config.json`: its special tokens and this class's values."""
        stock = GenerationConfig.from_model_config(model_config)
        return cls.from_dict({k: v for k, v in stock.to_dict().items() if k not in cls.own_defaults})


__all__ = ["StrictGenerationConfig"]
