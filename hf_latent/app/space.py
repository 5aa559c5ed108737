"""The page as a Space: a folder with `app.py`, `requirements.txt` and `README.md`."""

import json
from importlib.metadata import version
from pathlib import Path

from hf_latent.app.settings import AppSettings
from hf_latent.data.output_folders import check_output_folder
from hf_latent.modeling.travel import write_atomically

APP = '''"""The page of hf-latent for visitors who choose among the listed checkpoints."""

from hf_latent.app import AppSettings, launch

launch(AppSettings(models={models}, trust_remote_code={trust_remote_code}, public=True))
'''
README = """---
title: {quoted_title}
emoji: 🎭
colorFrom: blue
colorTo: indigo
sdk: gradio
sdk_version: {sdk_version}
app_file: app.py
license: apache-2.0
{models}---

# {title}

Watch a masked diffusion language model write, and compare two decoders on the same prompt. Made by
`hf-latent app --export-space`; the page itself is in the package `hf-latent`, extra `app`.

Checkpoints: {listed}.
"""
GRADIO = "6.0.0"


def export_space(
    folder: str | Path,
    settings: AppSettings | None = None,
    *,
    title: str = "hf-latent",
    requirement: str = "hf-latent[app]",
) -> list[Path]:
    """
    Write the files of a Space that serves the page; other files of `folder` are left alone.

    Args:
        folder: is made if it does not exist.
        settings: `public` is always on in a Space; without `models`, the packaged checkpoints.
        title: of the Space.
        requirement: how pip is to install this library there, e.g. a wheel's address.

    Returns:
        The files.

    Raises:
        ValueError: for a checkpoint that is a folder of this machine, or a title or requirement of several lines.
    """
    settings = settings or AppSettings()
    for name in settings.models:
        if Path(name).exists():
            raise ValueError(f"`models` of a Space must be names on the Hub or of packaged checkpoints, got {name!r}.")
    for argument, text in (("title", title), ("requirement", requirement)):
        if "\n" in text or not text.strip():
            raise ValueError(f"`{argument}` must be one line, got {text!r}.")
    on_hub = [name for name in settings.models if "/" in name]
    texts = {
        "app.py": APP.format(models=repr(tuple(settings.models)), trust_remote_code=settings.trust_remote_code),
        "requirements.txt": f"{requirement}\n",
        "README.md": README.format(
            title=title,
            quoted_title=json.dumps(title),
            sdk_version=installed_gradio(),
            models="models:\n" + "".join(f"- {name}\n" for name in on_hub) if on_hub else "",
            listed=", ".join(settings.choices),
        ),
    }
    root = Path(folder)
    check_output_folder(root, "--export-space", files=texts)
    root.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_atomically(root / name, text)
    return [root / name for name in texts]


def installed_gradio() -> str:
    """The version that was tried here, or the oldest that will do."""
    try:
        return version("gradio")
    except ModuleNotFoundError:
        return GRADIO


__all__ = ["export_space"]
