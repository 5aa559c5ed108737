"""`hf-latent view`"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hf_latent.cli.shared_options import (
    Adapter,
    BlockLength,
    Chat,
    Decoding,
    Delimiter,
    Infill,
    Knobs,
    MaxNewTokens,
    Model,
    Prompt,
    Revision,
    Suffix,
    TrustRemoteCode,
)


def view(
    model: Model,
    prompt: Prompt = None,
    output: Annotated[Path, typer.Option(help="The page.")] = Path("replay.html"),
    infill: Infill = False,
    chat: Chat = False,
    max_new_tokens: MaxNewTokens = None,
    block_length: BlockLength = None,
    seed: Annotated[int | None, typer.Option(help="Of all noise.")] = None,
    decoding: Decoding = None,
    set_: Knobs = None,
    against_decoding: Annotated[str | None, typer.Option(help="Commit rule of a second run beside the first.")] = None,
    against_set: Annotated[
        list[str] | None, typer.Option(help="Knob of the second run as name=value; may be repeated.")
    ] = None,
    reasoning_length: Annotated[int | None, typer.Option(help="Tokens to reason in, before the answer.")] = None,
    answer_length: Annotated[int | None, typer.Option(help="Tokens of the answer.")] = None,
    delimiter: Delimiter = None,
    suffix: Suffix = None,
    early_exit_threshold: Annotated[
        float | None, typer.Option(help="Nats; stop reasoning once the answer's entropy is below.")
    ] = None,
    template: Annotated[bool, typer.Option(help="Reason and answer as the checkpoint's task.json says.")] = True,
    adapter: Adapter = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    open_: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
) -> None:
    """
    Write a page that replays a generation, for one decoder or two side by side.

    hf-latent view sudoku-4x4 $'1..4\\n....\\n2..3\\n.32.\\n=\\n' --decoding low_confidence --against-decoding med

    The page is one file that needs no network: every forward with its candidates, their confidence, and what was
    written. With --reasoning-length, --answer-length and --delimiter the model reasons and answers in place.
    """
    from hf_latent.checkpoints.loading import load
    from hf_latent.evaluation.knobs import parse_knobs
    from hf_latent.viz import write_replay
    from hf_latent.viz.recording import run_once

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
    if file := next((place for place in path.parents if place.exists() and not place.is_dir()), None):
        raise ValueError(f"`--output` must be in a folder, got {path}: {file} is a file.")


def template_parts(model: str, given: Mapping[str, Any], use_task: bool) -> dict[str, Any]:
    """
    Arguments of `ReasoningTemplate`, or nothing where the model is to write freely.

    What is not `given` (None) comes from the `task.json` of a model folder or packaged checkpoint if `use_task`.
    Raises `ValueError` for a template of which a part is missing.
    """
    from hf_latent.checkpoints.names import read_description

    parts = {name: value for name, value in given.items() if value is not None}
    if use_task:
        about = read_description(model)
        parts = {name: about[name] for name in given if about.get(name) is not None} | parts
    missing = {"reasoning_length", "answer_length", "delimiter"} - parts.keys()
    if parts and missing:
        options = ", ".join(f"`--{name.replace('_', '-')}`" for name in sorted(missing))
        raise ValueError(f"to reason and answer in place, give {options} too; got only {', '.join(sorted(parts))}.")
    return parts


__all__ = ["template_parts", "view"]
