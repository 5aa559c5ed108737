"""The table of models says what their files say, and is up to date in this repository."""

import json
from pathlib import Path

import pytest

from hf_latent.hub import bundle, check_card, refresh_card, write_model_table
from hf_latent.hub.cards.card import marked_parts
from hf_latent.hub.cards.model_table import PART, model_table
from hf_latent.hub.cards.results import put_results

ROOT = Path(__file__).resolve().parents[4] / "model_cards"
FOLDERS = sorted(path.parent for path in ROOT.glob("*/README.md"))


def row(decoding, value, forwards, tokens):
    return {
        "task": "sudoku-4x4",
        "measure": "exact_match",
        "settings": {"decoding": decoding, "seed": 0},
        "metric": "accuracy",
        "value": value,
        "num_examples": 50,
        "forwards_per_example": forwards,
        "tokens_per_forward": tokens,
        "seconds": 5.0,
        "run": decoding,
        "command": "hf-latent eval tiny",
    }


def test_a_row_shows_the_best_single_token_decoder_and_the_models_own(sudoku_model, tokenizer, tmp_path):
    """Would catch a headline taken from whatever row comes first, or from another decoder than the model's."""
    sudoku_model.generation_config.decoding = "margin"
    folder = bundle(sudoku_model, tokenizer, tmp_path / "tiny", verify=False)
    rows = [row("random", 0.5, 20.0, 1.0), row("entropy", 0.7, 20.0, 1.0), row("margin", 0.66, 4.0, 5.0)]
    put_results(folder, rows, [])
    refresh_card(folder)
    parameters = f"{sudoku_model.num_parameters():,}"
    line = f"| [tiny](tiny/README.md) | masked diffusion | {parameters} | here | 70.0 % in 20.00 forwards | "
    assert f"{line}66.0 % in 4.00 forwards | 50 |" in model_table(tmp_path)


def test_the_rest_of_the_page_stays(sudoku_model, tokenizer, tmp_path):
    bundle(sudoku_model, tokenizer, tmp_path / "tiny", verify=False)
    page = write_model_table(tmp_path)
    page.write_text("# Mine\n\n" + page.read_text() + "\nBelow.\n")
    before = page.read_text()
    assert write_model_table(tmp_path).read_text().strip() == before.strip()
    with pytest.raises(ValueError, match="has a README"):
        write_model_table(tmp_path / "tiny")


def test_the_published_table_is_up_to_date():
    """Write it anew with `hf-latent card table model_cards`."""
    assert marked_parts((ROOT / "README.md").read_text())[PART] == model_table(ROOT)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_published_card_is_valid(folder):
    """Every number in every card is in a JSON file that names its command; else `hf-latent card write`, or measure."""
    assert check_card(folder).errors == []


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_published_folder_names_the_commands_of_its_numbers(folder):
    results = [json.loads(path.read_text()) for path in folder.glob("*results*.json")]
    assert results
    for content in results:
        has_one = content.get("command") or (content.get("run") or {}).get("command")
        assert has_one or all(entry["command"] for entry in content["results"])
