"""Grids of decoders: lists and ranges of every knob, combined."""

import copy
import itertools
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from transformers import PreTrainedModel

from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.configuration_generation import DiffusionGenerationConfig

MOST_VALUES = 1000
OWN_KNOBS = {rule.knob for rule in RULES.values() if rule.knob is not None}
ADAPTIVE_KNOBS = {"max_tokens_per_step", "pace_to_schedule"}  # read by rules by the belief only
STABILITY_KNOBS = {"stability_kl", "stability_steps"}  # read by rules that look at how long a belief rests
SCHEDULE_KNOBS = {"denoising_schedule", "schedule_epsilon"}  # read by rules by schedule only


def parse_values(text: str, name: str) -> list[Any]:
    """
    `"0.1:0.3:0.1,0.5,none"` to `[0.1, 0.2, 0.3, 0.5, None]`: values and ranges `first:last:step`, both ends included.

    Whole numbers are ints, `true`, `false`, `none` (`null`) and JSON what they say, anything else a text. What is JSON
    as a whole (`[1, 2]`) is one value.

    Raises:
        ValueError: naming the knob `name`, for a range that is empty or of more than 1000 values.
    """
    if text.strip().startswith(("[", "{", '"')):
        try:
            return [json.loads(text)]
        except json.JSONDecodeError as error:
            raise ValueError(f"`{name}` is not JSON: {text!r} ({error}).") from None
    values: list[Any] = []
    for part in text.split(","):
        pieces = part.strip().split(":")
        if len(pieces) == 1:
            values.append(_value(pieces[0]))
        else:
            values += _range(pieces, part, name)
    return list(dict.fromkeys(values))


def _value(text: str) -> Any:
    named = {"none": None, "null": None, "true": True, "false": False}
    if text.lower() in named:
        return named[text.lower()]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _range(pieces: Sequence[str], part: str, name: str) -> list[int | float]:
    message = f"`{name}` takes values or ranges first:last:step with step > 0, got {part!r}."
    try:
        numbers = [Decimal(piece) for piece in pieces]
    except InvalidOperation:
        raise ValueError(message) from None
    if len(numbers) != 3 or not all(number.is_finite() for number in numbers):
        raise ValueError(message)
    first, last, step = numbers
    if step <= 0 or last < first or (last - first) / step >= MOST_VALUES:
        raise ValueError(f"{message} A range has from 1 to {MOST_VALUES} values.")
    whole = all(number == number.to_integral_value() for number in numbers) and "." not in part
    steps = range(int((last - first) // step) + 1)
    return [int(first + i * step) if whole else float(first + i * step) for i in steps]


def build_grid(
    config: DiffusionGenerationConfig, decodings: Sequence[str] | None, knobs: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """
    Every combination of commit rules and knobs, each once.

    A knob of some rules (a threshold, `max_tokens_per_step`) varies for those that read it and is left out for the
    others. A rule's own threshold is always stated, from `config` where it was not given.

    Args:
        config: of the checkpoint.
        decodings: commit rules; the checkpoint's own if None.
        knobs: names of `DiffusionGenerationConfig` to their values.

    Returns:
        Arguments of `generate`, `"decoding"` first.

    Raises:
        ValueError: for a knob or value that `generate` would refuse, and for a knob that none of the rules reads.
    """
    rules = list(decodings) if decodings else [config.decoding]
    DiffusionGenerationConfig.refuse_unknown(knobs)
    grid: list[dict[str, Any]] = []
    used: set[str] = set()
    for name in rules:
        if name not in RULES:
            raise ValueError(f"`decoding` must be one of {sorted(RULES)}, got {name!r}.")
        rule = RULES[name]
        foreign = (OWN_KNOBS - {rule.knob}) | (SCHEDULE_KNOBS if rule.adaptive else ADAPTIVE_KNOBS)
        foreign |= set() if rule.reads_stability else STABILITY_KNOBS
        read = {knob: values for knob, values in knobs.items() if knob not in foreign}
        used |= read.keys()
        own = {} if rule.knob is None else {rule.knob: [getattr(config, rule.knob)]}
        names = {**own, **read}
        for values in itertools.product(*names.values()):
            settings = {"decoding": name, **dict(zip(names, values, strict=True))}
            check_settings(config, settings)
            if settings not in grid:
                grid.append(settings)
    for knob in knobs:
        if knob not in used:
            raise ValueError(f"`{knob}` is read by none of the decoders {rules}.")
    return grid


def build_causal_grid(
    model: PreTrainedModel, decodings: Sequence[str] | None, knobs: Mapping[str, Sequence[Any]]
) -> list[dict[str, Any]]:
    """
    Every combination of knobs of a model that writes from left to right, with latent tokens, each once.

    `num_latent_tokens` is always stated, the model's own where it is not given. `self_speculative` without latent
    tokens is left out: it drafts nothing. A temperature above 0, `top_k` or `top_p` sample.

    Raises:
        ValueError: for commit rules, of which such a model has none, and for knobs that its `generate` does not take.
    """
    if decodings:
        raise ValueError(
            f"`decoding` is for masked diffusion models; {type(model).__name__} writes from left to right, and takes "
            f"`num_latent_tokens` and `self_speculative`. Got {list(decodings)}."
        )
    known = set(model.generation_config.to_dict()) | {"num_latent_tokens", "self_speculative", "do_sample"}
    unknown = sorted(set(knobs) - known)
    if unknown:
        raise ValueError(f"`{unknown[0]}` is no argument of {type(model).__name__}.generate.")
    names = {"num_latent_tokens": [model.config.num_latent_tokens], **knobs}
    grid: list[dict[str, Any]] = []
    for values in itertools.product(*names.values()):
        settings = dict(zip(names, values, strict=True))
        number = settings["num_latent_tokens"]
        if not isinstance(number, int) or isinstance(number, bool) or number < 0:
            raise ValueError(f"`num_latent_tokens` takes whole numbers from 0 on, got {number!r}.")
        if settings.get("self_speculative") and number == 0:
            del settings["self_speculative"]
        if settings.get("temperature") == 0:
            settings.pop("temperature")
            settings["do_sample"] = False
        elif any(settings.get(name) is not None for name in ("temperature", "top_k", "top_p")):
            settings["do_sample"] = True
        if settings not in grid:
            grid.append(settings)
    return grid


def check_settings(config: DiffusionGenerationConfig, settings: Mapping[str, Any]) -> None:
    """Raise the `ValueError` that `generate` would raise for these settings."""
    trial = copy.deepcopy(config)
    trial.update(**settings)
    trial.validate()


__all__ = ["build_causal_grid", "build_grid", "check_settings", "parse_values"]
