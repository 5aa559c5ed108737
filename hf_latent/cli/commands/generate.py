"""`hf-latent generate`"""

import sys
from typing import Annotated, Any

import typer

from hf_latent.cli.shared_options import (
    Adapter,
    BlockLength,
    Chat,
    Decoding,
    Infill,
    Knobs,
    MaxNewTokens,
    Model,
    Prompt,
    Revision,
    TrustRemoteCode,
)


def generate(
    model: Model,
    prompt: Prompt = None,
    infill: Infill = False,
    chat: Chat = False,
    max_new_tokens: MaxNewTokens = None,
    block_length: BlockLength = None,
    num_latent_tokens: Annotated[
        int | None, typer.Option(help="Latent tokens that look ahead; the checkpoint's own number if not given.")
    ] = None,
    self_speculative: Annotated[
        bool, typer.Option(help="Draft with the latent tokens: the same text in fewer forwards (left to right).")
    ] = False,
    decoding: Decoding = None,
    temperature: Annotated[float | None, typer.Option(help="0 takes the most likely token.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of all noise.")] = None,
    set_: Knobs = None,
    adapter: Adapter = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
    stream: Annotated[bool, typer.Option(help="Show the draft while it is denoised (in a terminal).")] = True,
) -> None:
    """
    Write text with a model of this library.

    hf-latent generate sudoku-4x4 $'1..4\\n....\\n2..3\\n.32.\\n=\\n'

    In a terminal the draft is shown as it is denoised; otherwise only the text is printed. What it took goes to
    standard error.
    """
    from transformers import TextDiffusionStreamer, TextStreamer

    from hf_latent.checkpoints.default_length import default_length
    from hf_latent.checkpoints.loading import load
    from hf_latent.data.vocabulary import naming
    from hf_latent.evaluation.knobs import parse_knobs
    from hf_latent.generation.arguments.devices import find_device

    options = {"temperature": temperature, "block_length": block_length, "seed": seed, "decoding": decoding}
    options["num_latent_tokens"] = num_latent_tokens
    if not infill:
        options["max_new_tokens"] = max_new_tokens
    # What is not given is the checkpoint's choice.
    knobs = {name: value for name, value in options.items() if value is not None} | parse_knobs(set_ or [])
    text = prompt if prompt is not None else sys.stdin.read()
    loaded, tokenizer = load(
        model, adapter=adapter, revision=revision, trust_remote_code=trust_remote_code, autoregressive=True
    )
    if chat:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, tokenize=False
        )
    with naming(f"The prompt {text!r}"):
        inputs = tokenizer(text, return_tensors="pt", add_special_tokens=not chat)
    device = find_device(loaded)
    ids, mask = inputs["input_ids"].to(device), inputs["attention_mask"].to(device)
    live = stream and sys.stdout.isatty()
    is_diffusion = hasattr(loaded, "infill")
    kind = TextDiffusionStreamer if is_diffusion else TextStreamer
    streamer = kind(tokenizer, skip_prompt=True, skip_special_tokens=True) if live else None
    if not is_diffusion:
        if not knobs.keys() & {"max_new_tokens", "max_length"}:
            knobs |= default_length(loaded)
        knobs = left_to_right_knobs(knobs, infill) | {"self_speculative": self_speculative}
    elif self_speculative:
        raise ValueError(f"`--self-speculative` is for models that write from left to right; {model} does not.")
    write = loaded.infill if infill else loaded.generate
    output = write(ids, attention_mask=mask, streamer=streamer, return_dict_in_generate=True, **knobs)
    start = 0 if infill else ids.shape[1]
    if not live:
        typer.echo(tokenizer.decode(output.sequences[0, start:], skip_special_tokens=True))
    num_written = output.sequences.shape[1] - start
    forwards = int(output.num_forward_passes[0]) if "num_forward_passes" in output else num_written
    per_forward = float(output.tokens_per_forward[0]) if "tokens_per_forward" in output else 1.0
    typer.echo(f"{forwards} forwards, {per_forward:.2f} tokens per forward", err=True)


def left_to_right_knobs(knobs: dict[str, Any], infill: bool) -> dict[str, Any]:
    """Knobs of transformers' `generate` in the place of those of a denoising loop."""
    from transformers import set_seed

    for name in ("block_length", "decoding"):
        if name in knobs:
            raise ValueError(f"`--{name.replace('_', '-')}` is for models that write in any order.")
    if infill:
        raise ValueError("`--infill` is for models that write in any order.")
    if (seed := knobs.pop("seed", None)) is not None:
        set_seed(seed)
    temperature = knobs.pop("temperature", 0.0)
    return knobs | ({"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False})


__all__ = ["generate", "left_to_right_knobs"]
