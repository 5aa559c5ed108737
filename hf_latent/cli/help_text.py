"""How the help of a command is written: whole option names, whole sentences, brackets as they are."""

import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import typer.core

# Wider than this, lines are hard to read; narrower, a help text has no room beside its option.
WIDEST, NARROWEST = 110, 40
INDENT = 28


def width() -> int:
    """Columns to write help in."""
    return max(NARROWEST, min(WIDEST, shutil.get_terminal_size().columns))


def wrap(text: str, columns: int, indent: str = "") -> str:
    """`text` in lines of at most `columns`; a word (an option, a path) is never cut, not even at its hyphens."""
    return textwrap.fill(
        text,
        columns,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def paragraphs(text: str, columns: int, indent: str = "") -> str:
    """A docstring's paragraphs, each filled; one that is a command stays a command that can be copied."""
    blocks = (" ".join(block.split()) for block in re.split(r"\n\s*\n", text.strip()))
    return "\n\n".join(
        f"{indent}  {block}" if block.startswith("hf-latent ") else wrap(block, columns, indent)
        for block in blocks
        if block
    )


def rows(entries: Iterable[tuple[str, str]], columns: int) -> str:
    """Names with their help beside them, or below a name that is too long for that."""
    lines = []
    for name, text in entries:
        filled = wrap(text, columns, " " * INDENT) if text else ""
        head = f"  {name}"
        if len(head) + 2 <= INDENT:
            lines.append(head.ljust(INDENT) + filled.lstrip() if filled else head)
        else:
            lines += [head, filled] if filled else [head]
    return "\n".join(lines)


def section(title: str, entries: Sequence[tuple[str, str]], columns: int) -> str:
    """A group of options under its title."""
    return f"{title}:\n{rows(entries, columns)}\n"


def first_sentence(text: str) -> str:
    """What a list of commands says of one: its first sentence, whole."""
    block = " ".join(re.split(r"\n\s*\n", text.strip())[0].split())
    match = re.match(r".*?[^.][.](?= |$)", block)
    return match.group() if match else block


def panels(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """Arguments and options with their help, by the panel that each is in."""
    found: dict[str, list[tuple[str, str]]] = {}
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            usual = "Arguments" if parameter.param_type_name == "argument" else "Options"
            name = re.sub(r"<list\[(\w+)\]>", r"<\1>", record[0])  # "may be repeated" says it in words
            panel = getattr(parameter, "rich_help_panel", None) or usual
            found.setdefault(panel, []).append((name, " ".join(record[1].split())))
    return found


def ordered(found: dict[str, list[tuple[str, str]]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Arguments first; what belongs to no panel (`--help`) last."""
    ranks = {"Arguments": 0, "Options": 2}
    return sorted(found.items(), key=lambda item: ranks.get(item[0], 1))


class Command(typer.core.TyperCommand):
    """A command whose help is written by this module."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        columns = width()
        usage = " ".join(self.collect_usage_pieces(ctx))
        formatter.write(f"Usage: {ctx.command_path} {usage}\n\n{paragraphs(self.help or '', columns)}\n")
        for title, entries in ordered(panels(self, ctx)):
            formatter.write(f"\n{section(title, entries, columns)}")


class Group(typer.core.TyperGroup):
    """A group of commands whose help is written by this module."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        columns = width()
        usage = " ".join(self.collect_usage_pieces(ctx))
        formatter.write(f"Usage: {ctx.command_path} {usage}\n\n{paragraphs(self.help or '', columns)}\n")
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        entries = [(name, first_sentence(command.help or "")) for name, command in commands if command is not None]
        formatter.write(f"\n{section('Commands', entries, columns)}")
        for title, options in ordered(panels(self, ctx)):
            formatter.write(f"\n{section(title, options, columns)}")
        formatter.write(f"\n{ctx.command_path} COMMAND --help says what a command takes.\n")


__all__ = ["Command", "Group", "first_sentence", "paragraphs", "section", "width", "wrap"]
