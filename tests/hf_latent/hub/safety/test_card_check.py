"""A folder is valid when all that its card shows is in its files, and nothing unsafe is beside it."""

import json
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_latent.hub import bundle, check_card, refresh_card
from hf_latent.hub.cards.card import marked_parts
from hf_latent.hub.cards.results import EVAL_RESULTS, put_results

COMMAND = "hf-latent eval tiny --tasks sudoku-4x4"
ENTRY = {
    "task": "sudoku-4x4",
    "measure": "exact_match",
    "settings": {"decoding": "low_confidence", "seed": 0},
    "metric": "accuracy",
    "value": 0.8125,
    "standard_error": 0.0244,
    "num_examples": 256,
    "forwards_per_example": 20.0,
    "tokens_per_forward": 1.0,
    "seconds": 64.0,
    "command": COMMAND,
}


@pytest.fixture
def folder(sudoku_model, tokenizer, tmp_path) -> Path:
    """A bundle with one measured row, its card fresh."""
    folder = bundle(sudoku_model, tokenizer, tmp_path / "tiny", verify=False)
    put_results(folder, [ENTRY], [])
    path = refresh_card(folder)
    path.write_text(path.read_text().replace("Not described.\n", "It knows nothing.\n"))
    return folder


def edit(folder: Path, before: str, after: str) -> None:
    path = folder / "README.md"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


def errors(folder: Path) -> str:
    return "\n".join(check_card(folder).errors)


def test_a_bundle_with_results_is_valid_and_shows_them(folder):
    """Would catch a check that nothing passes, and results that never reach table or metadata."""
    assert errors(folder) == ""
    card = ModelCard.load(folder / "README.md")
    assert [result.metric_value for result in card.data.eval_results] == [0.8125]
    row = "| sudoku-4x4 | low_confidence | accuracy | 0.812 ± 0.024 | 256 | 20.00 | 1.00 | 0.250 |"
    assert row in card.text and COMMAND in card.text
    assert "Measured with them: accuracy 0.812 in 20.00 forwards on 256 instances" in card.text


def test_a_number_that_no_results_file_holds_is_found(folder):
    """Would catch numbers typed into prose; 91.7 is neither in a file nor rounded from one."""
    edit(folder, "It knows nothing.", "It solves 91.7 % of all boards.")
    assert errors(folder) == "README.md shows 91.7, which no JSON file of the folder that names its command holds."
    edit(folder, "91.7 %", "81.3 %")  # 0.8125, rounded up
    assert errors(folder) == ""


def test_a_results_file_without_its_command_supports_nothing(folder):
    """Would catch cards whose numbers nobody can make again."""
    edit(folder, "It knows nothing.", "It was wrong 4,711 times.")
    (folder / "more.json").write_text(json.dumps({"wrong": 4711}))
    assert "4,711" in errors(folder)
    (folder / "more.json").write_text(json.dumps({"wrong": 4711, "command": "python count.py"}))
    assert errors(folder) == ""


def test_metadata_that_was_changed_by_hand_is_found(folder):
    edit(folder, "value: 0.8125", "value: 0.9125")
    assert "is 0.9125" in errors(folder)


def test_results_that_changed_make_the_card_stale_until_it_is_written_anew(folder):
    """Would catch a table that stays behind when an evaluation is repeated."""
    put_results(folder, [ENTRY | {"value": 0.75, "command": COMMAND}], [])
    assert "part `results` is not what the folder's files say" in errors(folder)
    refresh_card(folder)
    assert errors(folder) == ""
    assert len(json.loads((folder / EVAL_RESULTS).read_text())["results"]) == 1


def test_what_an_author_wrote_stays_when_the_card_is_written_anew(folder):
    """Would catch the loss of prose; twice the same is once."""
    edit(folder, "## Limits", "## History\n\nMade on a Sunday.\n\n## Limits")
    before = (folder / "README.md").read_text()
    refresh_card(folder)
    assert (folder / "README.md").read_text() == before


def test_parts_that_an_author_wrote_are_not_written_a_second_time(folder):
    text = (folder / "README.md").read_text()
    part = marked_parts(text)["licence"]
    marked = f"<!-- hf-latent:licence -->\n{part}\n<!-- /hf-latent:licence -->"
    edit(folder, marked, "## License\n\nAs you like.")
    assert errors(folder) == ""
    assert refresh_card(folder).read_text().count("## Licen") == 1


def test_a_table_of_an_author_gets_the_rows_of_eval_behind_it(folder):
    """Would catch results of `eval --card` that a hand-written section hides."""
    text = (folder / "README.md").read_text()
    part = marked_parts(text)["results"]
    marked = f"<!-- hf-latent:results -->\n{part}\n<!-- /hf-latent:results -->"
    edit(folder, marked, "## Results\n\nGood ones.")
    assert "lacks the part `more-results`" in errors(folder)
    assert "| sudoku-4x4 | low_confidence | accuracy | 0.812" in refresh_card(folder).read_text()
    assert errors(folder) == ""


def test_files_that_are_named_and_missing_are_found(folder):
    edit(folder, "It knows nothing.", "See `missing.json` and ![curve](curve.png), not [this](https://a.b/c.png).")
    assert "names missing.json" in errors(folder) and "names curve.png" in errors(folder)
    assert "c.png" not in errors(folder)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("weights.bin", b"x", "weights.bin is a pickle"),
        ("helper.py", b"import os\n", "helper.py is no module of hf-latent"),
        ("notes.json", b'{"file": "/home/somebody/data.json"}', "notes.json has the local path"),
    ],
)
def test_what_may_not_be_pushed_is_not_valid(folder, name, content, found):
    """Would catch a check that says valid of a folder that `push` refuses."""
    (folder / name).write_bytes(content)
    assert found in errors(folder)


def test_changed_code_is_refused_and_earlier_code_is_named(folder):
    """Would catch code that was tampered with, and says which version an old bundle is of."""
    module = folder / "generation_rules.py"
    module.write_text(module.read_text() + "\nEXTRA = 1\n")
    assert "generation_rules.py differs" in errors(folder)
    record = json.loads((folder / "bundle.json").read_text())
    import hashlib

    record["sha256"][module.name] = hashlib.sha256(module.read_bytes()).hexdigest()
    record |= {"hf_latent": "0.0.9", "commit": "abc123"}
    (folder / "bundle.json").write_text(json.dumps(record))
    report = check_card(folder)
    assert report.is_valid
    assert "1 of its modules are those of hf-latent 0.0.9, commit abc123" in report.notes[0]


def test_a_folder_without_weights_or_limits_or_card_is_told_so(folder, tmp_path):
    (folder / "model.safetensors").unlink()
    edit(folder, "## Limits", "## Further")
    assert "no weights" in errors(folder) and "`## Limits`" in errors(folder)
    (folder / "README.md").unlink()
    assert "README.md is missing" in errors(folder)
    with pytest.raises(ValueError, match="must be a folder"):
        check_card(tmp_path / "none")
    shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(ValueError, match=r"no config\.json"):
        refresh_card(folder)


def test_a_base_model_on_this_machine_is_refused(folder):
    edit(folder, "license: apache-2.0", "license: apache-2.0\nbase_model: ./runs/base")
    assert "base model './runs/base'" in errors(folder)
