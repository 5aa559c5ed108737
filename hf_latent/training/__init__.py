"""
Objectives and trainers. What needs trl is loaded on first use: `hf_latent.training.common.objectives` needs torch
only.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_latent.training.latent_tokens.config import LatentTokenTrainingConfig
    from hf_latent.training.latent_tokens.trainer import LatentTokenTrainer
    from hf_latent.training.masked_diffusion.collator import MaskedDiffusionCollator
    from hf_latent.training.masked_diffusion.config import MaskedDiffusionConfig
    from hf_latent.training.masked_diffusion.trainer import MaskedDiffusionTrainer

_MODULES = {
    "LatentTokenTrainer": "latent_tokens.trainer",
    "LatentTokenTrainingConfig": "latent_tokens.config",
    "MaskedDiffusionCollator": "masked_diffusion.collator",
    "MaskedDiffusionConfig": "masked_diffusion.config",
    "MaskedDiffusionTrainer": "masked_diffusion.trainer",
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
