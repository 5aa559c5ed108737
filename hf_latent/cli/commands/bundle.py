"""`hf-latent bundle`"""

from pathlib import Path
from typing import Annotated

import typer

from hf_latent.cli.shared_options import Adapter, Revision


def bundle(
    model: Annotated[str, typer.Argument(help="Folder, or name on the Hub, of a checkpoint.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the bundle.")],
    adapter: Adapter = None,
    revision: Revision = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest size of a weight file.")] = "5GB",
) -> None:
    """
    Write a checkpoint folder that loads anywhere with AutoModel.from_pretrained(folder, trust_remote_code=True).

    Weights, configuration, tokenizer, card, and the code they need: hf-latent need not be installed to use it. What a
    training has left beside the model or adapter (run.json, results.json, training log and curve) goes along.
    """
    from hf_latent.checkpoints.loading import load, resolve
    from hf_latent.data.output_folders import check_output_folder
    from hf_latent.hub import bundle as write_bundle
    from hf_latent.hub import refresh_card
    from hf_latent.hub.cards.results import keep_run_files
    from hf_latent.hub.safety.training_files import where_weights_are

    check_output_folder(folder, "folder")
    # Before its name is resolved: the folder of a training that has not ended is none of a checkpoint.
    if advice := where_weights_are(Path(model).expanduser(), f"hf-latent bundle {{folder}} {folder}"):
        raise ValueError(advice)
    loaded, tokenizer = load(model, adapter=adapter, revision=revision, autoregressive=True)
    path = write_bundle(loaded, tokenizer, folder, max_shard_size=max_shard_size)
    if keep_run_files(Path(adapter or resolve(model)), path):
        refresh_card(path)
    for file in sorted(path.rglob("*")):
        if file.is_file():
            typer.echo(f"{file.stat().st_size:>14,}  {file.relative_to(path)}")
    typer.secho(f"{path} loads without hf-latent.", fg="green")


__all__ = ["bundle"]
