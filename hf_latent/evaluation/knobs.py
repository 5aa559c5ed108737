"""Knobs of `generate` as text: what is typed behind `--set` and into the page."""

import json
from typing import Any

# Arguments of `generate` that are tensors, objects or functions, or that a command gives itself.
NO_KNOBS = (
    *("input_ids", "inputs", "inputs_embeds", "attention_mask", "position_ids", "token_type_ids", "past_key_values"),
    *("streamer", "logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "generation_config", "cache"),
    *("return_dict_in_generate", "tokenizer", "assistant_model", "custom_generate", "synced_gpus", "answer_mask"),
)


def parse_knobs(assignments: list[str], field: str = "--set") -> dict[str, Any]:
    """`["a=1", "b=x"]`, typed into `field`, to `{"a": 1, "b": "x"}`; values that are not JSON are strings."""
    knobs: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name:
            raise ValueError(f"`{field}` takes name=value, got {assignment!r}.")
        if name.replace("-", "_") in NO_KNOBS:
            raise ValueError(f"`{field}` takes knobs of generate; `{name}` is an input or an object, no value.")
        try:
            knobs[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            knobs[name.replace("-", "_")] = value
    return knobs


__all__ = ["parse_knobs"]
