"""Docstrings in transformers' format (Markdown, with `Args:` blocks) as Markdown."""

import inspect
import re

SECTIONS = ("Args", "Parameters", "Attributes", "Returns", "Yields", "Raises", "Example", "Examples")
# `name (type, *optional*):`, `names: text` or `ValueError: text`.
ITEM = re.compile(r"^(?P<names>\*{0,2}\w[\w.]*(?:, \*{0,2}\w[\w.]*)*)(?: \((?P<type>.*?)\))?:(?: (?P<text>.*))?$")
LIST = re.compile(r"\s*(-|\d+\.) ")


def to_markdown(docstring: str | None) -> str:
    """A docstring with its sections as lists, and `[`Name`]` as code."""
    text = inspect.cleandoc(docstring or "")
    text = re.sub(r"\[`~?([\w.]+)`\]", r"`\1`", text)
    out: list[str] = []
    lines = text.splitlines()
    index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            block = []
            while index < len(lines) and (not lines[index].strip() or lines[index].startswith(" ")):
                block.append(lines[index])
                index += 1
            out += ["", f"**{line}**", "", *section(inspect.cleandoc("\n" + "\n".join(block)).splitlines()), ""]
        elif line.startswith("    ") and not in_fence(out) and not LIST.match(last_text(out)):
            block = [line]
            while index < len(lines) and (not lines[index].strip() or lines[index].startswith(" ")):
                block.append(lines[index])
                index += 1
            text = inspect.cleandoc("\n" + "\n".join(block)).splitlines()
            # Indented text is a list, a formula or a table; the latter two keep their lines.
            out += ["", *(text if LIST.match(text[0]) else ["```text", *text, "```"]), ""]
        else:
            out.append(line)
    return "\n".join(out).strip()


def last_text(lines: list[str]) -> str:
    """The last line that is not empty."""
    return next((line for line in reversed(lines) if line.strip()), "")


def in_fence(lines: list[str]) -> bool:
    """Whether a fence is open behind `lines`."""
    return sum(line.lstrip().startswith("```") for line in lines) % 2 == 1


def section(lines: list[str]) -> list[str]:
    """The items of a section as a list; a section without items as it is."""
    out: list[str] = []
    index = 0
    while index < len(lines):
        line = lines[index]
        index += 1
        match = ITEM.match(line)
        if line.startswith("> "):
            out += ["", f"*{line[2:]}*", ""]
        elif match is None:
            out.append(line)
        else:
            rest = []
            while index < len(lines) and (not lines[index].strip() or lines[index].startswith(" ")):
                rest.append(lines[index])
                index += 1
            body = [match["text"] or "", *inspect.cleandoc("\n" + "\n".join(rest)).splitlines()]
            names = ", ".join(f"`{name}`" for name in match["names"].split(", "))
            kind = f" ({match['type']})" if match["type"] else ""
            out.append(f"- {names}{kind}: {body[0]}".rstrip())
            out += ["  " + part if part.strip() else "" for part in body[1:]]
    return out
