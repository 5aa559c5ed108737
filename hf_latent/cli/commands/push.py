"""`hf-latent push`"""

from typing import Annotated

import typer


def push(
    source: Annotated[str, typer.Argument(help="Folder with a model, adapter, decoder or data set.")],
    repo_id: Annotated[str, typer.Argument(help="user/name on the Hub; created if there is none.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Send nothing; list what would go, with bytes.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Only you may see a repository that is created.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch, created from main if need be; refs/pr/N.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request instead.")] = False,
    message: Annotated[str | None, typer.Option(help="First line of the commit.")] = None,
    base_model: Annotated[
        str | None, typer.Option(help="Of an adapter trained from a folder: its base model, user/name on the Hub.")
    ] = None,
    repo_type: Annotated[str | None, typer.Option(help="model or dataset. Default: what the folder holds.")] = None,
    large: Annotated[
        bool, typer.Option("--large", help="Several commits, for thousands of files; incomplete until the last.")
    ] = False,
    verify: Annotated[bool, typer.Option(help="First load it in a process without hf-latent.")] = True,
) -> None:
    """
    Push a folder to the Hub, in one commit.

    hf-latent push my-model user/my-model --dry-run

    Then without --dry-run.

    Log in first, with `hf auth login` or HF_TOKEN (a token with write access); there is no option for it, because
    commands are kept in histories. What a training keeps for itself (optimizer states, checkpoint-N, logs) is left out
    and said. Refused, with the reason: other pickles, Python files other than hf-latent's, paths of this machine,
    tokens. Interrupted, the same command goes on: the repository is as before, or complete.
    """
    from pathlib import Path

    from hf_latent.checkpoints.names import packaged_checkpoints, resolve_checkpoint
    from hf_latent.hub import push as push_folder

    # A folder need not be a model's: decoders and data sets are pushed, too.
    if not Path(source).exists() and source not in packaged_checkpoints():
        resolve_checkpoint(source, "source")
        raise ValueError(f"`source` must be a folder or the name of a packaged checkpoint, got {source!r}")
    done = push_folder(
        source if Path(source).exists() else resolve_checkpoint(source),
        repo_id,
        base_model=base_model,
        private=private or None,
        revision=revision,
        create_pr=create_pr,
        commit_message=message,
        repo_type=repo_type,
        large=large,
        dry_run=dry_run,
        verify=verify,
    )
    typer.echo(done)
    if dry_run:
        where = f"{done.repo_type} {done.repo_id}, {done.revision}" + (" (new)" if done.is_new else "")
        typer.secho(f"Nothing was sent. Without --dry-run this goes to {where}.", fg="green")
    else:
        typer.secho(done.pr_url or done.commit_url, fg="green")


__all__ = ["push"]
