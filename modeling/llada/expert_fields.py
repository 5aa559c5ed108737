"""What tells LLaDA-MoE from dense LLaDA: the checkpoints of both say `model_type` "llada"."""

from collections.abc import Mapping
from typing import Any

EXPERT_FIELDS = ("num_experts", "expert_intermediate_size")


def has_experts(fields: Mapping[str, Any]) -> bool:
    """Whether the `fields` of a configuration with `model_type` "llada" are those of LLaDA-MoE."""
    return any(fields.get(name) for name in EXPERT_FIELDS)


__all__ = ["EXPERT_FIELDS", "has_experts"]
