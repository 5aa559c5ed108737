"""Sharing: checkpoint folders that stand alone, decoders for models of others, their cards, and the way to the Hub."""

from hf_latent.hub.bundling import bundle
from hf_latent.hub.card import Evaluation, evaluation_of, refresh_card, write_card
from hf_latent.hub.card_check import CardReport, check_card
from hf_latent.hub.decoder import bundle_decoder
from hf_latent.hub.errors import HubError
from hf_latent.hub.plan import PlannedFile, PushPlan
from hf_latent.hub.pulling import pull
from hf_latent.hub.pushing import push
from hf_latent.hub.shelf import write_shelf

__all__ = [
    "CardReport",
    "Evaluation",
    "HubError",
    "PlannedFile",
    "PushPlan",
    "bundle",
    "bundle_decoder",
    "check_card",
    "evaluation_of",
    "pull",
    "push",
    "refresh_card",
    "write_card",
    "write_shelf",
]
