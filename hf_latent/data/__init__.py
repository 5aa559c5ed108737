"""What goes into a model: templates, and reasoning traces sampled from its own posterior."""

from hf_latent.data.identity import identify, keep_to
from hf_latent.data.template import ReasonedAnswer, ReasoningTemplate
from hf_latent.data.traces.filled_templates import fill_template, format_traces
from hf_latent.data.traces.filtering import keep_best, keep_scored, keep_top_share, keep_verified, separation
from hf_latent.data.traces.questions import questions_of_task, read_questions
from hf_latent.data.traces.sampling import sample_posterior_traces
from hf_latent.data.traces.scoring import TraceScore, score_traces

__all__ = [
    "ReasonedAnswer",
    "ReasoningTemplate",
    "TraceScore",
    "fill_template",
    "format_traces",
    "identify",
    "keep_best",
    "keep_scored",
    "keep_to",
    "keep_top_share",
    "keep_verified",
    "questions_of_task",
    "read_questions",
    "sample_posterior_traces",
    "score_traces",
    "separation",
]
