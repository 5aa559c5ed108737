"""The form of the page, read: texts that visitors typed, to arguments of `generate`."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_latent.evaluation.knobs import parse_knobs
from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.configuration_generation import DiffusionGenerationConfig

# What is done with the prompt: label and value of each mode.
MODES = {"append": "Continue", "infill": "Fill in", "reason": "Reason"}
OWN_RULE = "as published"
MOST_BLANKS = 4096
SHARED = ("block_length", "max_denoising_steps", "temperature", "seed")
TEMPLATE = ("reasoning_length", "answer_length", "delimiter")
# The page needs these as they are.
RESERVED = ("output_history", "return_dict_in_generate", "num_return_sequences")
FIELDS = (
    *("model", "revision", "trust_remote_code", "mode", "prompt", "chat", "max_new_tokens", *SHARED, *TEMPLATE),
    *("early_exit_threshold", "compare", "pause", "example"),
    *(f"{name}_{side}" for side in "ab" for name in ("rule", "threshold", "more")),
)


@dataclass(frozen=True)
class Request:
    """
    What a visitor asks for.

    Args:
        text: the prompt; blanks are masks already in the mode `infill`.
        knobs: arguments of `generate`, one mapping a decoder.
        parts: arguments of `ReasoningTemplate` in the mode `reason`.
        mode: one of `MODES`.
        chat: whether the prompt goes through the chat template.
    """

    text: str
    knobs: tuple[dict[str, Any], ...]
    parts: dict[str, Any]
    mode: str
    chat: bool

    @property
    def infill(self) -> bool:
        """Whether masks in the prompt are written in place."""
        return self.mode == "infill"


def read_form(form: Mapping[str, Any]) -> Request:
    """
    The request in the values of `FIELDS`, checked as far as it can be without a model.

    Raises:
        ValueError: naming the knob, its value and what is allowed.
    """
    mode = form["mode"]
    if mode not in MODES:
        raise ValueError(f"`mode` must be one of {', '.join(MODES)}, got {mode!r}.")
    if not form["prompt"]:
        raise ValueError("`prompt` is empty: type something for the model to work on.")
    shared = typed(form, SHARED)
    shared.setdefault("seed", random.randrange(2**31))
    parts: dict[str, Any] = {}
    if mode == "append":
        shared |= typed(form, ("max_new_tokens",))
    if mode == "reason":
        shared |= typed(form, ("early_exit_threshold",))
        parts = typed(form, TEMPLATE[:2]) | {"delimiter": form["delimiter"]}
        missing = [name for name in TEMPLATE if not parts.get(name)]
        if missing:
            raise ValueError(f"`{missing[0]}` is needed to reason and answer in place.")
    sides = "ab" if form["compare"] else "a"
    knobs = tuple(shared | read_decoder(form, side) for side in sides)
    for settings in knobs:
        DiffusionGenerationConfig(**settings)
    return Request(form["prompt"], knobs, parts, mode, bool(form["chat"]))


def read_decoder(form: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Rule, threshold and further knobs of the decoder `"a"` or `"b"`."""
    rule, threshold = form[f"rule_{side}"], str(form[f"threshold_{side}"] or "").strip()
    knobs: dict[str, Any] = {}
    if rule and rule != OWN_RULE:
        knobs["decoding"] = rule
        knob = RULES[rule].knob if rule in RULES else None
        if knob and threshold:
            knobs |= parse_knobs([f"{knob}={threshold}"])
    for line in filter(None, map(str.strip, str(form[f"more_{side}"] or "").splitlines())):
        if "=" not in line.strip("="):
            raise ValueError(f"`further knobs` takes one name=value a line, got {line!r}.")
        knobs |= parse_knobs([re.sub(r"\s*=\s*", "=", line, count=1)], "further knobs")
    # Nothing but knobs: other arguments of `generate` name code to run.
    DiffusionGenerationConfig.refuse_unknown(knobs)
    for name in RESERVED:
        if name in knobs:
            raise ValueError(f"`{name}` cannot be set here: the page sets it.")
    return knobs


def typed(form: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Values of the fields that are not empty; `"0.5"` is a number, what is none stays text and is refused later."""
    texts = {name: str(form[name] if form[name] is not None else "").strip() for name in names}
    return parse_knobs([f"{name}={text}" for name, text in texts.items() if text])


def fill_blanks(text: str, mask: str) -> str:
    """
    `text` with every `[[N]]` replaced by N mask tokens.

    Raises:
        ValueError: without a blank, or with one of no tokens or too many.
    """

    def masks(match: re.Match[str]) -> str:
        number = int(match.group(1))
        if not 1 <= number <= MOST_BLANKS:
            raise ValueError(f"`prompt` has a blank of {number} tokens, allowed are 1 to {MOST_BLANKS}.")
        return mask * number

    filled = re.sub(r"\[\[(\d{1,9})\]\]", masks, text)
    if mask not in filled:
        raise ValueError(f"`prompt` has no blank to fill: write [[5]] for five tokens, or {mask} for one.")
    return filled


__all__ = ["FIELDS", "MODES", "OWN_RULE", "RESERVED", "Request", "fill_blanks", "read_decoder", "read_form", "typed"]
