"""`hf-latent train`"""

from pathlib import Path
from typing import Annotated

import typer


def train(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="YAML with the fields of the run.")] = None,
) -> None:
    """
    Train a masked diffusion or latent-token model: from scratch on a task, or from a checkpoint, with or without LoRA.

    Any field of the YAML can be given here too and wins: hf-latent train --config run.yaml --max_steps 100 --seed 1.
    The fields are those of hf_latent.training.run.TrainArguments, MaskedDiffusionConfig (on trl's SFTConfig) and trl's
    ModelConfig. Interrupted, the same command goes on from the newest whole checkpoint; --resume_from_checkpoint false
    begins anew. Ready-made files are in recipes/.
    """
    if config is not None and not config.is_file():
        raise ValueError(f"`--config` must be a YAML file, got {config}, which does not exist.")
    if config is None and not context.args:
        typer.echo(context.get_help())
        raise typer.Exit(2)
    try:
        from hf_latent.training.finishing import describe_end
        from hf_latent.training.run import main, parse
    except ImportError as error:
        raise ValueError(f"training needs further packages ({error}): pip install 'hf-latent[train]'") from error

    parsed = parse([*(["--config", str(config)] if config is not None else []), *context.args])
    results = main(*parsed)
    typer.echo(describe_end(results, parsed[1].output_dir))


__all__ = ["train"]
