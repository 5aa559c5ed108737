"""
Rows of local files, the same for training, evaluation and traces: JSON, JSON lines, CSV, Parquet.

Files are read as they are written, a line is a line: a column that mixes numbers and texts keeps both ("007" stays
that), a column may first appear in the last row, and characters that some call line separators may stand in a text.
What is wrong is said with file, line and column.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

SUFFIXES = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
BOM = b"\xef\xbb\xbf"
NAMED = {None: "null", True: "true", False: "false"}


class Rows(list[dict[str, Any]]):
    """
    Rows of a file, and where each stands.

    Args:
        source: what the rows are of, as the user has named it.
        places: of each row, e.g. `"line 3"`.
    """

    def __init__(self, rows: Sequence[dict[str, Any]], source: str, places: Sequence[str]) -> None:
        super().__init__(rows)
        self.source, self.places = source, list(places)

    @property
    def columns(self) -> list[str]:
        """The names of all columns, those of later rows behind."""
        return list(dict.fromkeys(name for row in self for name in row))

    def location(self, number: int, column: str | None = None) -> str:
        """`"data.jsonl, line 3, column 'answer'"`."""
        where = f"{self.source}, {self.places[number]}"
        return where if column is None else f"{where}, column {column!r}"

    def value(self, number: int, column: str) -> Any:
        """Of a row's column; `ValueError` naming the place if the row lacks it."""
        if column not in self[number]:
            raise ValueError(f"{self.location(number)}: there is no {column!r}; it has {sorted(self[number])}.")
        return self[number][column]

    def text(self, number: int, column: str, *, may_be_empty: bool = False) -> str:
        """[`text_of`] a row's column."""
        value = self.value(number, column)
        return text_of(value, self.location(number, column), may_be_empty=may_be_empty)


def is_local_file(source: str | Path) -> bool:
    """Whether `source` names a file that [`read_rows`] reads, there or not: by its ending."""
    suffixes = [suffix.lower() for suffix in Path(source).suffixes]
    return bool(suffixes) and (suffixes[-1] in SUFFIXES or (suffixes[-1] == ".gz" and suffixes[-2:-1] != []))


def read_rows(path: str | Path, limit: int | None = None) -> Rows:
    """
    The first `limit` rows of a file: `.csv`, `.tsv`, `.parquet`; any other is JSON, a list of objects or an object a
    line. Also packed with gzip (`.jsonl.gz`).

    Raises:
        ValueError: naming file and line, for what cannot be read; for a file without rows.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} must be a file, got a folder." if path.is_dir() else f"there is no file {path}.")
    packed = path.suffix.lower() == ".gz"
    kind = Path(path.stem if packed else path.name).suffix.lower()
    rows: list[Any] = []
    places: list[Any] = []
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            reader = {".csv": _read_csv, ".tsv": _read_csv, ".parquet": _read_parquet}.get(kind, _read_json)
            for place, row in reader(file, path, kind):  # type: ignore[arg-type]
                if len(rows) == limit:
                    break
                if not isinstance(row, dict):
                    raise ValueError(f"{path}, {place}: must be an object, got {type(row).__name__}.")
                rows.append(row)
                places.append(place)
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} cannot be unpacked: {error}.") from None
    if not rows:
        raise ValueError(f"{path} has no rows.")
    return Rows(rows, str(path), places)


def text_of(value: Any, place: str, *, may_be_empty: bool = False) -> str:
    """
    `value` as text: a text as it is, a number as it is written.

    Raises:
        ValueError: naming the `place`, for null, true, false, lists, objects, a number that is none, an empty text.
    """
    if isinstance(value, str):
        if not may_be_empty and not value.strip():
            raise ValueError(f"{place}: is empty ({value!r}).")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(f"{place}: holds half a character (a lone surrogate), got {value!r}.") from None
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value):
        return str(value)
    shown = NAMED[value] if value is None or isinstance(value, bool) else repr(value)
    raise ValueError(f"{place}: must be a text or a number, got {shown[:80]}.")


def texts_of(value: Any, place: str) -> str | list[str]:
    """A text, or the texts of a list of several that are right: [`text_of`] each."""
    if not isinstance(value, list):
        return text_of(value, place)
    if not value:
        raise ValueError(f"{place}: must be a text or a list of texts, got an empty list.")
    return [text_of(one, f"{place}, item {number}") for number, one in enumerate(value)]


def pair_text(value: Any, place: str, *, may_be_empty: bool = False) -> Any:
    """
    One side of a prompt and its completion, to train on or to score: a conversation as it is, a text as [`text_of`]
    gives it; of a list of several right answers, the first.
    """
    if is_conversation(value):
        return value
    if isinstance(value, list):
        return texts_of(value, place)[0]
    return text_of(value, place, may_be_empty=may_be_empty)


def answer_texts(value: Any, place: str) -> str | list[str]:
    """What answers are compared with: [`texts_of`] a value; of a conversation, what its last message says."""
    return text_of(value[-1].get("content"), place) if is_conversation(value) else texts_of(value, place)


def is_conversation(value: Any) -> bool:
    """Whether `value` is a list of messages, as chat templates read it."""
    return isinstance(value, list) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)


def to_dataset(rows: Rows, texts: Sequence[str] = (), *, may_be_empty: Sequence[str] = ("prompt",)) -> Dataset:
    """
    Rows as a data set of one feature a column; a column that no feature holds becomes JSON text.

    Args:
        texts: columns whose numbers are texts, and which no row may lack: [`pair_text`] each.
        may_be_empty: those of them that may be an empty text.
    """
    import pyarrow as pa
    from datasets import Dataset

    columns: dict[str, Any] = {}
    for name in rows.columns:
        values = [row.get(name) for row in rows]
        if name in texts:
            is_optional = name in may_be_empty
            values = [
                pair_text(rows.value(n, name), rows.location(n, name), may_be_empty=is_optional)
                for n in range(len(rows))
            ]
        try:
            columns[name] = pa.array(values)
        except pa.ArrowException:
            if name in texts:
                raise ValueError(f"{rows.source}, column {name!r}: texts and conversations do not mix.") from None
            columns[name] = [None if value is None else json.dumps(value, ensure_ascii=False) for value in values]
    return Dataset.from_dict(columns)


def check_features(data: Dataset, source: str, columns: Sequence[str] | None = None) -> None:
    """
    Raise `ValueError` for columns in which `datasets` has changed texts: those that mix texts and numbers or objects.

    It reads such a column of a JSON file as JSON in JSON: the text "007" becomes the number 7, "null" nothing.
    """
    for name, feature in data.features.items():
        if (columns is None or name in columns) and type(feature).__name__ == "Json":
            raise ValueError(
                f"{source}, column {name!r}: mixes texts with numbers or objects, which `datasets` does not keep "
                "apart. Give the file itself, or make all of them texts."
            )


def _read_json(file: IO[bytes], path: Path, kind: str) -> Iterator[tuple[str, Any]]:
    """A list of objects, or an object a line, whatever the file is called."""
    start = file.read(len(BOM))
    file.seek(len(BOM) if start == BOM else 0)
    begin = file.tell()
    first = file.read(1)
    while first and first in b" \t\r\n":
        first = file.read(1)
    file.seek(begin)
    if first == b"[":
        yield from ((f"row {number}", row) for number, row in enumerate(_parse(file.read(), f"{path}")))
        return
    if kind == ".json":
        try:
            whole = json.loads(file.read())
        except ValueError:
            file.seek(begin)  # an object a line, or what is wrong will be said with its line
        else:
            raise ValueError(f"{path} must hold a list of objects, got {type(whole).__name__}.")
    for number, line in enumerate(file, start=1):
        if line.strip():
            yield f"line {number}", _parse(line, f"{path}, line {number}")


def _parse(data: bytes, place: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    try:
        return json.loads(data.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"{place}: is not UTF-8 ({error}).") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: is not JSON: {error}.") from None


def _read_csv(file: IO[bytes], path: Path, kind: str) -> Iterator[tuple[str, Any]]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(text, delimiter="\t" if kind == ".tsv" else ",", strict=True)
    names: list[str] | None = None
    before = 0
    try:
        for values in reader:
            place, before = f"line {before + 1}", reader.line_num
            if not values:
                continue
            if names is None:
                names = values
                if twice := sorted({name for name in names if names.count(name) > 1}):
                    raise ValueError(f"{path}, {place}: columns are named twice: {twice}.")
                continue
            if len(values) != len(names):
                raise ValueError(f"{path}, {place}: has {len(values)} values for the {len(names)} columns {names}.")
            yield place, dict(zip(names, values, strict=True))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, behind line {before}: is not UTF-8 ({error}).") from None
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: is not CSV: {error}.") from None


def _read_parquet(file: IO[bytes], path: Path, kind: str) -> Iterator[tuple[str, Any]]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ValueError(f"{path} needs further packages ({error}): pip install 'hf-latent[train]'") from error

    try:
        number = 0
        for batch in pq.ParquetFile(file).iter_batches():
            for row in batch.to_pylist():
                yield f"row {number}", row
                number += 1
    except pa.ArrowException as error:
        raise ValueError(f"{path} is not Parquet: {error}.") from None


__all__ = [
    "SUFFIXES",
    "Rows",
    "answer_texts",
    "check_features",
    "is_conversation",
    "is_local_file",
    "pair_text",
    "read_rows",
    "text_of",
    "texts_of",
    "to_dataset",
]
