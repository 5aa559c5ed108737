"""One run with everything that a replay shows of it."""

from collections.abc import Mapping
from typing import Any

from hf_latent.data.template import ReasoningTemplate
from hf_latent.data.vocabulary import naming
from hf_latent.generation.arguments.devices import find_device
from hf_latent.generation.commit.rules import RULES
from hf_latent.viz.replay import Replay, replay_of

# What a decoder may be told and a reader of the page wants to see.
SHOWN = ("block_length", "max_denoising_steps", "temperature", "early_exit_threshold", "seed")


def run_once(
    model: Any,
    tokenizer: Any,
    text: str,
    knobs: Mapping[str, Any],
    *,
    parts: Mapping[str, Any],
    infill: bool,
    chat: bool,
    streamer: Any = None,
) -> Replay:
    """Generate once with `knobs` and keep every forward; `streamer` is the one of `generate`."""
    template = None
    if parts:
        template = ReasoningTemplate(**parts)
        inputs = dict(template.apply(tokenizer, [text], chat=chat))
    else:
        written = text
        if chat:
            messages = [{"role": "user", "content": text}]
            written = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        with naming(f"The prompt {written!r}"):
            encoded = tokenizer(written, return_tensors="pt", add_special_tokens=not chat)
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    device = find_device(model)
    inputs = {name: value.to(device) for name, value in inputs.items()}
    write = model.infill if infill else model.generate
    output = write(**inputs, streamer=streamer, output_history=True, return_dict_in_generate=True, **knobs)
    reasoning = answer = None
    if template is not None:
        split = template.split(tokenizer, output.sequences, inputs["answer_mask"])[0]
        reasoning, answer = split.reasoning, split.answer
    settings = shown_settings(knobs, model.generation_config)
    return replay_of(
        output,
        0,
        tokenizer,
        name=settings.pop("decoding"),
        settings=settings,
        input_ids=inputs["input_ids"][0],
        attention_mask=inputs["attention_mask"][0],
        answer_mask=inputs["answer_mask"][0] if template is not None else None,
        mask_token_id=find_mask_token_id(model, knobs),
        exit_threshold=settings.get("early_exit_threshold"),
        prompt=text,
        reasoning=reasoning,
        answer=answer,
    )


def shown_settings(knobs: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """The rule, its threshold and what else a run was told, with the checkpoint's values of what it was not."""
    decoding = knobs.get("decoding") or config.decoding
    own = RULES[decoding].knob
    names = ("decoding", *([own] if own else []), *SHOWN)
    own_values = {name: getattr(config, name, None) for name in names}
    return {name: value for name, value in (own_values | dict(knobs)).items() if value is not None}


def find_mask_token_id(model: Any, knobs: Mapping[str, Any]) -> int | None:
    """The mask that the run wrote over."""
    for source in (knobs.get("mask_token_id"), model.generation_config.mask_token_id, model.config.mask_token_id):
        if source is not None:
            return int(source)
    return None


__all__ = ["find_mask_token_id", "run_once", "shown_settings"]
