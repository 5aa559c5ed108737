"""What a trainer must know about a model, an adapter and a dataset before it starts."""

from typing import Any, TypeAlias

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import AutoModelForCausalLM, AutoProcessor, BitsAndBytesConfig, PreTrainedModel
from trl.data_utils import get_dataset_column_names
from trl.trainer.utils import create_model_from_path

from hf_latent.data.embeddings import check_vocabulary
from hf_latent.modeling.mode import evaluation_mode
from hf_latent.training.masked_diffusion.config import MaskedDiffusionConfig
from hf_latent.training.runs.passes import number_examples

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


def check_model(model: nn.Module, *, needs_mask: bool = False, max_length: int | None = None) -> None:
    """
    Raise `ValueError` unless `model` predicts masked tokens from both sides and has a mask token.

    Args:
        needs_mask: whether it also has to keep positions apart by a 4-D mask, as packed documents need.
        max_length: of a row, for models with windows.
    """
    base = model.get_base_model() if is_peft_model(model) else model
    name = type(base).__name__
    if getattr(base.config, "is_semi_causal", False):
        raise ValueError(
            f"{name} is semi-causal (`attention`='semi_causal'): its text sees what was written before it. Train it "
            "with LatentTokenTrainer"
        )
    if getattr(base.config, "is_causal", True) is not False and not name.endswith("ForMaskedDiffusion"):
        raise ValueError(
            f"{name} is causal (its configuration does not say `is_causal=False`): masked tokens would be predicted "
            "from what stands before them only. Load a masked diffusion model such as LladaForMaskedDiffusion, or "
            "turn this one into one with LatentTokenForMaskedDiffusion.from_backbone"
        )
    if getattr(base.config, "mask_token_id", None) is None:
        raise ValueError(f"`mask_token_id` of {name}'s configuration must be a token id, got None")
    if is_block_causal(base):
        base.block_causal_masks()  # refuses an attention implementation that takes no mask of ours
        if base.config.block_size == 1:
            return  # causal, as it should be
    if any(p.is_meta or p.numel() == 0 for p in base.parameters()):
        return  # spread over processes: it cannot be asked here
    if not _sees(base, None):
        raise ValueError(f"{name} stays causal: its first token does not see the others")
    if needs_mask:
        _check_masks(base, max_length)


def is_block_causal(model: nn.Module) -> bool:
    """Whether positions of a model see the blocks up to their own, under an adapter or not."""
    base = model.get_base_model() if is_peft_model(model) else model
    return bool(getattr(base, "is_block_causal", False))


def check_block_options(model: nn.Module, args: MaskedDiffusionConfig) -> None:
    """Raise `ValueError` for options of blocks where there are none, and for those that blocks leave no meaning."""
    base = model.get_base_model() if is_peft_model(model) else model
    if is_block_causal(base):
        if args.attention_annealing_steps:
            raise ValueError(
                "`attention_annealing_steps` opens attention to both sides and must be 0 with block-causal attention, "
                f"got {args.attention_annealing_steps}; `block_sizes` trains for several block sizes"
            )
        return
    wanted = {"time_per": "block" if args.time_per == "block" else None, "block_sizes": args.block_sizes}
    for name, value in wanted.items():
        if value is not None:
            raise ValueError(
                f"`{name}`={value!r} needs a model with block-causal attention, which alone has blocks, got "
                f"{type(base).__name__}"
            )


def _check_masks(base: nn.Module, max_length: int | None) -> None:
    text = base.config.get_text_config()
    attention = text._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(
            "`packing` and `attention_annealing_steps` need `attn_implementation` 'sdpa' or 'eager', which take any "
            f"mask, got {attention!r}"
        )
    layers = getattr(text, "layer_types", None) or ["sliding_attention"]
    window = getattr(text, "sliding_window", None) if "sliding_attention" in layers else None
    if window is not None and (max_length is None or max_length > window):
        raise ValueError(
            "`packing` and `attention_annealing_steps` replace the mask of a layer's window: `max_length` must be at "
            f"most `sliding_window` ({window}), got {max_length}"
        )
    device = base.get_input_embeddings().weight.device
    apart = torch.full((1, 1, 8, 8), torch.finfo(base.dtype).min, dtype=base.dtype, device=device)
    apart[..., :4, :4] = apart[..., 4:, 4:] = 0
    if _sees(base, apart):
        raise ValueError(f"{type(base).__name__} does not take a 4-D mask, which `packing` needs")


@torch.no_grad()
def _sees(base: nn.Module, mask: torch.Tensor | None) -> bool:
    """Whether the first of eight tokens sees any behind the fourth, or any at all without a mask."""
    vocabulary = base.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, 9, device=base.get_input_embeddings().weight.device)[None] * 7919 % vocabulary
    changed = ids.clone()
    first = 1 if mask is None else 4
    changed[:, first:] = (changed[:, first:] + 1 + vocabulary // 3) % vocabulary
    keep = torch.tensor([0], device=ids.device)
    with evaluation_mode(base):
        logits = [base(input_ids=each, attention_mask=mask, logits_to_keep=keep).logits for each in (ids, changed)]
    return not torch.equal(*logits)


def check_tokenizer(tokenizer: Any, model: nn.Module) -> None:
    """Raise `ValueError` if the tokenizer's mask token is not the model's, or a token has no embedding."""
    mask_token_id, own = getattr(tokenizer, "mask_token_id", None), model.config.mask_token_id
    if mask_token_id is not None and mask_token_id != own:
        raise ValueError(
            f"`mask_token_id` of the tokenizer ({mask_token_id}) must be that of the model's configuration ({own})"
        )
    check_vocabulary(tokenizer, model)


def has_prompts_in_evaluation_only(train: AnyDataset, evaluation: AnyDataset | dict[str, AnyDataset] | None) -> bool:
    """Whether the training set is tokenized, with labels, and an evaluation set holds prompts and completions."""
    sets = evaluation.values() if isinstance(evaluation, dict) else [evaluation] if evaluation is not None else []
    columns = [set(get_dataset_column_names(dataset)) for dataset in sets]
    is_tokenized = {"input_ids", "labels"} <= set(get_dataset_column_names(train))
    return is_tokenized and any({"prompt", "completion"} <= names for names in columns)


def _number(batch: dict[str, list], ids: list[int]) -> dict[str, list[int]]:
    return {"example_id": number_examples(ids)}


def add_example_ids(dataset: AnyDataset) -> AnyDataset:
    """`dataset` with a column `example_id`, the place of each example in it; unchanged if it has one of integers."""
    if "example_id" not in get_dataset_column_names(dataset):
        return dataset.map(_number, with_indices=True, batched=True)
    example_id = next(iter(dataset), {"example_id": 0})["example_id"]
    if not isinstance(example_id, int):
        raise ValueError(f"the column `example_id` must hold integers, got {example_id!r}: rename it")
    return dataset


__all__ = [
    "AnyDataset",
    "add_example_ids",
    "check_block_options",
    "check_model",
    "check_tokenizer",
    "has_prompts_in_evaluation_only",
    "is_block_causal",
    "load_model",
    "load_processing_class",
]
