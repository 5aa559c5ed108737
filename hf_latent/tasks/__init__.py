"""Puzzles with a generator, a verifier and a formatter each: data without a download, answers checked exactly."""

from hf_latent.tasks.answer_first import AnswerFirstTask, answer_first_tokenizer
from hf_latent.tasks.arithmetic import ArithmeticTask, arithmetic_tokenizer
from hf_latent.tasks.sudoku import SudokuTask, sudoku_tokenizer
from hf_latent.tasks.task import Task

__all__ = [
    "AnswerFirstTask",
    "ArithmeticTask",
    "SudokuTask",
    "Task",
    "answer_first_tokenizer",
    "arithmetic_tokenizer",
    "sudoku_tokenizer",
]
