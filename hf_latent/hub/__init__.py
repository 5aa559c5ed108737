"""Sharing: checkpoint folders that stand alone, decoders for models of others, and their cards."""

from hf_latent.hub.bundling import bundle
from hf_latent.hub.card import Evaluation, evaluation_of, write_card
from hf_latent.hub.decoder import bundle_decoder

__all__ = ["Evaluation", "bundle", "bundle_decoder", "evaluation_of", "write_card"]
