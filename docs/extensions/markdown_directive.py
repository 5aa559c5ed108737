"""A directive whose content is Markdown that Python writes while the manual is built."""

from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent.parent


class MarkdownDirective(SphinxDirective):
    """Parses what `markdown` returns in the place of the directive; a subclass says from which files it is made."""

    has_content = True
    required_arguments = 1
    optional_arguments = 1
    final_argument_whitespace = False

    def markdown(self) -> tuple[str, list[Path]]:
        """Text in Markdown, and the files it was made from."""
        raise ValueError(f"{type(self).__name__} says nothing")

    def run(self) -> list[nodes.Node]:
        """The nodes of that text."""
        try:
            text, sources = self.markdown()
        except (KeyError, ValueError, OSError) as error:
            raise self.error(f"{self.name} {' '.join(self.arguments)}: {error}") from error
        for path in sources:
            self.env.note_dependency(str(path))
        source = self.get_source_info()[0]
        container: Any = nodes.Element()
        container.document = self.state.document
        self.state.nested_parse(StringList(text.splitlines(), source), self.content_offset, container, True)
        return container.children


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
