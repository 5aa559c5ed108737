"""`hf-latent train`"""

from pathlib import Path
from typing import Annotated, Any

import typer

from hf_latent.cli.help_text import Command, section, width


class TrainCommand(Command):
    """The help of `train` lists the fields of a run, too, in groups."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        from hf_latent.cli.train_options import grouped

        super().format_help(ctx, formatter)
        for title, options in grouped().items():
            formatter.write(f"\n{section(title, [option.record for option in options], width())}")


def train(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="YAML with the fields of the run.", metavar="FILE")] = None,
) -> None:
    """
    Train a masked diffusion or latent-token model: from scratch on a task, or from a checkpoint, with or without LoRA.

    hf-latent train --config run.yaml --max-steps 100 --seed 1

    Any field of the YAML can be given here too and wins, spelled with hyphens or with underscores. The fields are
    those of hf_latent.training.run.TrainArguments, MaskedDiffusionConfig (on trl's SFTConfig) and trl's ModelConfig.
    A switch that is on is put off with --no- before its name. Interrupted, the same command goes on from the newest
    whole checkpoint; --resume-from-checkpoint false begins anew. Ready-made files are in recipes/.
    """
    if config is None and not context.args:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    try:
        from hf_latent.training.run import main, parse
        from hf_latent.training.runs.finishing import describe_end
    except ImportError as error:
        raise ValueError(f"training needs further packages ({error}): pip install 'hf-latent[train]'") from error

    parsed = parse([*(["--config", str(config)] if config is not None else []), *context.args])
    results = main(*parsed)
    typer.echo(describe_end(results, parsed[1].output_dir))


__all__ = ["TrainCommand", "train"]
