"""Measuring: tasks solved by generation, decoders side by side."""

from hf_latent.evaluation.puzzles import DecodingResult, solve_puzzles

__all__ = ["DecodingResult", "solve_puzzles"]
