"""The house: small files, folders that one overlooks, and a plan of it that is true."""

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("hf_latent", "modeling", "generation", "recipes", "tests", "benchmarks", "docs")
CODE = {".py", ".js", ".css", ".html", ".sh", ".yaml"}
MOST_LINES, MOST_FILES = 400, 14
# Named as patterns, by example, or made by a command.
NO_PATHS = ("docs/_build/html", "shared/", "docs/studies/<name>.md")


def files() -> list[Path]:
    """All of the repository's own, relative to its root."""
    found = [path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*") if path.is_file()]
    return [path for path in found if not {"__pycache__", "_build", ".jupyter_cache"} & {*path.parts}]


def test_no_file_is_long() -> None:
    long = {path: len((ROOT / path).read_text("utf-8").splitlines()) for path in files() if path.suffix in CODE}
    assert {str(path): lines for path, lines in long.items() if lines > MOST_LINES} == {}


def test_no_folder_is_full() -> None:
    full = Counter(path.parent for path in files())
    assert {str(folder): number for folder, number in full.items() if number > MOST_FILES} == {}


def test_checkpoints_carry_no_code() -> None:
    assert not [path for path in (ROOT / "model_cards").rglob("*.py") if path.name != "__init__.py"]


def test_what_contributing_names_is_there() -> None:
    """A reading list of files that have moved teaches nobody."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named = {name for name in re.findall(r"`((?:[\w.]+/)+[\w.]*)`", text) if name not in NO_PATHS}
    assert len(named) > 20
    assert sorted(name for name in named if not (ROOT / name).exists()) == []
