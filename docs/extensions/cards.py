"""
`{card} NAME`: a model card, as it lies in `model_cards/NAME/`, as a part of a page.
`{repository-page} FILE`: another page of the repository, without its title.
"""

import os
import re
from pathlib import Path
from typing import Any

from markdown_directive import ROOT, MarkdownDirective


def read_card(folder: Path, page: Path) -> str:
    """The card without front matter and title, pictures as seen from `page`."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\n?", "", text, flags=re.DOTALL)
    place = os.path.relpath(folder, page.parent)
    lines, fenced = [], False
    for line in text.strip().splitlines():
        fenced ^= line.startswith("```")
        if not fenced:
            if line.startswith("# "):
                continue
            line = re.sub(r"!\[([^\]]*)\]\(([^)]+)\)", rf"```{{image}} {place}/\2\n:alt: \1\n:class: plot\n```", line)
            line = re.sub(r"(?<!!)\[([^\]]+)\]\((?!https?:|#)([^)]+)\)", r"\1 (`\2`)", line)
        lines.append(line)
    return "\n".join(lines)


class Card(MarkdownDirective):
    """The card of a folder."""

    def markdown(self) -> tuple[str, list[Path]]:
        """Its text."""
        folder = ROOT / "model_cards" / self.arguments[0]
        return read_card(folder, Path(self.env.doc2path(self.env.docname))), [folder / "README.md"]


class RepositoryPage(MarkdownDirective):
    """A Markdown file of the repository's root; its links into `docs/` lead into the manual."""

    def markdown(self) -> tuple[str, list[Path]]:
        """Its text."""
        path = ROOT / self.arguments[0]
        text = path.read_text(encoding="utf-8").partition("\n")[2]
        text = re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", text)
        return text.replace("[README](README.md)", "README"), [path]


def setup(app: Any) -> dict[str, bool]:
    """Registers the directives."""
    app.add_directive("card", Card)
    app.add_directive("repository-page", RepositoryPage)
    return {"parallel_read_safe": True}
