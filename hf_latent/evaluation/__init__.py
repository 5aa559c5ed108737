"""Measuring: tasks solved by generation, decoders side by side, likelihoods."""

from hf_latent.evaluation.comparison.compare import compare
from hf_latent.evaluation.comparison.paired import PairedDifference, paired_difference
from hf_latent.evaluation.comparison.parallelism import accuracy_under_parallelism
from hf_latent.evaluation.reports.results import describe, measure_all
from hf_latent.evaluation.scoring.likelihood import (
    LikelihoodResult,
    LogLikelihood,
    evaluate_likelihood,
    log_likelihood,
)
from hf_latent.evaluation.solving.puzzles import DecodingResult, solve_puzzles
from hf_latent.evaluation.solving.similarity import text_similarity
from hf_latent.evaluation.speculation import SpeculationResult, measure_speculation

__all__ = [
    "DecodingResult",
    "LikelihoodResult",
    "LogLikelihood",
    "PairedDifference",
    "SpeculationResult",
    "accuracy_under_parallelism",
    "compare",
    "describe",
    "evaluate_likelihood",
    "log_likelihood",
    "measure_all",
    "measure_speculation",
    "paired_difference",
    "solve_puzzles",
    "text_similarity",
]
