"""The README: two commands, one screen and a half, no dead link. Its blocks are run by tests/docs/test_blocks.py."""

import re
import shlex
import tomllib
from pathlib import Path


def test_two_commands_each_with_all_of_its_setup(repository: Path) -> None:
    """`.ci/run` takes the second from here; another line that installs would be a third way to begin."""
    text = (repository / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^pip install -e .*$", text, re.MULTILINE)
    assert len(commands) == 2
    steps = [command.split(" && ") for command in commands]
    assert [step[1] for step in steps] == ["hf-latent demo", "pytest -n 2"]
    extras = tomllib.loads((repository / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for step in steps:
        words = shlex.split(step[0])
        match = re.fullmatch(r"\.\[([\w,-]+)\]", words[-1])
        assert words[:3] == ["pip", "install", "-e"] and match and set(match[1].split(",")) <= set(extras)


def test_the_manual_starts_with_the_same_two(repository: Path) -> None:
    pages = [(repository / page).read_text(encoding="utf-8") for page in ("README.md", "docs/start.md")]
    commands, same = (re.findall(r"^pip install (?:-e|torch) .*$", page, re.MULTILINE) for page in pages)
    assert commands == same and len(commands) == 3


def test_the_two_commands_are_those_that_ci_runs(repository: Path) -> None:
    script = (repository / ".ci/run").read_text(encoding="utf-8")
    assert "README.md" in script and "&& pytest" in script and "&& hf-latent demo" in script


def test_it_stays_short(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150 and len(text.encode()) <= 10_000


def test_what_a_machine_needs_is_said(repository: Path) -> None:
    text = (repository / "README.md").read_text(encoding="utf-8").partition("## Load")[0]
    for what in ("Python 3.11", "GB of disk", "GB of memory", "minutes"):
        assert what in text


def test_every_link_leads_to_a_file(repository: Path) -> None:
    for page in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", (repository / page).read_text(encoding="utf-8")):
            assert (repository / link).exists(), f"{page}: {link}"
