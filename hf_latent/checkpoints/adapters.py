"""Adapters for the command line: merged into their base, with the tokens that they were trained with."""

from pathlib import Path
from typing import Any

from hf_latent.data.json_files import read_json_object

CONFIG, WEIGHTS, TOKENIZER = "adapter_config.json", "adapter_model.safetensors", "tokenizer_config.json"
BASE_FOLDER = "base"  # where trainers put the base of an adapter that has no other


def base_of(folder: str) -> str | None:
    """The base model of a local folder with an adapter, None for anything else."""
    path = Path(folder) / CONFIG
    if not path.is_file() or (Path(folder) / "config.json").is_file():
        return None
    base = read_json_object(path).get("base_model_name_or_path")
    beside = Path(folder) / BASE_FOLDER
    if (beside / "config.json").is_file() and (not base or not Path(base).exists()):
        return str(beside)
    if not base:
        raise ValueError(
            f"the adapter in {folder} does not say which model it belongs to (`base_model_name_or_path` in {CONFIG}): "
            "name the model, and the adapter as --adapter."
        )
    return str(base)


def merge(model: Any, tokenizer: Any, adapter: str, *, trust_remote_code: bool = False) -> tuple[Any, Any]:
    """
    `model` with the adapter at `adapter`, a folder or a name on the Hub, merged in, and the tokenizer to go with it.

    A tokenizer beside the adapter is taken in the place of `tokenizer`, and the embeddings grow to what the adapter
    was trained with. Embeddings that share their weight with the head get one of their own if the adapter changes
    either by itself.

    Raises:
        ValueError: for methods that peft cannot merge, and for added tokens without embeddings.
    """
    from peft import PeftConfig, PeftModel
    from transformers import AutoTokenizer

    from hf_latent.data.embeddings import vocabulary_size
    from hf_latent.generation.arguments.adapters import method_of

    config = PeftConfig.from_pretrained(adapter)
    method = method_of(config)
    if getattr(config, "is_prompt_learning", False):
        raise ValueError(
            f"{adapter} is {method}: peft puts its virtual tokens before the text in a `forward` of its own, and they "
            "cannot be merged. Use an adapter inside the layers (LoRA, DoRA, IA3, OFT, VeRA, ...)."
        )
    if _exists(adapter, TOKENIZER):
        tokenizer = AutoTokenizer.from_pretrained(adapter, trust_remote_code=trust_remote_code)
    rows = model.get_input_embeddings().weight.shape[0]
    trained = _rows_of(adapter, model)
    if trained is None and vocabulary_size(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer beside {adapter} has {vocabulary_size(tokenizer)} tokens, its base embeddings for {rows}, "
            f"and {WEIGHTS} holds none for the others: save the adapter with `save_embedding_layers=True`."
        )
    if trained is not None and trained != rows:
        model.resize_token_embeddings(trained, mean_resizing=False)
    wrapped = PeftModel.from_pretrained(model, adapter)
    untie(wrapped.get_base_model())
    try:
        return wrapped.merge_and_unload(), tokenizer
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        raise ValueError(f"{adapter} is {method}, which peft cannot merge into this model: {error}") from error


def untie(model: Any) -> None:
    """Give embeddings and head a weight each, if they share one and an adapter changes either: peft merges into it."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    layers = [getattr(module, "base_layer", module) for module in (embedding, head)]
    weights = [getattr(layer, "weight", None) for layer in layers]
    is_adapted = any(layer is not module for layer, module in zip(layers, (embedding, head), strict=True))
    if not is_adapted or weights[0] is None or weights[0] is not weights[1]:
        return
    if hasattr(embedding, "trainable_tokens_delta"):  # one change of the shared rows, merged once
        return
    layers[1].weight = type(weights[1])(weights[1].detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False


def _rows_of(adapter: str, model: Any) -> int | None:
    """Embeddings that an adapter holds in full, None if it does not."""
    from safetensors import safe_open

    embedding = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embedding).rsplit(".", 1)[-1]
    path = _fetch(adapter, WEIGHTS)
    if path is None:
        return None
    with safe_open(path, "pt") as weights:
        for key in weights.keys():  # noqa: SIM118 (no mapping)
            if key.endswith((f".{name}.weight", f".{name}.base_layer.weight", f".{name}.original_module.weight")):
                return weights.get_slice(key).get_shape()[0]
            if key.endswith(f".{name}.token_adapter.base_layer.weight"):
                return weights.get_slice(key).get_shape()[0]
    return None


def _exists(adapter: str, file: str) -> bool:
    return _fetch(adapter, file) is not None


def _fetch(adapter: str, file: str) -> str | None:
    """Path of a file of an adapter, which is downloaded if it is on the Hub; None if there is none."""
    if Path(adapter).is_dir():
        path = Path(adapter) / file
        return str(path) if path.is_file() else None
    from transformers.utils import cached_file

    return cached_file(adapter, file, _raise_exceptions_for_missing_entries=False)


__all__ = ["base_of", "merge", "untie"]
