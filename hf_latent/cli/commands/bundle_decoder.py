"""`hf-latent bundle-decoder`"""

from pathlib import Path
from typing import Annotated

import typer


def bundle_decoder(
    name: Annotated[str, typer.Argument(help="A commit rule, e.g. med or entropy_bound; or lrd, lrd_med.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the decoder.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="A default of the decoder as name=value (value in JSON); may be repeated."),
    ] = None,
) -> None:
    """
    Write a decoder that runs on any LLaDA or Dream model.

    It is used by model.generate(..., custom_generate=folder, trust_remote_code=True).

    Code and a card: hf-latent need not be installed to use it.
    """
    from hf_latent.evaluation.knobs import parse_knobs
    from hf_latent.hub import bundle_decoder as write_decoder

    settings = parse_knobs(set_ or [])
    if "verify" in settings:
        raise ValueError("`verify` is not a default of a decoder.")
    path = write_decoder(name, folder, **settings)
    for file in sorted((path / "custom_generate").glob("*.py")):
        typer.echo(f"{file.stat().st_size:>14,}  {file.relative_to(path)}")
    typer.secho(f"{path} runs {name} without hf-latent.", fg="green")


__all__ = ["bundle_decoder"]
