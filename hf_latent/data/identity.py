"""
What decides a model's output, as facts that can be kept beside results: a path is no identity, its content can change.

Whatever goes on with earlier work keeps these facts in its folder and refuses to mix with others:

    record_or_check(folder / "model.json", identify(model, tokenizer))
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hf_latent.modeling.atomic import alone_in, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Of configurations: where something lies, who wrote it and how fast it is computed decide no output.
INCIDENTAL = (
    "_name_or_path",
    "use_cache",  # speed alone; trainers switch it off
    "name_or_path",
    "_commit_hash",
    "_from_model_config",
    "_original_object_hash",
    "_attn_implementation",
    "attn_implementation",
    "auto_map",
    "base_model_name_or_path",
    "revision",
    "dtype",  # a fact of its own: the dtype in memory counts, not the one on disk
    "torch_dtype",
    "transformers_version",
    "peft_version",
)
MISSING = "nothing"


def identify(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None = None) -> dict[str, Any]:
    """
    Everything that what `model` writes is a function of, beside the prompt and the arguments of `generate`.

    Of the model as it is in memory, so that an adapter that was merged in, a cast or another quantization count, and a
    copy of a folder, or the same commit from the Hub, is the same model. Weights are read once, about 1 to 2 GB a
    second; those that are offloaded to disk are read from there.

    Returns:
        JSON values: digests of `weights`, `tokenizer`, `chat_template` and, for a checkpoint that brought its own,
        `code`; in full `model_class`, `dtype`, `config`, `generation_config`, `adapters`, `special_tokens` and
        `versions`.
    """
    from transformers import __version__ as transformers_version

    from hf_latent import __version__

    own = getattr(model, "generation_config", None)
    facts = {
        "model_class": type(model).__name__,
        "weights": digest_weights(model),
        "dtype": str(getattr(model, "dtype", None)).removeprefix("torch."),
        "config": without_incidental(model.config.to_dict()),
        "generation_config": {} if own is None else without_incidental(own.to_diff_dict()),
        "adapters": _adapters(model),
        "code": _digest_code(model),
        "versions": {
            "hf_latent": __version__,
            "transformers": transformers_version,
            "torch": torch.__version__.partition("+")[0],  # behind it stands what it was built for
        },
    }
    if tokenizer is not None:
        facts |= {
            "tokenizer": _digest_tokenizer(tokenizer),
            "special_tokens": _special_tokens(tokenizer),
            "chat_template": _digest_text(getattr(tokenizer, "chat_template", None)),
        }
    return json.loads(json.dumps(facts, default=str))


@torch.no_grad()
def digest_weights(model: torch.nn.Module) -> str:
    """16 hexadecimal digits of the names, shapes, dtypes and all values of parameters and buffers."""
    found = hashlib.sha256()
    state = model.state_dict()
    for name in sorted(state):
        weight = state[name]
        if not isinstance(weight, torch.Tensor):  # extra state of a layer
            found.update(f"{name} {weight!r} ".encode())
            continue
        if weight.is_meta:
            weight = _offloaded(model, name)
        found.update(f"{name} {tuple(weight.shape)} {weight.dtype} ".encode())
        # As bytes: numpy knows neither bfloat16 nor the 8-bit floats.
        found.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs, a line each: `"generation_config.block_length 4 -> 8"`."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    told = []
    for name in dict.fromkeys([*before, *after]):
        values = [before.get(name, MISSING), after.get(name, MISSING)]
        if values[0] != values[1]:
            shown = [value if value is MISSING else json.dumps(value, ensure_ascii=False) for value in values]
            told.append(f"{name} {_short(shown[0])} -> {_short(shown[1])}")
    return told


def digest_facts(facts: Mapping[str, Any]) -> str:
    """16 hexadecimal digits of facts: for names of folders and keys of records."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def digest_each(facts: Mapping[str, Any]) -> dict[str, str]:
    """A digest of every fact: enough to say, in a few lines of a results file, which has changed."""
    return {name: digest_facts({name: fact}) for name, fact in facts.items()}


def check_same(
    known: Mapping[str, Any], facts: Mapping[str, Any], *, place: str, what: str = "checkpoint", remedy: str
) -> None:
    """Raise `ValueError` where `facts` are not those that `place` was begun with, naming what has changed."""
    if told := changes(known, facts):
        raise ValueError(
            f"{place} was begun with another {what}, and results of two do not mix. Changed: {'; '.join(told)}. "
            f"{remedy}"
        )


def record_or_check(
    path: Path,
    facts: Mapping[str, Any],
    *,
    about: Mapping[str, Any] | None = None,
    argument: str = "output",
    what: str = "checkpoint",
) -> None:
    """
    Write `facts` into the file `path` of a folder, or raise `ValueError` if it holds others, naming what has changed.

    A file from before models were identified has a path in the place of the model's facts: whether that is the same
    model cannot be known, and it is refused, too.

    Args:
        about: for the reader of the file; not compared.
        argument: what the user has called the folder.
        what: the facts are about.
    """
    facts = json.loads(json.dumps(facts))
    path.parent.mkdir(parents=True, exist_ok=True)
    with alone_in(path.parent):  # of two that begin at once, the later one meets what the earlier one has written
        if not path.is_file():
            text = json.dumps({**facts, "about": dict(about or {})}, indent=1, ensure_ascii=False)
            write_atomically(path, text + "\n")
            return
    try:
        known = dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:  # also what is no UTF-8
        raise ValueError(f"{path} cannot be read ({error}): give another folder as `{argument}`.") from None
    known.pop("about", None)
    if isinstance(facts.get("model"), dict) and not isinstance(known.get("model"), dict):
        raise ValueError(
            f"`{argument}` ({path}) was begun by a version that knew a model by its path alone "
            f"({known.get('model')!r}): whether it is the same cannot be told. Give another folder."
        )
    check_same(known, facts, place=f"`{argument}` ({path})", what=what, remedy="Give another folder.")


def _offloaded(model: torch.nn.Module, name: str) -> torch.Tensor:
    """The value of a weight that accelerate keeps on disk or in memory, behind the hook of a module around it."""
    parts = name.split(".")
    for depth in range(len(parts) - 1, -1, -1):
        hook = getattr(model.get_submodule(".".join(parts[:depth])), "_hf_hook", None)
        for one in (hook, *getattr(hook, "hooks", ())):  # several are one that holds them
            known = getattr(one, "weights_map", None)
            if known is not None:
                with contextlib.suppress(KeyError):
                    return known[".".join(parts[depth:])]
    raise ValueError(f"`model` has no values for {name!r}: it is on the meta device.")


def without_incidental(values: Any) -> Any:
    """Without what decides no output, at any depth."""
    if isinstance(values, Mapping):
        return {str(name): without_incidental(value) for name, value in values.items() if name not in INCIDENTAL}
    if isinstance(values, set | frozenset):
        return sorted(map(without_incidental, values), key=str)
    if isinstance(values, list | tuple):
        return [without_incidental(value) for value in values]
    return values


def _adapters(model: Any) -> dict[str, Any]:
    """Settings of adapters that are not merged: their weights are among the model's, their scale and kind are not."""
    configs = getattr(model, "peft_config", None)
    if not isinstance(configs, Mapping):
        return {}
    active = getattr(model, "active_adapters", None)
    names = active() if callable(active) else active
    found = {name: without_incidental(config.to_dict()) for name, config in configs.items()}
    return {"active": list(names or []), **{str(name): values for name, values in found.items()}}


def _digest_code(model: Any) -> str | None:
    """Of the modules beside the one of a class that came with its checkpoint; None for installed code."""
    module = type(model).__module__
    if not module.startswith("transformers_modules."):
        return None
    folder = Path(inspect.getfile(type(model))).parent
    return _digest_text(*(f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in sorted(folder.glob("*.py"))))


def _digest_tokenizer(tokenizer: Any) -> str | None:
    """Of all that turns text into ids: the whole of a fast tokenizer, vocabulary and settings of another."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is not None:
        parts = json.loads(core.to_str())
        # Set by the last call, not by the checkpoint.
        parts |= {"truncation": None, "padding": None}
    else:
        init = without_incidental(getattr(tokenizer, "init_kwargs", {}))
        parts = {"class": type(tokenizer).__name__, "vocabulary": tokenizer.get_vocab(), "settings": init}
    return _digest_text(json.dumps(parts, sort_keys=True, default=str))


def _special_tokens(tokenizer: Any) -> dict[str, Any]:
    return {name: str(token) for name, token in sorted(tokenizer.special_tokens_map.items()) if token is not None}


def _digest_text(*texts: Any) -> str | None:
    if texts == (None,):
        return None
    parts = [text if isinstance(text, str) else json.dumps(text, sort_keys=True) for text in texts]
    return hashlib.sha256("\0".join(parts).encode(errors="surrogatepass")).hexdigest()[:16]


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _short(text: str, longest: int = 60) -> str:
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


__all__ = [
    "changes",
    "check_same",
    "digest_each",
    "digest_facts",
    "digest_weights",
    "identify",
    "record_or_check",
    "without_incidental",
]
