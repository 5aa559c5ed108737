"""`hf-latent app`"""

import ipaddress
import socket
from pathlib import Path
from typing import Annotated

import typer


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(help="To list: folder, name on the Hub, packaged; may be repeated. Default: all packaged."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to serve at; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; the first free one from 7860 if not given.")
    ] = None,
    share: Annotated[bool, typer.Option("--share", help="A public address for 72 hours, through gradio's tunnel.")] = (
        False
    ),
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that comes with the listed checkpoints.")
    ] = False,
    export_space: Annotated[
        Path | None, typer.Option(help="Write the files of a Space into this folder instead of serving.")
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the Space.")] = "hf-latent",
    requirement: Annotated[
        str, typer.Option(help="How the Space is to install this library: a name for pip, or a wheel's address.")
    ] = "hf-latent[app]",
    threads: Annotated[int | None, typer.Option(help="CPU threads of torch; its own choice if not given.")] = None,
) -> None:
    """
    Open a page in the browser to watch models denoise.

    hf-latent app --model sudoku-6x6

    Pick a checkpoint, type a prompt or a template with blanks, choose one decoder or two, and see every forward.
    Needs pip install 'hf-latent[app]'. With --share or another --host than this machine's own, visitors choose among
    the listed checkpoints only. --export-space writes a folder that runs as a Space.
    """
    from hf_latent.app import AppSettings, launch
    from hf_latent.app import export_space as write_space

    settings = AppSettings(tuple(model or ()), trust_remote_code, public=share or not is_own(host))
    if export_space is not None:
        for path in write_space(export_space, settings, title=title, requirement=requirement):
            typer.echo(path)
        return
    if threads is not None and threads < 1:
        raise ValueError(f"`--threads` must be at least 1, got {threads}.")
    check_host(host)
    if threads is not None:
        import torch

        torch.set_num_threads(threads)
    launch(settings, server_name=host, server_port=port, share=share, inbrowser=browser)


def check_host(host: str) -> None:
    """Raise `ValueError` for what is no address and no name of a machine."""
    try:
        socket.getaddrinfo(host, None)
    except (OSError, UnicodeError) as error:
        raise ValueError(f"`--host` must be an address such as 127.0.0.1, got {host!r}: {error}") from None


def is_own(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


__all__ = ["serve"]
