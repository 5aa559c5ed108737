"""Sharing: checkpoint folders that stand alone, and their cards."""

from hf_latent.hub.bundling import bundle
from hf_latent.hub.card import Evaluation, write_card

__all__ = ["Evaluation", "bundle", "write_card"]
