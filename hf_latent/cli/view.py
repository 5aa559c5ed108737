"""`hf-latent view`"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from hf_latent.viz import Replay

# What a decoder may be told on the command line and a reader of the page wants to see.
SHOWN = ("block_length", "max_denoising_steps", "temperature", "early_exit_threshold", "seed")


def view(
    model: Annotated[str, typer.Argument(help="Folder, name on the Hub, or name of a packaged checkpoint.")],
    prompt: Annotated[str | None, typer.Argument(help="The prompt; standard input if not given.")] = None,
    output: Annotated[Path, typer.Option(help="The page.")] = Path("replay.html"),
    infill: Annotated[bool, typer.Option(help="Write the mask tokens in the prompt instead of appending.")] = False,
    chat: Annotated[bool, typer.Option(help="Put the prompt through the tokenizer's chat template.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens to write; the checkpoint's own, or 128.")] = None,
    block_length: Annotated[int | None, typer.Option(help="Tokens of a block; all at once if not given.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all noise.")] = None,
    decoding: Annotated[
        str | None, typer.Option(help="Commit rule, e.g. low_confidence, confidence_threshold, entropy_bound, med.")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other knob of generate as name=value (value in JSON); may be repeated."),
    ] = None,
    against_decoding: Annotated[str | None, typer.Option(help="Commit rule of a second run beside the first.")] = None,
    against_set: Annotated[
        list[str] | None, typer.Option(help="Knob of the second run as name=value; may be repeated.")
    ] = None,
    reasoning_length: Annotated[int | None, typer.Option(help="Tokens to reason in, before the answer.")] = None,
    answer_length: Annotated[int | None, typer.Option(help="Tokens of the answer.")] = None,
    delimiter: Annotated[str | None, typer.Option(help="Text between reasoning and answer.")] = None,
    suffix: Annotated[str | None, typer.Option(help="Text behind the answer.")] = None,
    early_exit_threshold: Annotated[
        float | None, typer.Option(help="Nats; stop reasoning once the answer's entropy is below.")
    ] = None,
    template: Annotated[bool, typer.Option(help="Reason and answer as the checkpoint's task.json says.")] = True,
    adapter: Annotated[str | None, typer.Option(help="PEFT adapter to merge in first.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the checkpoint on the Hub.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the checkpoint.")] = False,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
) -> None:
    """
    Write a page that replays a generation, for one decoder or two side by side.

    hf-latent view sudoku-4x4 $'1..4\\n....\\n2..3\\n.32.\\n=\\n' --decoding low_confidence --against-decoding med

    The page is one file that needs no network: every forward with its candidates, their confidence, and what was
    written. With --reasoning-length, --answer-length and --delimiter the model reasons and answers in place.
    """
    from hf_latent.cli.generate import parse_knobs
    from hf_latent.cli.loading import load
    from hf_latent.viz import write_replay

    given = {
        "reasoning_length": reasoning_length,
        "answer_length": answer_length,
        "delimiter": delimiter,
        "suffix": suffix,
    }
    check_page(output)
    parts = template_parts(model, given, use_task=template and not infill)
    if infill and parts:
        raise ValueError(f"`--infill` cannot be given with {', '.join(f'`{name}`' for name in parts)}.")
    shared = {
        "max_new_tokens": max_new_tokens,
        "block_length": block_length,
        "seed": seed,
        "early_exit_threshold": early_exit_threshold,
    }
    decoders = [(decoding, set_ or [])]
    if against_decoding is not None or against_set:
        decoders.append((against_decoding, against_set or []))
    runs = []
    for rule, assignments in decoders:
        # What is not given is the checkpoint's choice; null in an assignment is given.
        options = {name: value for name, value in ({"decoding": rule} | shared).items() if value is not None}
        runs.append(options | parse_knobs(assignments))
    text = prompt if prompt is not None else sys.stdin.read()
    loaded, tokenizer = load(model, adapter=adapter, revision=revision, trust_remote_code=trust_remote_code)
    replays = [run_once(loaded, tokenizer, text, knobs, parts=parts, infill=infill, chat=chat) for knobs in runs]
    path = write_replay(replays, output, Path(model).resolve().name if Path(model).exists() else model)
    if open_:
        typer.launch(path.resolve().as_uri())
    typer.echo(path)


def check_page(path: Path) -> None:
    """A page that cannot be written is said before anything is generated."""
    if path.is_dir():
        raise ValueError(f"`--output` must be a file to write, got the folder {path}.")
    if path.parent.exists() and not path.parent.is_dir():
        raise ValueError(f"`--output` must be in a folder, got {path}.")


def template_parts(model: str, given: Mapping[str, Any], use_task: bool) -> dict[str, Any]:
    """
    Arguments of `ReasoningTemplate`, or nothing where the model is to write freely.

    What is not `given` (None) comes from the `task.json` of a model folder or packaged checkpoint if `use_task`.
    Raises `ValueError` for a template of which a part is missing.
    """
    from hf_latent.checkpoints import read_description

    parts = {name: value for name, value in given.items() if value is not None}
    if use_task:
        about = read_description(model)
        parts = {name: about[name] for name in given if about.get(name) is not None} | parts
    missing = {"reasoning_length", "answer_length", "delimiter"} - parts.keys()
    if parts and missing:
        options = ", ".join(f"`--{name.replace('_', '-')}`" for name in sorted(missing))
        raise ValueError(f"to reason and answer in place, give {options} too; got only {', '.join(sorted(parts))}.")
    return parts


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
) -> "Replay":
    """Generate once with `knobs` and keep every forward; `streamer` is the one of `generate`."""
    from hf_latent.viz import replay_of

    template = None
    if parts:
        from hf_latent import ReasoningTemplate

        template = ReasoningTemplate(**parts)
        inputs = dict(template.apply(tokenizer, [text], chat=chat))
    else:
        written = text
        if chat:
            messages = [{"role": "user", "content": text}]
            written = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        encoded = tokenizer(written, return_tensors="pt", add_special_tokens=not chat)
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
    inputs = {name: value.to(model.device) for name, value in inputs.items()}
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
    from hf_latent.generation.rules import RULES

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


__all__ = ["find_mask_token_id", "run_once", "shown_settings", "template_parts", "view"]
