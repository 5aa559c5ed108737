"""The notebooks of the manual run from their first cell to the last."""

import json
from pathlib import Path

import pytest

NOTEBOOKS = ("decode_and_look", "fine_tune_and_share")


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_notebook_runs(name: str, repository: Path, tmp_path: Path) -> None:
    """In a folder that is not the checkout, as a reader would start it; a cell that raises fails the test."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    book = nbformat.read(repository / "docs/notebooks" / f"{name}.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        book, timeout=900, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    assert outputs and not [output for output in outputs if output.output_type == "error"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_the_committed_notebook_shows_outputs_and_no_paths(name: str, repository: Path) -> None:
    text = (repository / "docs/notebooks" / f"{name}.ipynb").read_text(encoding="utf-8")
    book = json.loads(text)
    outputs = [output for cell in book["cells"] for output in cell.get("outputs", [])]
    assert outputs and not [output for output in outputs if output["output_type"] == "error"]
    assert "/tmp/" not in text and "site-packages" not in text and "/home/" not in text
