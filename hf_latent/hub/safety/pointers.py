"""
Fields of configurations that name a file, a folder, an address or code, which transformers and peft may follow.

A repository is looked at file by file; a field that leads out of it would have them read, or run, what nobody looked
at.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

# Names of fields that hold where something is.
_PLACE = re.compile(
    r"(?:^|_)(?:file|files|filename|path|paths|dir|directory|folder|weights|url|uri|repo|repo_id|checkpoint|cache_file"
    r"|name_or_path)$"
)
# Numbers and switches whose names end alike, and what loading overwrites with where it loads from.
_NO_PLACES = {"_name_or_path", "name_or_path", "init_lora_weights", "init_weights", "drop_path"}
# May name a repository on the Hub, which is what they are for.
_OF_THE_HUB = {"base_model_name_or_path", "tokenizer_name_or_path", "audio_tokenizer_name_or_path"}
# transformers loads kernels from a repository of that name.
_KERNELS = {"attn_implementation", "_attn_implementation", "experts_implementation", "_experts_implementation"}
_MODULES = {"megatron_core": "megatron.core", "parent_library": None}  # field of peft to the value that is harmless
_HUB_NAME = re.compile(r"[\w][\w.-]*(?:/[\w][\w.-]*)?")
_OUTSIDE = re.compile(r"^(?:[A-Za-z]:)?[/\\]|^~|^[A-Za-z][A-Za-z0-9+.-]*://|(?:^|[/\\])\.\.(?:[/\\]|$)|\\")
# Texts, in which anything may stand.
_TEXTS = {"chat_template", "added_tokens_decoder", "task_specific_params", "label2id", "id2label"}


def pointers_out(content: Mapping[str, Any], folder: PurePosixPath, files: Mapping[str, Any]) -> Iterator[str]:
    """
    What is wrong with the places that a configuration names, at any depth, as the rest of a sentence.

    Args:
        content: of the JSON file.
        folder: of that file in the repository.
        files: paths in the repository.
    """
    for field, value in _fields(content):
        if value is None or isinstance(value, bool | int | float):
            continue
        if field in _KERNELS:
            found = [text for text in _texts(value) if "/" in text]
            yield from (f"runs kernels of another repository, {text!r}, as `{field}`" for text in found)
        elif field in _OF_THE_HUB:
            found = [text for text in _texts(value) if text and not is_hub_name(text)]
            yield from (f"has the local path {text} as `{field}`, which is no name on the Hub" for text in found)
        elif field == "adapters" or (_PLACE.search(field) and field not in _NO_PLACES):
            found = [text for text in _texts(value) if _leads_out(text, folder, files)]
            yield from (f"leads out of the folder, to {text!r}, as `{field}`" for text in found)


def code_out(content: Mapping[str, Any], folder: PurePosixPath, files: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the code that a configuration names, at any depth, as the rest of a sentence."""
    for field, value in _fields(content):
        if field in ("auto_map", "custom_pipelines"):
            for reference in _texts(value if field == "auto_map" else list(_implementations(value))):
                module, _, attribute = reference.rpartition(".")
                if "--" in reference or "/" in reference:
                    yield f"runs code of another repository, {reference!r}"
                elif not attribute.isidentifier() or (folder / f"{module}.py").as_posix() not in files:
                    yield f"names the code {reference!r}, which is not there"
        elif field == "custom_generate":
            yield from (f"runs the decoder of another place, {text!r}" for text in _texts(value) if text)


def weights_out(content: Mapping[str, Any], folder: PurePosixPath, files: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the weights that a configuration names, as the rest of a sentence."""
    for field, value in _fields(content):
        if field != "transformers_weights" or value is None:
            continue
        text = str(value)
        if not isinstance(value, str) or _OUTSIDE.search(text) or text in ("", "."):
            yield f"names weights outside of the folder, {value!r}"
        elif not text.endswith((".safetensors", ".safetensors.index.json")):
            yield f"names {text!r} as its weights, which is no safetensors file"
        elif (folder / text).as_posix() not in files:
            yield f"names {text!r} as its weights, which is not there"


def is_configuration(name: str) -> bool:
    """Whether a file is one that transformers or peft read as a configuration."""
    return PurePosixPath(name).name.endswith("config.json")


def is_hub_name(text: Any) -> bool:
    """Whether a text may be the name of a repository on the Hub."""
    return isinstance(text, str) and bool(_HUB_NAME.fullmatch(text)) and ".." not in text


def imports_out(content: Mapping[str, Any]) -> Iterator[str]:
    """What modules a configuration of peft imports by name, that are no part of the libraries it is for."""
    for field, value in _fields(content):
        if field in _MODULES and isinstance(value, str) and value and value != _MODULES[field]:
            is_library = field == "parent_library" and value.split(".")[0] in ("transformers", "diffusers")
            if not is_library:
                yield value


def _fields(content: Any) -> Iterator[tuple[str, Any]]:
    """Name and value of every field, at any depth; of `auto_map` and of fields that are followed, as a whole."""
    if isinstance(content, Mapping):
        for name, value in content.items():
            if name in _TEXTS:
                continue
            yield str(name), value
            if name not in ("auto_map", "custom_pipelines"):
                yield from _fields(value)
    elif isinstance(content, list):
        for value in content:
            yield from _fields(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _leads_out(text: str, folder: PurePosixPath, files: Mapping[str, Any]) -> bool:
    """Of a name with folders in it also if it is not there: then it means one from where somebody has stood."""
    if _OUTSIDE.search(text):
        return True
    return "/" in text and (folder / text).as_posix() not in files


def _implementations(pipelines: Any) -> Iterator[Any]:
    """The code of `custom_pipelines`; beside it they name classes of transformers."""
    for pipeline in pipelines.values() if isinstance(pipelines, Mapping) else ():
        yield pipeline.get("impl") if isinstance(pipeline, Mapping) else pipeline


__all__ = ["code_out", "imports_out", "is_configuration", "is_hub_name", "pointers_out", "weights_out"]
