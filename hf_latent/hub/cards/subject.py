"""What a card is about: a model, an adapter, or what a recipe makes; read from a model or from a folder."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModel, GenerationConfig, PreTrainedModel

from hf_latent.hub.cards.results import read_json_object


class Kind(NamedTuple):
    """What users of a model have to know of it before they load it."""

    name: str
    pipeline_tag: str
    tags: list[str]
    auto_class: str


MASKED = Kind(
    "masked diffusion",
    "text-generation",
    ["masked-diffusion", "diffusion-language-model"],
    "AutoModelForCausalLM",
)
AHEAD = Kind(
    "latent-token",
    "text-generation",
    ["latent-tokens", "multi-token-prediction"],
    "AutoModelForCausalLM",
)
# There is no pipeline for text to text any more: the tag is the Hub's.
LATENT = Kind(
    "latent diffusion",
    "text2text-generation",
    ["latent-diffusion", "diffusion-language-model"],
    "AutoModelForSeq2SeqLM",
)


@dataclass(frozen=True)
class Subject:
    """
    What a card is about.

    Args:
        name: of the folder.
        model: the model, or one of its shape without weights; None where no configuration is known.
        adapter: `adapter_config.json`; empty unless it is an adapter.
        run: `run.json` of the training; empty where it was not kept.
        training: `results.json` of the training; empty where it was not kept.
        has_weights: whether the folder holds weights.
        knobs: `generation_config.json`.
        stated_base: base model that its card names.
    """

    name: str
    model: PreTrainedModel | None
    adapter: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    has_weights: bool = True
    knobs: Mapping[str, Any] = field(default_factory=dict)
    stated_base: str | None = None

    @property
    def kind(self) -> Kind:
        """Masked, autoregressive with latent tokens, or latent diffusion."""
        if self.model is not None and self.model.config.is_encoder_decoder:
            return LATENT
        return AHEAD if getattr(self.model, "config", None) and self._is_left_to_right else MASKED

    @property
    def _is_left_to_right(self) -> bool:
        return bool(self.model is not None and getattr(self.model.config, "is_left_to_right", False))

    @property
    def defaults(self) -> dict[str, Any]:
        """Settings that `generate` has without arguments."""
        latent = (
            {"num_latent_tokens": self.model.config.num_latent_tokens} if self.kind is AHEAD and self.model else {}
        )
        return {**self.knobs, **latent}

    @property
    def model_type(self) -> str | None:
        """Of its configuration."""
        return None if self.model is None else self.model.config.model_type

    @property
    def base_model(self) -> str | None:
        """Name on the Hub of what the training started from, as far as the folder says; never a path."""
        script, model = self.run.get("script") or {}, self.run.get("model") or {}
        names = (self.adapter.get("base_model_name_or_path"), script.get("backbone"), model.get("model_name_or_path"))
        return self.stated_base or next((name for name in names if is_hub_name(name)), None)


def is_hub_name(name: Any) -> bool:
    """Whether `name` may be one on the Hub, `user/name`, rather than a folder."""
    return isinstance(name, str) and name.count("/") == 1 and name[0] not in "./~" and not Path(name).exists()


def subject_of_model(folder: Path, model: PreTrainedModel) -> Subject:
    """Of a model that is at hand, with what its folder says about the training."""
    run, training = read_json_object(folder / "run.json"), read_json_object(folder / "results.json")
    return Subject(folder.name, model, {}, run, training, True, model.generation_config.to_dict())


def subject_of_folder(folder: Path) -> Subject:
    """
    Of a folder, without loading its weights or running its code.

    Raises:
        ValueError: if `config.json` is of a model type that neither this library nor transformers has.
    """
    run = read_json_object(folder / "run.json")
    adapter = read_json_object(folder / "adapter_config.json")
    fields = read_json_object(folder / "config.json") or dict(run.get("model_config") or {})
    knobs = read_json_object(folder / "generation_config.json")
    if not adapter and not (folder / "config.json").is_file():
        adapter = _planned_adapter(run.get("model") or {})
    return Subject(
        folder.resolve().name,
        _shape(fields, knobs) if fields.get("model_type") else None,
        adapter,
        run,
        read_json_object(folder / "results.json"),
        any(folder.glob("*.safetensors")),
        knobs,
    )


def _planned_adapter(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What a training with LoRA writes as `adapter_config.json`, of a folder that was not given the weights."""
    if not arguments.get("use_peft"):
        return {}
    modules = arguments.get("lora_target_modules")
    if isinstance(modules, list) and len(modules) == 1:
        modules = modules[0]  # "all-linear"
    return {
        "peft_type": "LORA",
        "r": arguments.get("lora_r"),
        "lora_alpha": arguments.get("lora_alpha"),
        "target_modules": modules,
    }


def _shape(fields: dict[str, Any], knobs: Mapping[str, Any]) -> PreTrainedModel:
    """The model of a configuration, without weights."""
    from hf_latent.auto import family_of  # registers the model classes, too

    kwargs = {name: value for name, value in fields.items() if name not in ("model_type", "auto_map")}
    config = AutoConfig.for_model(family_of(fields), **kwargs)
    if fields.get("architectures"):  # which say which of two classes of a model type it is
        config.architectures = fields["architectures"]
    dtype = getattr(torch, str(fields.get("dtype") or "float32").removeprefix("torch."))
    with torch.device("meta"):
        model = AutoModel.from_config(config, dtype=dtype)
    if knobs:
        own: type[GenerationConfig] = type(model.generation_config)
        model.generation_config = own.from_dict(dict(knobs))
    return model


__all__ = ["AHEAD", "LATENT", "MASKED", "Kind", "Subject", "is_hub_name", "subject_of_folder", "subject_of_model"]
