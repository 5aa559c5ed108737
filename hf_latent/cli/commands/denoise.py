"""`hf-latent denoise`"""

import sys
import time
from typing import Annotated

import typer

from hf_latent.cli.shared_options import Knobs, Revision, TrustRemoteCode


def denoise(
    model: Annotated[str, typer.Argument(help="Folder of a latent diffusion model, or its name on the Hub.")],
    text: Annotated[str | None, typer.Argument(help="The input; standard input if not given.")] = None,
    sampler: Annotated[
        str | None, typer.Option(help="ddpm, ddim or dpmsolver++; the checkpoint's own if not given.")
    ] = None,
    num_inference_steps: Annotated[int | None, typer.Option(help="Denoising steps; all if not given.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance; 1 is none.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens to decode; the checkpoint's own.")] = None,
    seed: Annotated[int, typer.Option(help="Of all noise.")] = 0,
    show: Annotated[int, typer.Option(help="Steps of the process whose text is shown, beside the last.")] = 0,
    set_: Knobs = None,
    revision: Revision = None,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """
    Write text with a latent diffusion model.

    hf-latent denoise runs/latent_diffusion/denoiser "3 + 5 + 7" --show 8

    With --show, a line for each of so many steps says what the estimate of the clean latent decodes to; the output
    comes last. What it took goes to standard error.
    """
    from hf_latent.checkpoints.loading import load_latent_diffusion
    from hf_latent.data.vocabulary import naming
    from hf_latent.evaluation.knobs import parse_knobs
    from hf_latent.generation.arguments.devices import find_device
    from hf_latent.viz import texts_over_steps

    if show < 0:
        raise ValueError(f"`--show` must not be negative, got {show}.")
    options = {"sampler": sampler, "num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    options["max_new_tokens"] = max_new_tokens
    # What is not given is the checkpoint's choice.
    knobs = {name: value for name, value in options.items() if value is not None} | parse_knobs(set_ or [])
    loaded, tokenizer = load_latent_diffusion(model, revision=revision, trust_remote_code=trust_remote_code)
    text = text if text is not None else sys.stdin.read()
    with naming(f"The text {text!r}"):
        inputs = tokenizer(text, return_tensors="pt").to(find_device(loaded))
    start = time.perf_counter()
    output = loaded.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        seed=seed,
        output_history=show > 0,
        return_dict_in_generate=True,
        **knobs,
    )
    seconds = time.perf_counter() - start
    if show:
        decoder = loaded.merge_generation_config(None, knobs).decoder_generation_config()
        for row in texts_over_steps(loaded, tokenizer, output, num_shown=show, generation_config=decoder):
            typer.echo(f"t = {row['timestep']:>4}  {row['text']}")
    for ids in output.sequences:
        typer.echo(tokenizer.decode(ids, skip_special_tokens=True).strip())
    typer.echo(f"{output.num_forward_passes} forwards of the denoiser, {seconds:.2f} s", err=True)


__all__ = ["denoise"]
