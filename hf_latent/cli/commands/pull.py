"""`hf-latent pull`"""

from pathlib import Path
from typing import Annotated

import typer


def pull(
    repo_id: Annotated[str, typer.Argument(help="user/name on the Hub.")],
    folder: Annotated[
        Path | None, typer.Argument(help="Where to; empty or not there yet. Default: the cache of from_pretrained.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag, commit or refs/pr/N.")] = None,
    repo_type: Annotated[str | None, typer.Option(help="model (the default) or dataset.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Take code that is not hf-latent's. It is not run here.")
    ] = False,
) -> None:
    """
    Download a repository and look at it before anything is loaded.

    hf-latent pull user/my-model my-model

    Refused, with the reason: pickles, weights that lead out of the folder, and Python files that are not exactly
    those of the installed hf-latent. Nothing of it is run. Interrupted, the same command goes on. For private and
    gated repositories log in first, with `hf auth login` or HF_TOKEN.
    """
    from hf_latent.hub import pull as pull_folder
    from hf_latent.hub.safety.inspection import list_files

    path = pull_folder(repo_id, folder, revision=revision, repo_type=repo_type, trust_remote_code=trust_remote_code)
    for name, file in list_files(path).items():
        typer.echo(f"{file.stat().st_size:>14,}  {name}")
    typer.secho(path, fg="green")


__all__ = ["pull"]
