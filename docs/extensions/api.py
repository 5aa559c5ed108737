"""`{api} MODULE`: everything in a module's `__all__`, with signatures and docstrings as Markdown."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from docstrings import to_markdown
from markdown_directive import MarkdownDirective

LONGEST = 12  # parameters that a signature shows; a configuration of transformers has a hundred


def signature_of(thing: Any) -> str:
    """Names and defaults; the docstring says the rest."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return "()"
    parameters = [p.replace(annotation=p.empty) for p in found.parameters.values() if p.name not in ("self", "cls")]
    if len(parameters) > LONGEST:
        return "(**kwargs)"
    shown = str(found.replace(parameters=parameters, return_annotation=found.empty))
    return re.sub(r"<(\w+)[^>]*>", r"\1", shown)


def is_ours(thing: Any) -> bool:
    """Whether a class or function was written here."""
    return getattr(thing, "__module__", "").startswith("hf_latent")


def describe_function(path: str, function: Any, kind: str = "function", fence: str = ":::") -> list[str]:
    """A function or method."""
    text = to_markdown(function.__doc__)
    return [f"{fence}{{py:{kind}}} {path}{signature_of(function)}", "", *text.splitlines(), "", fence, ""]


def describe_class(path: str, cls: type) -> list[str]:
    """A class and the public methods that it defines."""
    lines = [f"::::{{py:class}} {path}{signature_of(cls)}", "", *to_markdown(cls.__doc__).splitlines(), ""]
    for name, member in vars(cls).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if not name.startswith("_") and inspect.isfunction(function) and function.__doc__ and is_ours(function):
            kind = "classmethod" if isinstance(member, classmethod) else "method"
            lines += describe_function(name, function, kind)
    return [*lines, "::::", ""]


def describe_module(name: str, chosen: list[str]) -> str:
    """All public names of a module, or the chosen ones, in their order."""
    module = importlib.import_module(name)
    lines: list[str] = []
    for public in chosen or module.__all__:
        thing = getattr(module, public)
        if inspect.isclass(thing):
            lines += describe_class(f"{name}.{public}", thing)
        elif callable(thing):
            lines += describe_function(f"{name}.{public}", thing)
        elif isinstance(thing, dict):
            names = ", ".join(f"`{key}`" for key in thing)
            lines += [f":::{{py:data}} {name}.{public}", "", names, "", ":::", ""]
    if not lines:
        raise ValueError(f"{name} has nothing to show")
    return "\n".join(lines)


class Api(MarkdownDirective):
    """Names in the content are shown alone; without any, all of `__all__`."""

    def markdown(self) -> tuple[str, list[Path]]:
        """The text, made from the module as it is installed."""
        chosen = " ".join(self.content).split()
        module = importlib.import_module(self.arguments[0])
        return describe_module(self.arguments[0], chosen), [Path(module.__file__ or "")]


def setup(app: Any) -> dict[str, bool]:
    """Registers the directive."""
    app.add_directive("api", Api)
    return {"parallel_read_safe": True}
