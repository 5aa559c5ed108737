"""Numbers of a card, and whether the JSON files of its folder hold them."""

import bisect
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from hf_latent.hub.cards.results import read_json_object

# Of what a model is, rather than of what was measured: they need no command.
FACTS = ("config.json", "generation_config.json", "adapter_config.json", "task.json", "chat_template.json")
_HIDDEN = (
    r"```.*?```",  # code and verbatim samples
    r"<!--.*?-->",
    r"`[^`\n]*`",  # names and settings
    r"\]\([^)]*\)",  # targets of links
    r"[A-Za-z]-\d[\w.]*",  # Apache-2.0, GPT-2
    r"https?://\S+",
    r"(?:arXiv[: ]\s*)?\b\d{4}\.\d{5}\b",
)
_NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")
_SMALL = 100  # plain whole numbers below it are counts of speech ("two draws", "4 lines") unless a table shows them


def shown_numbers(text: str) -> list[str]:
    """
    The numbers of a card's body that have to come from somewhere, as they are written.

    Those are all numbers in tables (but in the row of headings), and in sentences those with a decimal point, a
    percent sign, thousands separators, or of three digits and more. Code, samples in fences, names and settings in
    backticks, links and numbers of arXiv are none.
    """
    for pattern in _HIDDEN:
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    lines = text.splitlines()
    found = []
    for number, line in enumerate(lines):
        if line.startswith("#"):
            continue
        is_row = line.startswith("|")
        is_heading = is_row and number + 1 < len(lines) and re.fullmatch(r"[|:\- ]+", lines[number + 1]) is not None
        if not is_heading:
            found += [match.group() for match in _NUMBER.finditer(line) if is_row or _needs_source(match, line)]
    return list(dict.fromkeys(found))


def _needs_source(match: re.Match[str], line: str) -> bool:
    text = match.group()
    is_percent = line[match.end() :].lstrip().startswith("%")
    return is_percent or "." in text or "," in text or int(float(text)) >= _SMALL


def known_numbers(folder: Path) -> list[float]:
    """
    Every number in the JSON files of a folder that name the command that made them, and in those that say what a
    model is (`FACTS`); with them the means of an instance, and ratios of forwards to one token a forward.
    """
    pool: list[float] = []
    for path in sorted(folder.glob("*.json")):
        content = read_json_object(path)
        if path.name in FACTS or names_command(content):
            pool += _numbers(content)
            pool += _derived(content)
    pool += _parameter_counts(folder)
    log = folder / "training_log.jsonl"
    if log.is_file() and names_command(read_json_object(folder / "run.json")):
        pool += [n for line in log.read_text(encoding="utf-8").splitlines() for n in _numbers(json.loads(line))]
    return sorted(set(pool))


def _parameter_counts(folder: Path) -> list[float]:
    """Parameters in the weights of a folder, which need no command either."""
    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return [float(count)] if count else []


def names_command(content: dict[str, Any]) -> bool:
    """Whether a results file says which command made it: as a whole, for its run, or for each of its entries."""
    run = content.get("run")
    if content.get("command") or (isinstance(run, dict) and run.get("command")):
        return True
    entries = content.get("results")
    return isinstance(entries, list) and bool(entries) and all(e.get("command") for e in entries)


def _numbers(value: Any) -> Iterator[float]:
    """Numbers of a JSON value, names of fields and texts that are numbers included."""
    if isinstance(value, dict):
        for name, item in value.items():
            if re.fullmatch(r"\d+", str(name)):
                yield float(name)
            yield from _numbers(item)
    elif isinstance(value, list):
        for item in value:
            yield from _numbers(item)
    else:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if is_number or (isinstance(value, str) and re.fullmatch(r"\d+(?:\.\d+)?", value)):
            yield abs(float(value))  # a card writes the sign before the number


def _derived(value: Any) -> Iterator[float]:
    """Seconds of an instance anywhere, and how many times fewer forwards than the dearest of a list of results."""
    if isinstance(value, list):
        entries = [item for item in value if isinstance(item, dict) and item.get("forwards_per_example")]
        single = [e["forwards_per_example"] for e in entries if e.get("tokens_per_forward") == 1.0]
        yield from (max(single) / entry["forwards_per_example"] for entry in entries if single)
        for item in value:
            yield from _derived(item)
    elif isinstance(value, dict):
        if value.get("seconds") is not None and value.get("num_examples"):
            yield value["seconds"] / value["num_examples"]
        for item in value.values():
            yield from _derived(item)


def is_known(shown: str, known: list[float]) -> bool:
    """Whether `shown` is one of the sorted numbers, or a hundred times one (a percentage), rounded to its digits."""
    text = shown.replace(",", "")
    value = float(text)
    decimals = len(text.partition(".")[2]) if "e" not in text else 12
    margin = 0.5 * 10**-decimals * (1 + 1e-6)
    for scale in (1, 100):
        place = bisect.bisect_left(known, (value - margin) / scale)
        if place < len(known) and scale * known[place] <= value + margin:
            return True
    return False


def unknown_numbers(text: str, folder: Path) -> list[str]:
    """The numbers of a card's body that no JSON file of its folder holds."""
    known = known_numbers(folder)
    return [number for number in shown_numbers(text) if not is_known(number, known)]


__all__ = ["known_numbers", "names_command", "shown_numbers", "unknown_numbers"]
