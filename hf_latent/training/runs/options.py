"""The command line and YAML of a training run: trl's parser, which here guesses nothing and says what is wrong."""

import difflib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import yaml
from trl import TrlParser


class OptionParser(TrlParser):
    """
    `TrlParser` that takes whole option names only, in both spellings (`--max_steps`, `--max-steps`, and in YAML), and
    raises `ValueError` in one line, where argparse prints the usage of 200 options and ends the process.
    """

    def __init__(self, dataclass_types: Any = None, **kwargs: Any) -> None:
        super().__init__(dataclass_types, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str) -> NoReturn:
        """Called by argparse for a value that does not fit."""
        raise ValueError(message.removeprefix("argument "))

    def known(self) -> list[str]:
        """Every option, as it is written with underscores."""
        return [action.option_strings[0] for action in self._actions if action.option_strings]

    def parse_args_and_config(self, args: Iterable[str] | None = None, *rest: Any, **kwargs: Any) -> tuple[Any, ...]:
        """The dataclasses; `--config` may be given as `--config=FILE`, too, and is looked at before trl reads it."""
        words = split_config(list(sys.argv[1:] if args is None else args))
        if words.count("--config") > 1:
            raise ValueError("`--config` can be given once")
        if (config := config_of(words)) is not None:
            read_config(config)
        return super().parse_args_and_config(words, *rest, **kwargs)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does it, but for words that nothing takes."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            name = next((word.partition("=")[0] for word in rest if word.startswith("--")), None)
            raise ValueError(
                f"nothing takes {' '.join(rest)!r}: values follow the name of an option"
                if name is None
                else f"no option {name}{self.nearest(name)}"
            )
        return found, rest

    def set_defaults_with_config(self, **kwargs: Any) -> list[str]:
        """Take over a YAML's fields; unknown names and values of another kind raise."""
        fields = {name.replace("-", "_"): value for name, value in kwargs.items()}
        actions = {action.dest: action for action in self._actions}
        for name, value in fields.items():
            if name not in actions:
                raise ValueError(f"`--config` has the field {name!r}, which no option has{self.nearest('--' + name)}")
            wanted = actions[name].type
            if (wanted is int or wanted is float) and actions[name].nargs != "+":
                check_number(name, value, wanted)
            choices = actions[name].choices
            if choices is not None and value is not None and value not in choices:
                raise ValueError(f"`{name}` of `--config` must be one of {list(choices)}, got {value!r}")
        return super().set_defaults_with_config(**fields)

    def nearest(self, name: str) -> str:
        """ "; did you mean ...?" for an option's name that does not exist."""
        known, typed = self.known(), name.replace("-", "_").replace("__", "--", 1)
        starts = [option for option in known if option.startswith(typed)][:5]
        close = starts or difflib.get_close_matches(typed, known, n=3)
        return f": did you mean {', '.join(close)}?" if close else "; hf-latent train --help lists them"


def check_number(name: str, value: Any, wanted: type) -> None:
    """A number of a YAML must be one; YAML reads 1e-4 as text, which argparse converts."""
    fits = value is None or isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool))
    if fits and wanted is int and isinstance(value, float) and not value.is_integer():
        fits = False
    if not fits:
        kind = "a whole number" if wanted is int else "a number"
        raise ValueError(f"`{name}` of `--config` must be {kind}, got {value!r}")


def split_config(words: list[str]) -> list[str]:
    """`--config=FILE` as two words, which is how trl looks for it."""
    split: list[str] = []
    for word in words:
        split += ["--config", word.partition("=")[2]] if word.startswith("--config=") else [word]
    return split


def config_of(words: list[str]) -> str | None:
    """The file behind `--config`, if that is given."""
    words = split_config(words)
    if "--config" not in words:
        return None
    following = words[words.index("--config") + 1 :][:1]
    if not following or following[0].startswith("--"):
        raise ValueError("`--config` must be followed by a YAML file")
    return following[0]


def read_config(path: str | Path) -> dict[str, Any]:
    """
    The fields of a YAML file.

    Raises:
        ValueError: naming the file, and line and column of what is no YAML.
    """
    if not Path(path).is_file():
        what = "is a folder" if Path(path).is_dir() else "does not exist"
        raise ValueError(f"`--config` must be a YAML file, got {path}, which {what}")
    try:
        fields = yaml.safe_load(Path(path).read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"`--config` must be a YAML file, got {path}, which is no text in UTF-8: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = "" if mark is None else f", line {mark.line + 1}, column {mark.column + 1}"
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        raise ValueError(f"{path}{place}: not YAML: {problem}") from None
    if not isinstance(fields, dict):
        raise ValueError(f"{path} must hold fields, name: value, got {type(fields).__name__}")
    if strange := [name for name in fields if not isinstance(name, str)]:
        raise ValueError(f"{path}: the names of fields must be text, got {strange[0]!r}")
    return fields


__all__ = ["OptionParser", "config_of", "read_config", "split_config"]
