"""What a repository may hold, checked before it is pushed and after it was pulled."""

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from hf_latent.hub.bundles.bundling import PICKLE_SUFFIXES
from hf_latent.hub.bundles.decoder import FOLDER
from hf_latent.hub.bundles.travelling_code import find_foreign_code
from hf_latent.hub.safety.local_paths import find_local_path
from hf_latent.hub.safety.pointers import code_out, imports_out, is_configuration, pointers_out, weights_out
from hf_latent.hub.safety.tokens import find_token

# Read by text tools, checked for paths and tokens line by line.
TEXT_SUFFIXES = {
    *(".cfg", ".csv", ".html", ".ini", ".ipynb", ".jinja", ".json", ".jsonl", ".log", ".md", ".py", ".rst", ".sh"),
    *(".svg", ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml"),
}
# Vocabularies hold pieces of paths that are nobody's.
VOCABULARIES = {"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt", "added_tokens.json"}
PICKLES = PICKLE_SUFFIXES | {".pickle", ".joblib", ".dill"}
TRAINING_STATES = ("optimizer", "scheduler", "scaler", "rng_state", "random_states")
OTHER_CODE = {".pyc", ".pyo", ".so", ".pyd", ".dll", ".dylib", ".exe"}
# Of the machine, not of the repository.
IGNORED_FOLDERS = {".git", ".cache", "__pycache__", ".ipynb_checkpoints"}
IGNORED_FILES = {".DS_Store", "Thumbs.db", ".gitignore"}
MAX_SHOWN = 20
BLOCK = 2**20  # characters of text that are searched at once


@dataclass(frozen=True)
class Refusal:
    """A file that may not be there: its path, why, and what to do."""

    path: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}: {self.remedy}"


def list_files(folder: Path) -> dict[str, Path]:
    """Path in the repository to file, of everything in `folder` but what belongs to git, caches and editors."""
    files = {}
    for directory, names, found in os.walk(folder):
        names[:] = sorted(name for name in names if name not in IGNORED_FOLDERS)
        linked = [name for name in names if (Path(directory) / name).is_symlink()]
        for name in (*sorted(found), *linked):
            if name not in IGNORED_FILES:
                path = Path(directory) / name
                files[path.relative_to(folder).as_posix()] = path
    return files


def is_ignored(name: str) -> bool:
    """Whether `list_files` leaves out the file of this path in a repository."""
    path = PurePosixPath(name)
    return path.name in IGNORED_FILES or any(part in IGNORED_FOLDERS for part in path.parts[:-1])


def check_files(
    files: dict[str, Path],
    folder: Path,
    *,
    is_leaving: bool = True,
    trust_remote_code: bool = False,
    known_tokens: list[str] | None = None,
    made: Path | None = None,
) -> None:
    """
    Raise `ValueError` that names every file of a repository that may not be in it, why, and what to do.

    Args:
        files: path in the repository to local file.
        folder: where they are; links that lead out of it are refused of what leaves.
        is_leaving: about to be pushed. Then also local paths, tokens and links are looked for.
        trust_remote_code: take Python files and references to code that are not this library's.
        known_tokens: further texts that may not occur.
        made: a folder that was made of `folder`, where some of the files are; default `folder` itself.
    """
    roots = [root.resolve() for root in (folder, made) if root is not None]
    refusals: list[Refusal] = []
    for name, path in sorted(files.items()):
        remedy = _REBUNDLE if is_leaving else _REPUBLISH
        found = list(_look_at(name, path, files, remedy, trust_remote_code=trust_remote_code))
        if is_leaving:
            found = found or list(_look_at_link(name, path, roots)) or list(_look_at_text(name, path, known_tokens))
            found = found or list(_look_at_origin(name, path))
        refusals += found
    if refusals:
        shown = "\n".join(f"- {refusal}" for refusal in refusals[:MAX_SHOWN])
        more = f"\n- and {len(refusals) - MAX_SHOWN} more" if len(refusals) > MAX_SHOWN else ""
        what = "Not pushed: `folder` has" if is_leaving else "Refused: the repository has"
        raise ValueError(f"{what} {len(refusals)} file(s) that do not belong into a repository.\n{shown}{more}")


def check_names(names: list[str]) -> None:
    """As `check_files`, of names alone: what can be said before anything is downloaded."""
    refusals = [refusal for name in sorted(names) for refusal in _look_at_name(name, _REPUBLISH)]
    if refusals:
        shown = "\n".join(f"- {refusal}" for refusal in refusals[:MAX_SHOWN])
        raise ValueError(
            f"Refused, nothing was downloaded: the repository has {len(refusals)} unsafe file(s).\n{shown}"
        )


def _look_at_name(name: str, remedy: str) -> Iterator[Refusal]:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        yield Refusal(name, "leads out of the folder", "such a name is an attack; do not load this repository")
    elif path.name.startswith(TRAINING_STATES) and path.suffix in PICKLES:
        yield Refusal(name, "is the state of a training run, a pickle", remedy)
    elif path.suffix.lower() in PICKLES:
        yield Refusal(name, "is a pickle or may hold one, which can run code when it is loaded", remedy)
    elif path.suffix.lower() in OTHER_CODE:
        yield Refusal(name, "is compiled code", "delete it")


_REBUNDLE = (
    "write a clean folder with `hf-latent bundle FOLDER NEW` (weights as safetensors, nothing of the training run), "
    "or delete the file"
)
_REPUBLISH = (
    "whoever has published it can push a clean folder instead, which `hf-latent bundle` writes (weights as "
    "safetensors, nothing of the training run)"
)


def _look_at(
    name: str, path: Path, files: dict[str, Path], remedy: str, *, trust_remote_code: bool
) -> Iterator[Refusal]:
    """What is wrong with a file wherever it comes from."""
    if refusals := list(_look_at_name(name, remedy)):
        yield from refusals
    elif not path.is_file():
        yield Refusal(name, "is a link to a folder or to nothing", "copy what it should be into the folder")
    elif path.suffix == ".safetensors":
        yield from _look_at_weights(name, path)
    elif path.suffix == ".py" and not trust_remote_code:
        if reason := find_foreign_code(PurePosixPath(name), path.read_bytes()):
            yield Refusal(name, reason, _CODE)
    elif path.suffix == ".json":
        yield from _look_at_json(name, path, files, trust_remote_code=trust_remote_code)
    elif _is_pickle(path):
        yield Refusal(name, "is a pickle by its content, which can run code when it is loaded", remedy)


_CODE = (
    "bundle the model again with the installed hf-latent (`hf-latent bundle`, `bundle-decoder`) if it was made by "
    "another version; otherwise read the file, and pull with trust_remote_code=True only if you trust it"
)


def _look_at_weights(name: str, path: Path) -> Iterator[Refusal]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, OSError) as error:
        yield Refusal(name, f"is not a safetensors file ({error})", "it is damaged or something else: save it again")


def _is_pickle(path: Path) -> bool:
    """By the first bytes, or as torch's zip archives of pickles; whatever its name."""
    with path.open("rb") as file:
        head = file.read(4)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05" and len(head) > 1:
        return True
    if head != b"PK\x03\x04" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(entry.endswith(".pkl") for entry in archive.namelist())


def _look_at_json(name: str, path: Path, files: dict[str, Path], *, trust_remote_code: bool) -> Iterator[Refusal]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        yield Refusal(name, f"is not JSON ({error})", "write it again")
        return
    if not isinstance(content, dict):
        return
    if name.endswith(".index.json"):
        yield from _look_at_index(name, content, files)
    folder = PurePosixPath(name).parent
    if is_configuration(name):
        for reason in weights_out(content, folder, files):
            yield Refusal(name, reason, "save the model again; do not load what somebody else has made so")
    if not trust_remote_code:
        for reason in code_out(content, folder, files):
            yield Refusal(name, reason, _CODE)
        for library in imports_out(content):
            yield Refusal(name, f"imports {library!r}, which others do not have", _IMPORT)
        for reason in pointers_out(content, folder, files) if is_configuration(name) else ():
            yield Refusal(name, reason, _POINTER)


def _look_at_index(name: str, content: dict[str, Any], files: dict[str, Path]) -> Iterator[Refusal]:
    weight_map = content.get("weight_map")
    if not isinstance(weight_map, dict):
        yield Refusal(name, "has no `weight_map`", "write it again")
        return
    folder = PurePosixPath(name).parent
    for shard in sorted({str(shard) for shard in weight_map.values()}):
        if PurePosixPath(shard).name != shard or "\\" in shard or shard in ("", ".", ".."):
            yield Refusal(name, f"names weights outside of the folder, {shard!r}", "do not load this repository")
        elif not shard.endswith(".safetensors"):
            yield Refusal(name, f"names {shard!r}, which is no safetensors file", _REBUNDLE)
        elif (folder / shard).as_posix() not in files:
            yield Refusal(name, f"names {shard!r}, which is not there", "save the model again, whole")


_IMPORT = "set `task_type` of the adapter ('CAUSAL_LM') and save it again, so that any machine loads it"
_POINTER = (
    "loading would follow it: take the field out, or name a file of the folder; for an adapter's base pass "
    "`base_model=` (`--base-model user/model`); pull with trust_remote_code=True only if you trust it"
)


def _look_at_link(name: str, path: Path, roots: list[Path]) -> Iterator[Refusal]:
    if not any(path.resolve().is_relative_to(root) for root in roots):
        yield Refusal(name, "is a link out of the folder", "copy the file into the folder if it shall be public")


def _look_at_text(name: str, path: Path, known_tokens: list[str] | None) -> Iterator[Refusal]:
    """Tokens, wherever text is; paths, but in vocabularies and in code, which is the same everywhere."""
    if kind := find_token(name, known_tokens):
        yield Refusal("A file", f"has {kind} in its name", "rename it, and revoke the token")
        return
    if path.suffix.lower() not in TEXT_SUFFIXES:
        return
    has_paths = path.name not in VOCABULARIES and path.suffix != ".py"
    first = 1
    with path.open(encoding="utf-8", errors="replace") as file:
        while lines := file.readlines(BLOCK):
            text = "".join(lines)
            if find_token(text, known_tokens) or (has_paths and find_local_path(text)):
                yield from _look_at_lines(name, lines, first, known_tokens, has_paths=has_paths)
                return
            first += len(lines)


def _look_at_lines(
    name: str, lines: list[str], first: int, known_tokens: list[str] | None, *, has_paths: bool
) -> Iterator[Refusal]:
    """The first of the lines that has something; which is all of them, where it spans several."""
    for number, line in enumerate(lines, start=first):
        if kind := find_token(line, known_tokens):
            yield Refusal(name, f"has {kind} in line {number}", "remove it, and revoke it if others have seen it")
            return
        if has_paths and (local := find_local_path(line)):
            yield Refusal(name, f"has the local path {local} in line {number}", _path_remedy(name))
            return
    yield Refusal(name, f"has a token or a local path from line {first} on", "remove it")


def _look_at_origin(name: str, path: Path) -> Iterator[Refusal]:
    """`_name_or_path` says what a part of a model was loaded from; a relative path is nobody else's either."""
    if not name.endswith("config.json"):
        return
    pending = [json.loads(path.read_bytes())]
    while pending:
        content = pending.pop()
        if isinstance(content, dict):
            origin = content.get("_name_or_path")
            if isinstance(origin, str) and origin and os.path.exists(origin):
                remedy = "others do not have it: write a name on the Hub there, or bundle the model again"
                yield Refusal(name, f"has the local path {origin} as `_name_or_path`", remedy)
                return
            pending += content.values()


def _path_remedy(name: str) -> str:
    if name == "adapter_config.json" or name == "README.md":
        return "others do not have that folder; for an adapter pass `base_model=` (`--base-model user/model`)"
    return "others do not have it, and it tells about your machine: write a relative path or a name on the Hub"


def is_decoder_path(path: PurePosixPath) -> bool:
    """Whether a file is the code of a decoder."""
    return len(path.parts) == 2 and path.parts[0] == FOLDER and path.suffix == ".py"


__all__ = ["check_files", "check_names", "is_decoder_path", "is_ignored", "list_files"]
