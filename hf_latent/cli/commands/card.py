"""`hf-latent card`: write, check, table."""

from pathlib import Path
from typing import Annotated

import typer

from hf_latent.cli.help_text import Command, Group

card = typer.Typer(
    cls=Group,
    rich_markup_mode=None,
    help="Model cards from what a folder's JSON files say: write, check, table.",
    no_args_is_help=True,
)
Folders = Annotated[list[Path], typer.Argument(help="Folders with a model, an adapter or results.")]


@card.command(cls=Command)
def write(
    folders: Folders,
    title: Annotated[str | None, typer.Option(help="First heading. Default: as it is, or the folder's name.")] = None,
) -> None:
    """
    Write README.md, or its generated parts anew.

    hf-latent card write my-model

    From config.json, adapter_config.json, generation_config.json, run.json, results.json, decoding_results.json and
    eval_results.json (hf-latent eval MODEL --card FOLDER). Generated parts stand between <!-- hf-latent:NAME -->
    comments; everything else in a card is its author's and stays. What is not known is said to be missing.
    """
    from hf_latent.hub.cards.card import refresh_card

    if title is not None and len(folders) > 1:
        raise ValueError(f"`--title` is for one folder, got {len(folders)}.")
    for folder in folders:
        typer.echo(refresh_card(folder, title=title))


@card.command(cls=Command)
def check(folders: Folders) -> None:
    """
    Say what is wrong with folders that others shall see.

    hf-latent card check my-model

    Metadata that the Hub does not take; numbers of the card that no JSON file of the folder holds that names its
    command; generated parts that are out of date; files that are named and missing; pickles, foreign code, tokens,
    paths of this machine. Exits with 1 if anything is wrong; notes (-) are no errors.
    """
    from hf_latent.hub.safety.card_check import check_card

    reports = [check_card(folder) for folder in folders]
    for report in reports:
        typer.secho(f"{report.folder}: {'valid' if report.is_valid else f'{len(report.errors)} errors'}", bold=True)
        for error in report.errors:
            typer.secho(f"  ! {error}", fg="red")
        for note in report.notes:
            typer.echo(f"  - {note}")
    if not all(report.is_valid for report in reports):
        raise typer.Exit(1)


@card.command(cls=Command)
@card.command("shelf", cls=Command, hidden=True)  # its name in 0.1
def table(
    folder: Annotated[Path, typer.Argument(help="Folder whose subfolders are models, adapters or experiments.")],
) -> None:
    """
    Write the table of all models into FOLDER/README.md.

    hf-latent card table model_cards
    """
    from hf_latent.hub.cards.model_table import write_model_table

    typer.echo(write_model_table(folder))


__all__ = ["card"]
