"""Puzzles with a generator, a verifier and a formatter each: data without a download, answers checked exactly."""

from hf_latent.tasks.sudoku import SudokuTask, sudoku_tokenizer

__all__ = ["SudokuTask", "sudoku_tokenizer"]
