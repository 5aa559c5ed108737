"""Objectives and trainers. What needs trl is loaded on first use: `hf_latent.training.objectives` needs torch only."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_latent.training.collator import MaskedDiffusionCollator
    from hf_latent.training.config import MaskedDiffusionConfig
    from hf_latent.training.latent_token_config import LatentTokenTrainingConfig
    from hf_latent.training.latent_token_trainer import LatentTokenTrainer
    from hf_latent.training.trainer import MaskedDiffusionTrainer

_MODULES = {
    "LatentTokenTrainer": "latent_token_trainer",
    "LatentTokenTrainingConfig": "latent_token_config",
    "MaskedDiffusionCollator": "collator",
    "MaskedDiffusionConfig": "config",
    "MaskedDiffusionTrainer": "trainer",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"hf_latent.training.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'hf_latent.training' has no attribute {name!r}")


__all__ = [
    "LatentTokenTrainer",
    "LatentTokenTrainingConfig",
    "MaskedDiffusionCollator",
    "MaskedDiffusionConfig",
    "MaskedDiffusionTrainer",
]
