"""What a run is: the settings, data and weights that decide it, kept in its checkpoints: no other run goes on."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from transformers import TrainingArguments
from trl import SFTConfig

from hf_latent.data.identity import changes, digest_weights
from hf_latent.training.runs.checkpoints import read_record

# Of transformers' and trl's arguments: those that decide which weights a run ends with. Its length may change; how
# often it logs, evaluates and saves, where it writes and how a batch is spread over devices does not matter.
DECISIVE = (
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "warmup_ratio",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "optim",
    "optim_args",
    "seed",
    "data_seed",
    "train_sampling_strategy",
    "neftune_noise_alpha",
    "max_length",
    "packing",
    "completion_only_loss",
    "assistant_only_loss",
)
SAMPLED_ROWS = 64


def describe_run(trainer: Any) -> dict[str, Any]:
    """What must be the same for a run to go on; as JSON values."""
    args = trainer.args
    inherited = {field.name for base in (SFTConfig, TrainingArguments) for field in dataclasses.fields(base)}
    own = [field.name for field in dataclasses.fields(args) if field.name not in inherited]
    settings = {name: getattr(args, name) for name in (*DECISIVE, *own) if hasattr(args, name)}
    settings["batch_size"] = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    facts = {
        "settings": settings,
        "data": describe_data(getattr(trainer, "pairs", trainer.train_dataset)),
        "weights": describe_weights(trainer),
    }
    return json.loads(json.dumps(facts, default=str))


def describe_data(dataset: Any) -> dict[str, Any] | None:
    """Size, and a digest of the tokens of 64 examples; None for what has no length (see `EndlessBatches.expect`)."""
    if not isinstance(dataset, Dataset):
        return None
    columns = [name for name in ("input_ids", "labels") if name in dataset.column_names]
    chosen = sorted({round(place * (len(dataset) - 1) / (SAMPLED_ROWS - 1)) for place in range(SAMPLED_ROWS)})
    rows = dataset.select_columns(columns).select(chosen)[:] if columns and len(dataset) else {}
    return {"num_examples": len(dataset), "tokens": hashlib.sha256(str(rows).encode()).hexdigest()[:16]}


def describe_weights(trainer: Any) -> str | None:
    """
    Digest of the weights that a run starts from; None where it says nothing.

    Where some are not trained, as under an adapter, it is of those. A model that was not read from anywhere has random
    weights, all of which come with the checkpoint.
    """
    model = trainer.model
    if trainer.is_deepspeed_enabled or trainer.is_fsdp_enabled or not trainer.is_world_process_zero():
        return None
    if any(parameter.is_meta or parameter.numel() == 0 for parameter in model.parameters()):
        return None
    if any(not parameter.requires_grad for parameter in model.parameters()):
        return digest_weights(Frozen(model))
    name = str(getattr(model.config, "_name_or_path", "") or "")
    return digest_weights(model) if name not in ("", "None") else None


class Frozen(nn.Module):
    """The weights of a model that are not trained."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._of = [model]  # in a list, so that it is no part of this one

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """By name."""
        return {name: weight for name, weight in self._of[0].named_parameters() if not weight.requires_grad}


def check_same_run(checkpoint: Path, facts: dict[str, Any], *, ignores_data: bool) -> None:
    """Raise `ValueError` if a checkpoint is of a run with other settings, data or weights, naming what has changed."""
    known = read_record(checkpoint).get("facts")
    if known is None:  # a checkpoint of others, which does not say
        return
    compared = [
        name
        for name in ("settings", "data", "weights")
        if not (name == "data" and ignores_data) and known.get(name) is not None and facts.get(name) is not None
    ]
    told = changes({name: known[name] for name in compared}, {name: facts[name] for name in compared})
    if told:
        raise ValueError(
            f"{checkpoint} is of another run, which cannot go on like this. Changed: {'; '.join(told)}. Give another "
            "`output_dir`, or begin anew in this one with `resume_from_checkpoint=False`."
        )


__all__ = ["check_same_run", "describe_data", "describe_run", "describe_weights"]
