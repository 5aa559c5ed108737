"""
Configurations of published families: they read and write the field names of the original checkpoints, and refuse by
name what those can say and a model here would not do.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from transformers.activations import ACT2FN

from hf_latent.modeling.travel import TravellingConfigMixin


@dataclass(kw_only=True, init=False, repr=False, eq=False)
class PublishedFields:
    """
    What the configurations of all published families have beside the fields of their stock decoder's.

    Args:
        is_causal (`bool`, *optional*, defaults to `False`):
            Without a mask a layer sees everything: the base model's forward hands this to the mask *and* to the
            attention kernel. Not a field of the published configurations; only `False` is supported.
        mask_token_id (`int`, *optional*):
            Id of the token that marks a position still to be written. Needed to generate and to train.

    Raises:
        ValueError: by the family, for a value of the original configuration that is not supported here, by name.
    """

    is_causal: bool = False
    mask_token_id: int | None = None


class PublishedConfigMixin(PublishedFields, TravellingConfigMixin):
    """
    Configuration of a family as its checkpoints lie on the Hub, with the fields of [`PublishedFields`]. Comes first
    among the bases of a configuration class, before the stock configuration of transformers. `NameConfig` is that of
    `NameForMaskedDiffusion`.

    Class attributes:
        supported_values: field to the values that are honoured, beside that of `is_causal`; a field that is not there
            counts as supported.
        published_names: field of the original configuration to the one here, where they differ.
        not_published: fields beside `is_causal` that the original configuration does not have, which are not written.
        published_mask_token_id: that of the family, where its configurations do not say it. Taken where the
            vocabulary holds it.
        rotates_partly: whether the stock attention takes a `partial_rotary_factor`; the others would ignore it.
    """

    supported_values: ClassVar[dict[str, tuple[Any, ...]]] = {}
    published_names: ClassVar[dict[str, str]] = {}
    not_published: ClassVar[tuple[str, ...]] = ()
    published_mask_token_id: ClassVar[int | None] = None
    rotates_partly: ClassVar[bool] = False
    # From the stock configuration:
    vocab_size: int
    default_theta: float

    @property
    def auto_classes(self) -> dict[str, str]:  # type: ignore[override]
        """The head class, whatever a user loads with: its `generate` works."""
        name = f"{type(self).__name__.removesuffix('Config')}ForMaskedDiffusion"
        return {"AutoModel": name, "AutoModelForCausalLM": name}

    def __post_init__(self, **kwargs: Any) -> None:
        for theirs, ours in self.published_names.items():
            if theirs != ours and (value := kwargs.pop(theirs, None)) is not None:
                setattr(self, ours, value)
        kwargs.pop("model_type", None)  # the class's, by which key names are found, whatever the file calls it
        super().__post_init__(**kwargs)  # type: ignore[misc]
        default = self.published_mask_token_id
        if self.mask_token_id is None and default is not None and default < self.vocab_size:
            self.mask_token_id = default
        # Also run by `@strict`, which hides the ValueError in an error type of its own.
        self.validate_architecture()

    def validate_architecture(self) -> None:
        """Refuse by name what the original configuration can say and this implementation does not do."""
        super().validate_architecture()  # type: ignore[misc]
        refuse_unsupported(self, {"is_causal": (False,)} | self.supported_values)
        if not self.rotates_partly:
            refuse_partial_rotation(self)

    def to_diff_dict(self) -> dict[str, Any]:
        """What is written to `config.json`: the original field names, so that the original code reads it too."""
        fields = super().to_diff_dict()  # type: ignore[misc]
        for theirs, ours in self.published_names.items():
            fields.pop(ours, None)
            fields[theirs] = getattr(self, ours)
        write_published_rotation(fields, self.default_theta)
        for name in ("is_causal", *self.not_published):
            fields.pop(name, None)
        fields["model_type"] = self.published_model_type or self.model_type
        if fields.get("mask_token_id") is None and self.published_mask_token_id is not None:
            fields.pop("mask_token_id", None)
        return fields


def refuse_values(config: Any, supported: dict[str, tuple[Any, ...]], checkpoints: str) -> None:
    """Raise `ValueError` for a field of `config` with a value that is none of those `supported`, by name."""
    for name, allowed in supported.items():
        value = getattr(config, name, allowed[0])
        if value not in allowed:
            raise ValueError(
                f"`{name}`={value!r} is not supported for {checkpoints}; allowed: {', '.join(map(repr, allowed))}."
            )


def refuse_unsupported(config: Any, supported: dict[str, tuple[Any, ...]]) -> None:
    """As [`refuse_values`], and for an activation that there is not and a block of no positions."""
    refuse_values(config, supported, f"checkpoints of `model_type`={config.model_type!r}")
    if config.hidden_act not in ACT2FN:
        raise ValueError(
            f"`hidden_act`={config.hidden_act!r} is not supported; allowed: the names of transformers' ACT2FN, e.g. "
            "'silu', 'gelu', 'relu'."
        )
    block_size = getattr(config, "block_size", None)
    if block_size is not None and block_size < 1:
        raise ValueError(f"`block_size` must be at least 1, got {block_size}.")


def refuse_partial_rotation(config: Any) -> None:
    """Raise `ValueError` for a rotation of a part of each head, which most stock attention ignores."""
    factor = (config.rope_parameters or {}).get("partial_rotary_factor", 1)
    if factor != 1:
        raise ValueError(
            f"`partial_rotary_factor`={factor} is not supported for checkpoints of `model_type`="
            f"{config.model_type!r}; allowed: 1."
        )


def write_published_rotation(fields: dict[str, Any], default_theta: float) -> None:
    """Replace `rope_parameters` among the `fields` of a configuration by what was written before transformers 5."""
    rotation = dict(fields.pop("rope_parameters", None) or {})
    fields["rope_theta"] = rotation.pop("rope_theta", default_theta)
    if "partial_rotary_factor" in rotation:
        fields["partial_rotary_factor"] = rotation.pop("partial_rotary_factor")
    fields["rope_scaling"] = None if rotation.get("rope_type", "default") == "default" else rotation


__all__ = ["PublishedConfigMixin", "PublishedFields", "refuse_partial_rotation", "refuse_values"]
