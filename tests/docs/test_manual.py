"""The manual builds without a warning, its links lead somewhere, and it holds what it has to."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import hf_latent
from hf_latent import DiffusionGenerationConfig
from hf_latent.generation.configuration_generation import DreamGenerationConfig


class Links(HTMLParser):
    """Addresses and anchors of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: set[str] = set()
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.addresses.add(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


@pytest.fixture(scope="module")
def manual(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built manual; warnings are errors."""
    folder = tmp_path_factory.mktemp("manual")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", "html"]
    command += ["-d", folder / "doctrees", repository / "docs", folder / "html"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder / "html"


@pytest.mark.slow
def test_every_internal_link_leads_somewhere(manual: Path) -> None:
    pages = {}
    for path in manual.rglob("*.html"):
        pages[path] = Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    assert len(pages) > 40
    broken = []
    for path, links in pages.items():
        for address in links.addresses:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or not (parts.path or parts.fragment):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = pages[target].anchors if target in pages else {unquote(parts.fragment)}
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                broken.append(f"{path.name}: {address}")
    assert not broken


@pytest.mark.slow
def test_the_built_manual_names_every_knob_and_every_public_class(manual: Path) -> None:
    """The table of knobs and the reference are made from the code: would catch one that silently became empty."""
    knobs = (manual / "knobs.html").read_text(encoding="utf-8")
    assert [name for name in DiffusionGenerationConfig.own_defaults if f">{name}<" not in knobs] == []
    reference = "".join(path.read_text(encoding="utf-8") for path in (manual / "reference").glob("*.html"))
    reference += knobs
    assert [name for name in hf_latent.__all__ if name not in reference] == []
    assert "58.5" in (manual / "studies/arithmetic.html").read_text(encoding="utf-8")


def test_every_published_study_has_a_page_with_its_card(repository: Path) -> None:
    """Would catch a checkpoint that was published and never described."""
    studies = repository / "docs/studies"
    index = (studies / "index.md").read_text(encoding="utf-8")
    for card in (repository / "model_cards").glob("*/README.md"):
        name = card.parent.name
        assert f"```{{card}} {name}\n" in (studies / f"{name}.md").read_text(encoding="utf-8")
        assert f"\n{name}\n" in index


def test_no_page_states_a_measured_number_by_hand(repository: Path) -> None:
    """Accuracies of the studies come from JSON: a percentage with a decimal in a page would drift."""
    for page in (repository / "docs/studies").glob("*.md"):
        assert not re.search(r"\d\.\d (±|%)", page.read_text(encoding="utf-8")), page.name


def test_what_the_knob_page_says_of_dream_holds(repository: Path) -> None:
    """The one list of defaults there that is written by hand."""
    own = DreamGenerationConfig.own_defaults
    differing = {
        name: own[name] for name, value in DiffusionGenerationConfig.own_defaults.items() if own[name] != value
    }
    text = (repository / "docs/knobs.md").read_text(encoding="utf-8")
    said = re.search(r"Dream's own: (.*?)\.\n\n", text, re.DOTALL)
    assert said and {name: str(value) for name, value in differing.items()} == {
        name: value.strip('"') for name, value in re.findall(r"`(\w+)=([^`]+)`", said[1])
    }


def test_the_pictures_are_those_that_the_script_draws(repository: Path, tmp_path: Path) -> None:
    script = (repository / "docs/pictures/draw.py").read_text(encoding="utf-8")
    (tmp_path / "draw.py").write_text(script, encoding="utf-8")
    subprocess.run([sys.executable, tmp_path / "draw.py"], check=True)
    drawn = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.svg")}
    assert drawn == {path.name: path.read_text("utf-8") for path in (repository / "docs/pictures").glob("*.svg")}
    concepts = (repository / "docs/concepts.md").read_text(encoding="utf-8")
    assert all(f"pictures/{name}" in concepts for name in drawn) and len(drawn) >= 5
