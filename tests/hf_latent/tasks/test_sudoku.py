"""The Sudoku task against brute force: what it generates, what it accepts, and how it is spelt in tokens."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from hf_latent.tasks import SudokuTask, sudoku_tokenizer
from hf_latent.tasks.sudoku import extract_board

SIZES = (4, 6, 9)
SIZE = st.sampled_from(SIZES)
TOKENIZER = sudoku_tokenizer()
SEED = st.integers(0, 2**40)
PUZZLE, SOLUTION = "1..4\n....\n2..3\n.32.", "1234\n3412\n2143\n4321"  # the instance of the docstring


def all_solutions_4x4() -> list[str]:
    """Every 4x4 board: rows are permutations, then columns and boxes are checked one by one."""
    boards = []
    rows = ["".join(p) for p in itertools.permutations("1234")]
    for a, b in itertools.product(rows, rows):
        if len({*a[:2], *b[:2]}) < 4 or len({*a[2:], *b[2:]}) < 4:
            continue
        for c, d in itertools.product(rows, rows):
            if len({*c[:2], *d[:2]}) == 4 and all(len(set(column)) == 4 for column in zip(a, b, c, d, strict=True)):
                boards.append("\n".join((a, b, c, d)))
    return boards


BOARDS = all_solutions_4x4()


def agrees(puzzle: str, board: str) -> bool:
    return all(p in (".", b) for p, b in zip(puzzle, board, strict=True))


# Generator


def test_the_boards_of_size_4_are_all_found():
    """288 is the known number of 4x4 Sudoku boards; the solver must neither miss one nor invent one."""
    assert len(BOARDS) == 288
    empty = "\n".join(["...."] * 4)
    assert SudokuTask(4).count_solutions(empty, limit=1000) == 288


@settings(max_examples=100, deadline=None)
@given(board=st.sampled_from(BOARDS), holes=st.sets(st.integers(0, 18)), limit=st.integers(1, 300))
def test_solutions_are_counted_as_by_brute_force(board: str, holes: set[int], limit: int):
    puzzle = "".join("." if i in holes and char != "\n" else char for i, char in enumerate(board))
    expected = sum(agrees(puzzle, other) for other in BOARDS)
    assert SudokuTask(4).count_solutions(puzzle, limit=limit) == min(expected, limit)


def test_contradicting_givens_have_no_solution():
    assert SudokuTask(4).count_solutions("11..\n....\n....\n....") == 0
    assert SudokuTask(4).count_solutions("123.\n...4\n....\n....") == 0


@settings(max_examples=25, deadline=None)
@given(size=SIZE, seed=SEED)
def test_a_generated_puzzle_has_its_solution_and_no_other(size: int, seed: int):
    task = SudokuTask(size)
    for item in task.generate(3, seed):
        assert item["num_givens"] == sum(char.isdigit() for char in item["puzzle"])
        assert agrees(item["puzzle"], item["solution"])
        assert task.verify(item["puzzle"], item["solution"])
        assert task.count_solutions(item["puzzle"], limit=2) == 1


@settings(max_examples=25, deadline=None)
@given(seed=SEED, unique=st.booleans(), bounds=st.tuples(st.integers(8, 16), st.integers(8, 16)))
def test_the_number_of_givens_stays_within_the_range(seed: int, unique: bool, bounds: tuple[int, int]):
    low, high = min(bounds), max(bounds)
    items = SudokuTask(4).generate(5, seed, num_givens=(low, high), unique=unique)
    assert all(low <= item["num_givens"] <= high for item in items)


def test_puzzles_with_several_solutions_are_generated_on_request():
    items = SudokuTask(4).generate(50, 0, num_givens=3, unique=False)
    assert {item["num_givens"] for item in items} == {3}
    assert all(SudokuTask(4).count_solutions(item["puzzle"]) == 2 for item in items)  # 4 givens is the least for one


@settings(max_examples=25, deadline=None)
@given(size=SIZE, seeds=st.tuples(SEED, SEED), digits=st.permutations("123456789"))
def test_train_and_test_never_share_a_puzzle(size: int, seeds: tuple[int, int], digits: list[str]):
    """Whatever the seeds, and even if the digits of a puzzle are renamed: the side is a function of the puzzle."""
    task = SudokuTask(size)
    renamed = str.maketrans(dict(zip("123456789"[:size], [d for d in digits if int(d) <= size], strict=True)))
    for split, seed in zip(("train", "test"), seeds, strict=True):
        for item in task.generate(3, seed, split=split):
            assert task.split_of(item["puzzle"]) == split
            assert task.split_of(item["puzzle"].translate(renamed)) == split


def test_a_small_population_is_split_without_overlap_or_repeats():
    """Ten thousand of the 4x4 puzzles drawn twice: splits by seed alone would collide here almost surely."""
    task = SudokuTask(4)
    train = [item["puzzle"] for item in task.generate(10_000, 1, num_givens=(4, 8))]
    test = [item["puzzle"] for item in task.generate(500, 2, split="test", num_givens=(4, 8))]
    assert len(set(train)) == 10_000
    assert len(set(test)) == 500
    assert not set(train) & set(test)


@pytest.mark.parametrize("size", [0, 3, 5, 16, "4"])
def test_an_unknown_size_is_refused(size: object):
    with pytest.raises(ValueError, match=rf"`size` must be one of \[4, 6, 9\], got {size!r}"):
        SudokuTask(size)


def test_bad_arguments_are_refused():
    task = SudokuTask(4)
    with pytest.raises(ValueError, match="'validation'"):
        task.generate(1, 0, split="validation")
    with pytest.raises(ValueError, match=r"within 0..16, got \(10, 4\)"):
        task.generate(1, 0, num_givens=(10, 4))
    with pytest.raises(ValueError, match="got 17"):
        task.generate(1, 0, num_givens=17)
    with pytest.raises(ValueError, match="Found only 0 of 1 train puzzles with `num_givens`=3 and `unique`=True"):
        task.generate(1, 0, num_givens=3)  # no 4x4 puzzle with three givens has one solution


# Formatter


def test_an_instance_is_formatted_as_in_the_docstring():
    text = SudokuTask(4).format({"puzzle": PUZZLE, "solution": SOLUTION})
    assert text == {"prompt": "1..4\n....\n2..3\n.32.\n=\n", "completion": "1234\n3412\n2143\n4321"}
    zeros = SudokuTask(4).format({"puzzle": PUZZLE.replace(".", "0"), "solution": SOLUTION})
    assert zeros == text


@pytest.mark.parametrize("size", SIZES)
def test_lengths_are_those_announced(size: int):
    task, tokenizer = SudokuTask(size), sudoku_tokenizer(size)
    text = task.format(task.generate(1, 0)[0])
    completion = tokenizer(text["completion"] + tokenizer.eos_token).input_ids
    assert len(completion) == task.completion_length
    assert len(tokenizer(text["prompt"]).input_ids) + len(completion) == tokenizer.model_max_length


def test_the_dataset_holds_the_instances_and_their_text():
    task = SudokuTask(4)
    dataset = task.dataset(8, 3, split="test", num_givens=(6, 9))
    assert set(dataset.column_names) == {"prompt", "completion", "puzzle", "solution", "num_givens"}
    items = task.generate(8, 3, split="test", num_givens=(6, 9))
    assert dataset.to_list() == [task.format(item) | item for item in items]


# Verifier


def test_the_docstring_instance_is_right():
    assert SudokuTask(4).verify(PUZZLE, SOLUTION)
    assert SudokuTask(4).count_solutions(PUZZLE) == 1


@settings(max_examples=60, deadline=None)
@given(board=st.sampled_from(BOARDS), other=st.sampled_from(BOARDS), holes=st.sets(st.integers(0, 18), min_size=8))
def test_any_completion_counts_and_nothing_else(board: str, other: str, holes: set[int]):
    puzzle = "".join("." if i in holes and char != "\n" else char for i, char in enumerate(board))
    task = SudokuTask(4)
    assert task.verify(puzzle, board)
    assert task.verify(puzzle.replace(".", "0"), board)
    assert task.verify(puzzle, other) == agrees(puzzle, other)


@settings(max_examples=60, deadline=None)
@given(size=SIZE, cell=st.integers(0, 80), digit=st.integers(1, 9))
def test_one_wrong_digit_is_wrong(size: int, cell: int, digit: int):
    task = SudokuTask(size)
    item = task.generate(1, 0)[0]
    rows = [list(row) for row in item["solution"].split("\n")]
    row, column = divmod(cell % size**2, size)
    right = rows[row][column]
    rows[row][column] = str(digit)
    answer = "\n".join("".join(row) for row in rows)
    assert task.verify(item["puzzle"], answer) == (str(digit) == right)
    assert not task.verify("\n".join(["." * size] * size), answer) or str(digit) == right


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "1234",
        "1234\n3412\n2143",
        "1234\n3412\n2143\n432",
        "1234\n3412\n2143\n4321\n1234",
        "1234\n3412\n2143\n432.",
        "1234\n3412\n2143\n432<mask>",
        "1234341221434321",
        "1234\n3412\n2143\n<eos>4321",
        "<pad>1234\n3412\n2143\n4321",
        "1234\n3412\n2143\n4321 and so on",
        "1234\n1234\n1234\n1234",  # columns
        "1234\n2341\n3412\n4123",  # boxes
        "2143\n4321\n1234\n3412",  # a board, but not of this puzzle
        PUZZLE,
    ],
)
def test_wrong_answers_are_wrong(answer: str):
    assert not SudokuTask(4).verify(PUZZLE, answer)


@pytest.mark.parametrize("tail", ["", "\n", "<eos>", "<eos><pad><pad>", "\n<eos>", "<pad>", "<eos>1234\n.="])
def test_what_follows_the_end_of_the_answer_does_not_matter(tail: str):
    assert extract_board(SOLUTION + tail) == SOLUTION
    assert SudokuTask(4).verify(PUZZLE, SOLUTION + tail)


@pytest.mark.parametrize(
    "puzzle", ["", "1234", "1..4\n....\n2..3\n.32", "1..4\n....\n2..5\n.32.", "1..4\n....\n2..3\n.32x"]
)
def test_a_puzzle_which_is_no_board_is_refused(puzzle: str):
    with pytest.raises(ValueError, match="A board has 4 rows of 4 characters"):
        SudokuTask(4).verify(puzzle, SOLUTION)


# Tokenizer


@settings(max_examples=100, deadline=None)
@given(text=st.lists(st.sampled_from([*"123456789.=\n", "<pad>", "<eos>", "<mask>"])).map("".join))
def test_texts_survive_encoding_and_decoding(text: str):
    """No blanks inserted, no newlines lost: the answers are read from decoded text."""
    ids = TOKENIZER(text).input_ids
    assert TOKENIZER.decode(ids) == text
    assert len(ids) == len(text.replace("<pad>", "p").replace("<eos>", "e").replace("<mask>", "m"))


def test_special_tokens_in_a_text_are_one_token_each():
    """Trainers append the end-of-sequence token as text."""
    ids = TOKENIZER("1\n<eos><pad><mask>").input_ids
    assert ids[-3:] == [TOKENIZER.eos_token_id, TOKENIZER.pad_token_id, TOKENIZER.mask_token_id]
    assert len(set(ids)) == len(ids) == 5
    assert TOKENIZER.decode(ids, skip_special_tokens=True) == "1\n"


def test_the_vocabulary_is_the_same_for_every_size():
    vocabularies = [sudoku_tokenizer(size).get_vocab() for size in SIZES]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]
    assert set(vocabularies[0]) == {*"123456789.=\n", "<pad>", "<eos>", "<mask>"}
    assert sorted(vocabularies[0].values()) == list(range(15))


def test_the_tokenizer_is_equal_after_saving_and_loading(tmp_path):
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = SudokuTask(4).format({"puzzle": PUZZLE, "solution": SOLUTION})["prompt"] + "<mask><eos><pad>"
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    assert loaded(text).input_ids == TOKENIZER(text).input_ids
    assert loaded.decode(loaded(text).input_ids) == text
    for name in ("pad_token_id", "eos_token_id", "mask_token_id", "model_max_length"):
        assert getattr(loaded, name) == getattr(TOKENIZER, name)
