"""`hf-latent app` starts the page for whom it is meant."""

import sys

import pytest
from typer.testing import CliRunner

import hf_latent.cli as cli
from hf_latent.app import AppSettings
from hf_latent.cli.commands.serve import is_own


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list:
    calls = []
    monkeypatch.setattr("hf_latent.app.launch", lambda settings, **options: calls.append((settings, options)))
    return calls


def run(*arguments: str):
    return CliRunner().invoke(cli.app, ["app", *arguments], catch_exceptions=False)


def test_by_default_only_this_machine_is_served(launched):
    assert run("--no-browser", "--port", "7999").exit_code == 0
    options = {"server_name": "127.0.0.1", "server_port": 7999, "share": False, "inbrowser": False}
    assert launched == [(AppSettings(), options)]


@pytest.mark.parametrize("arguments", [("--share",), ("--host", "0.0.0.0"), ("--host", "192.0.2.1")])
def test_whoever_serves_others_serves_strangers(launched, arguments):
    """Strangers who may name a checkpoint and trust its code run any program on the machine."""
    run(*arguments, "--model", "sudoku-4x4", "--model", "a/b")
    assert launched[0][0] == AppSettings(("sudoku-4x4", "a/b"), public=True)


HOSTS = {"127.0.0.1": True, "::1": True, "localhost": True, "10.0.0.1": False, "0.0.0.0": False}


@pytest.mark.parametrize(("host", "own"), HOSTS.items())
def test_addresses_of_this_machine_are_known(host, own):
    assert is_own(host) is own


def test_a_space_is_written_without_serving(launched, tmp_path):
    result = run("--export-space", str(tmp_path / "space"), "--model", "sudoku-4x4", "--title", "Boards")
    assert result.stdout.splitlines() == [
        str(tmp_path / "space" / n) for n in ("app.py", "requirements.txt", "README.md")
    ]
    assert not launched


def test_without_gradio_it_says_what_to_install(monkeypatch, capsys):
    """A traceback of an import error is what a newcomer would see first."""
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "hf_latent.app.page", raising=False)
    monkeypatch.setattr(sys, "argv", ["hf-latent", "app", "--no-browser"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err.strip().endswith("pip install 'hf-latent[app]'.")
