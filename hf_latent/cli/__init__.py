"""The command line. Every command lives in a module of its own and imports what is heavy when it runs."""

import typer

from hf_latent.cli.bundle import bundle
from hf_latent.cli.bundle_decoder import bundle_decoder
from hf_latent.cli.card import card
from hf_latent.cli.demo import demo
from hf_latent.cli.denoise import denoise
from hf_latent.cli.eval import evaluate
from hf_latent.cli.generate import generate
from hf_latent.cli.pull import pull
from hf_latent.cli.push import push
from hf_latent.cli.serve import serve
from hf_latent.cli.traces import traces
from hf_latent.cli.train import train
from hf_latent.cli.view import view

app = typer.Typer(
    name="hf-latent",
    help="Language models that reason in positions they have not written yet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)
app.command()(demo)
app.command()(generate)
app.command()(denoise)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train)
app.command()(traces)
app.command(name="eval")(evaluate)
app.command()(view)
app.command(name="app")(serve)
app.command()(bundle)
app.command()(bundle_decoder)
app.command()(push)
app.command()(pull)
app.add_typer(card, name="card")


def main() -> None:
    """Entry point of `hf-latent`: what a user did wrong is said in one line, without a traceback."""
    try:
        app()
    except (ValueError, OSError) as error:
        typer.secho(f"hf-latent: {error}", fg="red", err=True)
        raise SystemExit(2) from None


__all__ = ["app", "main"]
