"""What a trainer must know about a model, an adapter and a dataset before it starts."""

import copy
import difflib
from typing import Any, TypeAlias

from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import AutoModelForCausalLM, AutoProcessor, BitsAndBytesConfig, PreTrainedModel
from trl.data_utils import get_dataset_column_names
from trl.trainer.utils import create_model_from_path

from hf_latent.training.config import MaskedDiffusionConfig

AnyDataset: TypeAlias = Dataset | IterableDataset


def load_model(
    name: str, args: MaskedDiffusionConfig, quantization_config: BitsAndBytesConfig | None = None
) -> PreTrainedModel:
    """Load `name` through `AutoModelForCausalLM`, in float32 unless `args.model_init_kwargs` say otherwise.

    trl looks for the class by name inside transformers and would not find one that is registered from outside.
    """
    kwargs: dict[str, Any] = {"trust_remote_code": args.trust_remote_code, **(args.model_init_kwargs or {})}
    if quantization_config is not None:
        kwargs["quantization_config"] = quantization_config
    if args.distributed_state.distributed_type in ("MULTI_GPU", "DEEPSPEED"):
        kwargs["device_map"] = None
    return create_model_from_path(name, AutoModelForCausalLM, **kwargs)


def load_processing_class(name: str, args: MaskedDiffusionConfig) -> Any:
    """Load the tokenizer that lies beside the model `name`."""
    revision = (args.model_init_kwargs or {}).get("revision")
    return AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=args.trust_remote_code)


def check_model(model: nn.Module) -> None:
    """Raise `ValueError` unless `model` predicts masked tokens from both sides."""
    base = model.get_base_model() if is_peft_model(model) else model
    name = type(base).__name__
    if getattr(base.config, "is_causal", True) is not False and not name.endswith("ForMaskedDiffusion"):
        raise ValueError(
            f"{name} is causal (its configuration does not say `is_causal=False`): masked tokens would be predicted "
            "from what stands before them only. Load a masked diffusion model such as LladaForMaskedDiffusion"
        )
    if getattr(base.config, "mask_token_id", None) is None:
        raise ValueError(f"`mask_token_id` of {name}'s configuration must be a token id, got None")


def check_peft_config(peft_config: Any, model: nn.Module) -> Any:
    """Copy of `peft_config` that loads anywhere; `ValueError` for `modules_to_save` that peft would ignore."""
    peft_config = copy.deepcopy(peft_config)
    if peft_config.task_type is None:  # else the adapter stores an import path of this package and needs it to load
        peft_config.task_type = "CAUSAL_LM"
    names = [name for name, _ in model.named_modules() if name]
    for wanted in getattr(peft_config, "modules_to_save", None) or ():
        if not any(name.endswith(wanted) for name in names):
            last = sorted({name.rsplit(".", 1)[-1] for name in names} - {str(i) for i in range(1000)})
            close = difflib.get_close_matches(wanted, last, n=3, cutoff=0.3)
            raise ValueError(
                f"`modules_to_save` has {wanted!r}, which no module of the model is called; close: {close}"
            )
    return peft_config


def add_example_ids(dataset: AnyDataset) -> AnyDataset:
    """`dataset` with a column `example_id`, the place of each example in it; unchanged if it has one of integers."""
    if "example_id" not in get_dataset_column_names(dataset):
        return dataset.map(lambda batch, ids: {"example_id": ids}, with_indices=True, batched=True)
    example_id = next(iter(dataset), {"example_id": 0})["example_id"]
    if not isinstance(example_id, int):
        raise ValueError(f"the column `example_id` must hold integers, got {example_id!r}: rename it")
    return dataset


__all__ = ["AnyDataset", "add_example_ids", "check_model", "check_peft_config", "load_model", "load_processing_class"]
