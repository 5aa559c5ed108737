"""Exact batches."""

from hf_latent.training import MaskedDiffusionCollator

EXAMPLES = [
    {"input_ids": [5, 6, 7], "labels": [-100, 6, 7], "example_id": 11},
    {"input_ids": [8], "labels": [8], "example_id": 3},
]


def as_lists(batch: dict) -> dict:
    return {name: value.tolist() for name, value in batch.items()}


def test_padding_is_neither_attended_to_nor_supervised() -> None:
    assert as_lists(MaskedDiffusionCollator(pad_token_id=0)(EXAMPLES)) == {
        "input_ids": [[5, 6, 7], [8, 0, 0]],
        "labels": [[-100, 6, 7], [8, -100, -100]],
        "attention_mask": [[1, 1, 1], [1, 0, 0]],
        "example_id": [11, 3],
    }


def test_eos_padding_is_text_to_the_longest_row() -> None:
    assert as_lists(MaskedDiffusionCollator(pad_token_id=0, eos_token_id=9)(EXAMPLES)) == {
        "input_ids": [[5, 6, 7], [8, 9, 9]],
        "labels": [[-100, 6, 7], [8, 9, 9]],
        "attention_mask": [[1, 1, 1], [1, 1, 1]],
        "example_id": [11, 3],
    }


def test_eos_padding_to_a_length_does_not_depend_on_the_neighbours() -> None:
    """A row longer than the length keeps its tokens; what is left to pad is ordinary padding."""
    collator = MaskedDiffusionCollator(pad_token_id=0, eos_token_id=9, eos_length=2)
    batch = as_lists(collator(EXAMPLES))
    assert batch["input_ids"] == [[5, 6, 7], [8, 9, 0]]
    assert batch["labels"] == [[-100, 6, 7], [8, 9, -100]]
    assert batch["attention_mask"] == [[1, 1, 1], [1, 1, 0]]
    assert as_lists(collator(EXAMPLES[1:]))["input_ids"] == [[8, 9]]


def test_rows_without_labels_are_supervised_everywhere_and_the_examples_stay_as_they_were() -> None:
    example = {"input_ids": [4], "example_id": 0}
    batch = MaskedDiffusionCollator(pad_token_id=0, eos_token_id=9, eos_length=3)([example])
    assert batch["labels"].tolist() == [[4, 9, 9]]
    assert example == {"input_ids": [4], "example_id": 0}
