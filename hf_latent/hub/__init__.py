"""Sharing: checkpoint folders that stand alone, decoders for models of others, their cards, and the way to the Hub."""

from hf_latent.hub.bundles.bundling import bundle
from hf_latent.hub.bundles.decoder import bundle_decoder
from hf_latent.hub.cards.card import Evaluation, evaluation_of, refresh_card, write_card
from hf_latent.hub.cards.model_table import write_model_table
from hf_latent.hub.safety.card_check import CardReport, check_card
from hf_latent.hub.transfer.errors import HubError
from hf_latent.hub.transfer.pulling import pull
from hf_latent.hub.transfer.push_plan import PlannedFile, PushPlan
from hf_latent.hub.transfer.pushing import push
from hf_latent.moved import old_names

__getattr__ = old_names(__name__, {"write_shelf": "write_model_table"})

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
    "write_model_table",
]
