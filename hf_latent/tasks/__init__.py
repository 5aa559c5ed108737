"""Puzzles with a generator, a verifier and a formatter each: data without a download, answers checked exactly."""

from hf_latent.tasks.answer_first import AnswerFirstTask, answer_first_tokenizer
from hf_latent.tasks.arithmetic import ArithmeticTask, arithmetic_tokenizer
from hf_latent.tasks.countdown import CountdownTask, countdown_tokenizer
from hf_latent.tasks.loading import TASKS, get_task, load_task
from hf_latent.tasks.star_graph import StarGraphTask, star_graph_tokenizer
from hf_latent.tasks.sudoku import SudokuTask, sudoku_tokenizer
from hf_latent.tasks.task import Task
from hf_latent.tasks.zebra import ZebraTask, zebra_tokenizer

__all__ = [
    "TASKS",
    "AnswerFirstTask",
    "ArithmeticTask",
    "CountdownTask",
    "StarGraphTask",
    "SudokuTask",
    "Task",
    "ZebraTask",
    "answer_first_tokenizer",
    "arithmetic_tokenizer",
    "countdown_tokenizer",
    "get_task",
    "load_task",
    "star_graph_tokenizer",
    "sudoku_tokenizer",
    "zebra_tokenizer",
]
