"""Objectives and trainers."""

from hf_latent.training.collator import MaskedDiffusionCollator
from hf_latent.training.config import MaskedDiffusionConfig
from hf_latent.training.trainer import MaskedDiffusionTrainer

__all__ = ["MaskedDiffusionCollator", "MaskedDiffusionConfig", "MaskedDiffusionTrainer"]
