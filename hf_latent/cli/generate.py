"""`hf-latent generate`"""

import json
import sys
from typing import Annotated, Any

import typer


def generate(
    model: Annotated[str, typer.Argument(help="Folder, name on the Hub, or name of a packaged checkpoint.")],
    prompt: Annotated[str | None, typer.Argument(help="The prompt; standard input if not given.")] = None,
    infill: Annotated[bool, typer.Option(help="Write the mask tokens in the prompt instead of appending.")] = False,
    chat: Annotated[bool, typer.Option(help="Put the prompt through the tokenizer's chat template.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="Tokens to write; the checkpoint's own, or 128.")] = None,
    block_length: Annotated[int | None, typer.Option(help="Tokens of a block; all at once if not given.")] = None,
    decoding: Annotated[
        str | None, typer.Option(help="Commit rule, e.g. low_confidence, confidence_threshold, entropy_bound, med.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the most likely token.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all noise.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any other knob of generate as name=value (value in JSON); may be repeated."),
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="PEFT adapter to merge in first.")] = None,
    revision: Annotated[str | None, typer.Option(help="Revision of the checkpoint on the Hub.")] = None,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with the checkpoint.")] = False,
    stream: Annotated[bool, typer.Option(help="Show the draft while it is denoised (in a terminal).")] = True,
) -> None:
    """
    Write text with a masked diffusion model: hf-latent generate sudoku-4x4 $'1..4\\n....\\n2..3\\n.32.\\n=\\n'.

    In a terminal the draft is shown as it is denoised; otherwise only the text is printed. What it took goes to
    standard error.
    """
    from transformers import TextDiffusionStreamer

    from hf_latent.cli.loading import load

    options = {"temperature": temperature, "block_length": block_length, "seed": seed, "decoding": decoding}
    if not infill:
        options["max_new_tokens"] = max_new_tokens
    # What is not given is the checkpoint's choice.
    knobs = {name: value for name, value in options.items() if value is not None} | parse_knobs(set_ or [])
    text = prompt if prompt is not None else sys.stdin.read()
    loaded, tokenizer = load(model, adapter=adapter, revision=revision, trust_remote_code=trust_remote_code)
    if chat:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
    inputs = tokenizer(text, return_tensors="pt", add_special_tokens=not chat)
    ids, mask = inputs["input_ids"].to(loaded.device), inputs["attention_mask"].to(loaded.device)
    live = stream and sys.stdout.isatty()
    streamer = TextDiffusionStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True) if live else None
    write = loaded.infill if infill else loaded.generate
    output = write(ids, attention_mask=mask, streamer=streamer, return_dict_in_generate=True, **knobs)
    if not live:
        start = 0 if infill else ids.shape[1]
        typer.echo(tokenizer.decode(output.sequences[0, start:], skip_special_tokens=True))
    typer.echo(
        f"{int(output.num_forward_passes[0])} forwards, {float(output.tokens_per_forward[0]):.2f} tokens per forward",
        err=True,
    )


def parse_knobs(assignments: list[str]) -> dict[str, Any]:
    """`["a=1", "b=x"]` to `{"a": 1, "b": "x"}`; values that are not JSON are strings."""
    knobs: dict[str, Any] = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator or not name:
            raise ValueError(f"`--set` takes name=value, got {assignment!r}.")
        try:
            knobs[name.replace("-", "_")] = json.loads(value)
        except json.JSONDecodeError:
            knobs[name.replace("-", "_")] = value
    return knobs


__all__ = ["generate", "parse_knobs"]
