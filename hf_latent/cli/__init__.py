"""The command line. Every command lives in a module of its own and imports what is heavy when it runs."""

import difflib
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from hf_latent import __version__
from hf_latent.cli.commands.bundle import bundle
from hf_latent.cli.commands.bundle_decoder import bundle_decoder
from hf_latent.cli.commands.card import card
from hf_latent.cli.commands.demo import demo
from hf_latent.cli.commands.denoise import denoise
from hf_latent.cli.commands.eval import evaluate
from hf_latent.cli.commands.generate import generate
from hf_latent.cli.commands.pull import pull
from hf_latent.cli.commands.push import push
from hf_latent.cli.commands.serve import serve
from hf_latent.cli.commands.traces import traces
from hf_latent.cli.commands.train import TrainCommand, train
from hf_latent.cli.commands.view import view
from hf_latent.cli.help_text import Command, Group

app = typer.Typer(
    name="hf-latent",
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # or `[app]` of "hf-latent[app]" is read as markup
    pretty_exceptions_show_locals=False,
)
app.command(cls=Command)(demo)
app.command(cls=Command)(generate)
app.command(cls=Command)(denoise)
app.command(cls=TrainCommand, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train)
app.command(cls=Command)(traces)
app.command(cls=Command, name="eval")(evaluate)
app.command(cls=Command)(view)
app.command(cls=Command, name="app")(serve)
app.command(cls=Command)(bundle)
app.command(cls=Command)(bundle_decoder)
app.command(cls=Command)(push)
app.command(cls=Command)(pull)
app.add_typer(card, name="card")

# Click's base of all errors of usage; typer brings a click of its own in some versions.
UsageError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def show_version(value: bool) -> None:
    """Print the version and end."""
    if value:
        typer.echo(f"hf-latent {__version__}")
        raise typer.Exit


@app.callback()
def hf_latent(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=show_version, is_eager=True)
    ] = False,
) -> None:
    """Language models that reason in positions they have not written yet."""


def usage_message(error: Any) -> str:
    """One line for what click does not understand, with what was probably meant."""
    message = " ".join(error.format_message().split())
    context = getattr(error, "ctx", None)
    if context is None:
        return message
    name = getattr(error, "option_name", None)
    if name is not None and message.startswith("No such option"):
        known = [flag for parameter in context.command.get_params(context) for flag in parameter.opts]
        typed = name.replace("_", "-")
        starts = [flag for flag in known if flag.startswith(typed)]
        close = [typed] if typed in known else starts or difflib.get_close_matches(typed, known, n=3)
        message = f"no option {name}" + (f": did you mean {' or '.join(close)}?" if close else "")
    return f"{message.rstrip('.')} ({context.command_path} --help)"


def one_line(error: BaseException) -> str:
    """An error's message without its line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `hf-latent`: what a user did wrong is said in one line, without a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(words, prog_name="hf-latent", standalone_mode=False)
    except UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.ctx.get_help())
            raise SystemExit(2) from None
        fail(usage_message(error))
    except (ValueError, OSError) as error:
        fail(one_line(error))
    except typer.Abort:
        fail("stopped", 1)
    except Exception as error:
        from hf_latent.checkpoints.names import is_of_a_file

        if not is_of_a_file(error):
            raise
        fail(one_line(error))
    raise SystemExit(code if isinstance(code, int) else 0)


def fail(message: str, code: int = 2) -> None:
    """End with a line on standard error."""
    typer.secho(f"hf-latent: {message}", fg="red", err=True)
    raise SystemExit(code) from None


__all__ = ["app", "main"]
