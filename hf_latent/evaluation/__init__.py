"""Measuring: tasks solved by generation, decoders side by side."""

from hf_latent.evaluation.puzzles import DecodingResult, solve_puzzles
from hf_latent.evaluation.results import describe, measure_all

__all__ = ["DecodingResult", "describe", "measure_all", "solve_puzzles"]
