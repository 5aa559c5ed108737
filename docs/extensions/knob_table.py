"""`{knobs} CLASS`: every knob of a generation configuration, from its docstring and its defaults."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from markdown_directive import MarkdownDirective, table

NAME = re.compile(r"^    (?P<names>\w+(?:, \w+)*) \((?P<type>.*?)\):(?P<text>.*)$")


def read_knobs(cls: Any) -> dict[str, tuple[str, str]]:
    """Name to type and meaning, as the docstring's `Args:` say."""
    found: dict[str, tuple[str, str]] = {}
    names: list[str] = []
    inside = False
    for line in inspect.cleandoc(cls.__doc__).splitlines():
        if line == "Args:":
            inside = True
        elif inside and line and not line.startswith(" "):
            break
        elif inside and (match := NAME.match(line)):
            names = match["names"].split(", ")
            kind = re.sub(r",? ?\*optional\*(, defaults to .*)?", "", match["type"])
            found |= {name: (kind, match["text"].strip()) for name in names}
        elif inside and line.strip():
            found |= {name: (found[name][0], f"{found[name][1]} {line.strip()}".strip()) for name in names}
    return found


def describe_knobs(cls: Any) -> str:
    """The table; a knob of the class that the docstring leaves out fails the build."""
    knobs = read_knobs(cls)
    if missing := sorted(set(cls.own_defaults) - set(knobs)):
        raise ValueError(f"{cls.__name__} does not say what {', '.join(missing)} do")
    rows = []
    for name, (kind, text) in knobs.items():
        default = f", {cls.own_defaults[name]!r}" if name in cls.own_defaults else ""
        # Two columns, so that the meaning is in sight on a phone.
        rows.append([f"`{name}`<br>{kind.replace('`', '')}{default}", text.replace("|", "\\|")])
    return table(["knob, type, default", "meaning"], rows)


class Knobs(MarkdownDirective):
    """The knobs of a class, `module.Class`."""

    def markdown(self) -> tuple[str, list[Path]]:
        """The table."""
        module_name, _, name = self.arguments[0].rpartition(".")
        cls = getattr(importlib.import_module(module_name), name)
        return describe_knobs(cls), [Path(inspect.getfile(cls))]


class Refused(MarkdownDirective):
    """Arguments of transformers that a denoising loop refuses, with what to use instead where there is something."""

    def markdown(self) -> tuple[str, list[Path]]:
        """A table of those with an answer, and the names of the others."""
        module = importlib.import_module(self.arguments[0])
        answered = table(
            ["refused", "instead"], [[f"`{name}`", text] for name, text in sorted(module.INSTEAD.items())]
        )
        others = ", ".join(f"`{name}`" for name in sorted(set(module.neutral_values()) - set(module.INSTEAD)))
        return f"{answered}\n\nAnd, without anything in their place: {others}.", [Path(module.__file__ or "")]


def setup(app: Any) -> dict[str, bool]:
    """Registers the directives."""
    app.add_directive("knobs", Knobs)
    app.add_directive("refused", Refused)
    return {"parallel_read_safe": True}
