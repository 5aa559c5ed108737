"""Pictures of how text was written, and of what decoders trade."""

from hf_latent.viz.commit_order import plot_commit_order
from hf_latent.viz.denoising import texts_over_steps
from hf_latent.viz.replay import Replay, replay_of, write_replay
from hf_latent.viz.tradeoff import plot_accuracy_over_forwards, plot_accuracy_over_seconds

__all__ = [
    "Replay",
    "plot_accuracy_over_forwards",
    "plot_accuracy_over_seconds",
    "plot_commit_order",
    "replay_of",
    "texts_over_steps",
    "write_replay",
]
