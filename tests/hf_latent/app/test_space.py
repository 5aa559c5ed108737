"""The exported folder is a Space that serves the page, for strangers."""

import ast
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from huggingface_hub import SpaceCard

from hf_latent.app import AppSettings, export_space


def test_the_space_has_what_the_hub_needs(tmp_path):
    """A README whose metadata do not parse leaves a Space without an SDK: it never starts."""
    (tmp_path / "notes.txt").write_text("mine")
    settings = AppSettings(("sudoku-4x4", "somebody/model"), trust_remote_code=True)
    files = export_space(
        tmp_path, settings, title='Watch: "it" # write', requirement="hf-latent[app] @ https://x/y.whl"
    )
    assert [path.name for path in files] == ["app.py", "requirements.txt", "README.md"]
    card = SpaceCard.load(tmp_path / "README.md")
    assert (card.data.sdk, card.data.app_file, card.data.title) == ("gradio", "app.py", 'Watch: "it" # write')
    assert card.data.models == ["somebody/model"]
    assert card.data.sdk_version[0].isdigit()
    assert (tmp_path / "requirements.txt").read_text() == "hf-latent[app] @ https://x/y.whl\n"
    call = ast.parse((tmp_path / "app.py").read_text()).body[-1].value
    (arguments,) = call.args
    given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in arguments.keywords}
    assert given == {"models": ("sudoku-4x4", "somebody/model"), "trust_remote_code": True, "public": True}
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_packaged_checkpoints_need_no_metadata(tmp_path):
    export_space(tmp_path / "new" / "space")
    card = SpaceCard.load(tmp_path / "new" / "space" / "README.md")
    assert card.data.get("models") is None
    assert "sudoku-4x4" in card.text


def test_a_folder_of_this_machine_cannot_be_in_a_space(tmp_path):
    """It would start there and find nothing."""
    with pytest.raises(ValueError, match="`models` of a Space must be names on the Hub"):
        export_space(tmp_path / "space", AppSettings((str(tmp_path),)))
    assert not (tmp_path / "space").exists()


@pytest.mark.parametrize("argument", ["title", "requirement"])
def test_lines_cannot_be_smuggled_into_the_files(tmp_path, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must be one line"):
        export_space(tmp_path, **{argument: "a\nsdk: docker"})


@pytest.mark.slow
def test_the_exported_app_serves_the_page(tmp_path):
    """`python app.py` is all that a Space does."""
    pytest.importorskip("gradio", reason="needs gradio")
    export_space(tmp_path, AppSettings(("sudoku-4x4",)))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    server = subprocess.Popen(
        [sys.executable, "app.py"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        config = wait_for(f"http://127.0.0.1:{port}/config", server)
    finally:
        server.kill()
        output = server.communicate()[0].decode()
    assert config is not None, output
    dropdown = next(part["props"] for part in config["components"] if part["props"].get("elem_id") == "hl-model")
    assert dropdown["choices"] == [["sudoku-4x4", "sudoku-4x4"]]
    assert dropdown["allow_custom_value"] is False


def wait_for(address: str, server: subprocess.Popen, seconds: float = 300.0) -> dict | None:
    """The JSON at an address, once its server is up; None if it never is."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    return None
