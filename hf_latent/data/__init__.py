"""What goes into a model: templates."""

from hf_latent.data.template import ReasonedAnswer, ReasoningTemplate

__all__ = ["ReasonedAnswer", "ReasoningTemplate"]
