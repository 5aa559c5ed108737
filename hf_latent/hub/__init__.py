"""Sharing: checkpoint folders that stand alone, decoders for models of others, their cards, and the way to the Hub."""

from hf_latent.hub.bundling import bundle
from hf_latent.hub.card import Evaluation, evaluation_of, write_card
from hf_latent.hub.decoder import bundle_decoder
from hf_latent.hub.errors import HubError
from hf_latent.hub.plan import PlannedFile, PushPlan
from hf_latent.hub.pulling import pull
from hf_latent.hub.pushing import push

__all__ = [
    "Evaluation",
    "HubError",
    "PlannedFile",
    "PushPlan",
    "bundle",
    "bundle_decoder",
    "evaluation_of",
    "pull",
    "push",
    "write_card",
]
