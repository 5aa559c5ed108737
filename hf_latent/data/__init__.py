"""What goes into a model: templates, and reasoning traces sampled from its own posterior."""

from hf_latent.data.identity import identify, record_or_check
from hf_latent.data.template import ReasonedAnswer, ReasoningTemplate
from hf_latent.data.traces.filled_templates import fill_template, format_traces
from hf_latent.data.traces.filtering import keep_best, keep_scored, keep_top_share, keep_verified, separation
from hf_latent.data.traces.questions import questions_of_task, read_questions
from hf_latent.data.traces.sampling import sample_posterior_traces
from hf_latent.data.traces.scoring import TraceScore, score_traces
from hf_latent.moved import old_names

__getattr__ = old_names(__name__, {"keep_to": "record_or_check"})

__all__ = [
    "ReasonedAnswer",
    "ReasoningTemplate",
    "TraceScore",
    "fill_template",
    "format_traces",
    "identify",
    "keep_best",
    "keep_scored",
    "keep_top_share",
    "keep_verified",
    "questions_of_task",
    "read_questions",
    "record_or_check",
    "sample_posterior_traces",
    "score_traces",
    "separation",
]
