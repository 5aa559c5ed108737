"""Pairs of texts of local files, and what is wrong with them."""

import json
from pathlib import Path

import pytest

from hf_latent.tasks import sudoku_tokenizer
from hf_latent.training.latent_diffusion.sources import PairArguments, load_pairs, tokenize_sides

GOOD = {"prompt": "12", "completion": "34"}


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize(("option", "column"), [("train_file", "prompt"), ("eval_file", "completion")])
def test_a_text_without_tokens_is_named_with_its_file_row_and_column(option: str, column: str, tmp_path: Path) -> None:
    """The tokenizer itself raises a bare Exception that says neither."""
    files = {name: write(tmp_path / f"{name}.jsonl", GOOD, GOOD) for name in ("train_file", "eval_file")}
    write(tmp_path / f"{option}.jsonl", GOOD, GOOD | {column: "3☃"})
    arguments = PairArguments(**files, model_name_or_path="base")
    with pytest.raises(ValueError, match=rf"{option}\.jsonl, row 1, column '{column}': '3☃' .*no token"):
        tokenize_sides(*load_pairs(arguments), sudoku_tokenizer(), arguments)


def test_both_sides_are_tokenized_alike_from_one_file_or_two(tmp_path: Path) -> None:
    file = write(tmp_path / "pairs.jsonl", GOOD)
    arguments = PairArguments(train_file=file, eval_file=file, model_name_or_path="base")
    train, test = tokenize_sides(*load_pairs(arguments), sudoku_tokenizer(), arguments)
    assert train.to_list() == test.to_list() and set(train.column_names) == {"input_ids", "labels"}
