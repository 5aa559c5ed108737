"""Several wordings of one task: templates around its questions, read from a file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from hf_latent.data.data_files import Rows, is_local_file, read_rows

PLACEHOLDER = "{question}"
COLUMNS = ("template", "name")


@dataclass(frozen=True)
class Wording:
    """
    One way to ask.

    Args:
        name: in tables and plots.
        template: a text with `{question}` once; other braces are plain text.
    """

    name: str
    template: str

    def ask(self, question: Any) -> str:
        """The template with the question in it; `ValueError` for a conversation, which has no one place for it."""
        if not isinstance(question, str):
            raise ValueError(f"`templates` word questions that are texts, got a conversation: {str(question)[:80]}.")
        return self.template.replace(PLACEHOLDER, question)


def read_wordings(path: str | Path) -> list[Wording]:
    r"""
    The wordings of a file: rows (`.jsonl`, `.json`, `.csv`, `.parquet`) with a `template` and, if wanted, a `name`; of
    a file of any other ending, each line that is not empty is a template, with `\n` and `\t` for new lines and tabs.

    A wording without a name is called by its place among the templates, from 1.

    Raises:
        ValueError: naming file and line, for a template without `{question}`, or with several, for names and templates
            that are there twice, for names that do not fit into a table, and for columns that mean nothing.
    """
    path = Path(path)
    rows = read_rows(path) if is_local_file(path) else _read_lines(path)
    wordings: list[Wording] = []
    for number, row in enumerate(rows):
        if unknown := sorted(row.keys() - {*COLUMNS}):
            raise ValueError(f"{rows.location(number)}: knows {list(COLUMNS)}, got {unknown}.")
        template = rows.text(number, "template")
        if (count := template.count(PLACEHOLDER)) != 1:
            place = rows.location(number, "template")
            raise ValueError(f"{place}: must hold {PLACEHOLDER} once, it is there {count} times: {template[:80]!r}.")
        name = rows.text(number, "name") if row.get("name") is not None else str(number + 1)
        if "|" in name or len(name.splitlines()) != 1:
            raise ValueError(f"{rows.location(number, 'name')}: must be one line without '|', got {name!r}.")
        for known in wordings:
            if name == known.name or template == known.template:
                what = f"name {name!r}" if name == known.name else f"template {template[:80]!r}"
                raise ValueError(f"{rows.location(number)}: the {what} is there twice.")
        wordings.append(Wording(name, template))
    return wordings


def _read_lines(path: Path) -> Rows:
    if not path.is_file():
        raise ValueError(f"{path} must be a file, got a folder." if path.is_dir() else f"there is no file {path}.")
    rows, places = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}, line {number}: is not UTF-8 ({error}).") from None
        if text.strip():
            rows.append({"template": text.replace("\\n", "\n").replace("\\t", "\t")})
            places.append(f"line {number}")
    if not rows:
        raise ValueError(f"{path} has no templates.")
    return Rows(rows, str(path), places)


def check_spelling(wording: Wording, question: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise `ValueError` if a model's tokenizer has no tokens for all of a question in this wording."""
    text = wording.ask(question)
    try:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        is_known = tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids
    except Exception as error:
        if type(error) is not Exception:  # what the tokenizers library raises without an unknown token has no class
            raise
        is_known = False
    if not is_known:
        raise ValueError(
            f"`templates`: the model's tokenizer has no tokens for all of wording {wording.name!r}, "
            f"{wording.template[:80]!r}."
        )


__all__ = ["PLACEHOLDER", "Wording", "check_spelling", "read_wordings"]
