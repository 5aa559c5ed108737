"""A page in the browser to watch models denoise: pick a checkpoint and decoders, see every forward. Needs gradio."""

from hf_latent.app.settings import AppSettings
from hf_latent.app.space import export_space

__all__ = ["AppSettings", "export_space", "launch"]


def launch(settings: AppSettings | None = None, **options: object) -> None:
    """
    Open the page and serve it until interrupted; also the body of a Space's `app.py`.

    Args:
        settings (`AppSettings`, *optional*): the packaged checkpoints, for visitors of this machine, if not given.
        options: of gradio's `Blocks.launch`, e.g. `server_name`, `server_port`, `inbrowser`.

    Raises:
        ValueError: without gradio, with what to install.
    """
    from hf_latent.app.page import serve

    serve(settings or AppSettings(), **options)
