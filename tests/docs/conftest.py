"""The pages of README and manual."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?P<mark><!-- (?:not run: [^\n]+|walk) -->\n)?^```(?:python|bash)$", re.MULTILINE)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`page`: every page with blocks of code; `runnable_page`: those with a block that is to be run."""
    every = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").rglob("*.md") if "_build" not in p.parts)]
    marks = {page: [match["mark"] for match in BLOCK.finditer(page.read_text(encoding="utf-8"))] for page in every}
    found = {
        "page": [page for page in every if marks[page]],
        "runnable_page": [page for page in every if None in marks[page]],
    }
    for name in set(found) & set(metafunc.fixturenames):
        metafunc.parametrize(name, found[name], ids=[page.relative_to(ROOT).as_posix() for page in found[name]])
