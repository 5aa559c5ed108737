"""The study of latent tokens, with models of a few thousand parameters: every arm trains and solves."""

import json
import math
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[4]
NAMES = ("star_graph", "star_graph_every_arm", "sudoku_4x4", "sudoku_6x6")
STUDIES = [ROOT / "recipes" / "studies" / f"latent_tokens_study_{name}.yaml" for name in NAMES]
ARMS = ["ar", "ar+1", "ar+any", "sidm", "scdm+any", "mdm"]


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "recipes" / "studies/latent_tokens_study.py"))


@pytest.fixture(scope="module")
def study(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two updates of each arm."""
    folder = tmp_path_factory.mktemp("study")
    study = yaml.safe_load((ROOT / "recipes" / "studies/latent_tokens_study_sudoku_4x4.yaml").read_text())
    study |= {"num_train_examples": 8, "num_test_examples": 2, "arms": ARMS, "seeds": [0], "any_ahead": [0, 1]}
    study |= {"any_group": [0, 1], "output_dir": str(folder)}
    study |= {"decodings": ["low_confidence", "random", "left_to_right"]}
    study["model"] |= {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    study["model"] |= {"num_key_value_heads": 2}
    study["training"] |= {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1, "warmup_steps": 0}
    for arm in ARMS:
        recipe["run"](arm, 0, study, folder)
    return study


def test_every_arm_is_solved_with_every_number_it_can_be_used_with(
    recipe: dict[str, Any], study: dict[str, Any]
) -> None:
    rows = recipe["summarize"](study, Path(study["output_dir"]))
    found = [(row["arm"], row["num_latent_tokens"], row["order"]) for row in rows]
    causal = [("ar", 0), ("ar+1", 0), ("ar+1", 1), ("ar+any", 0), ("ar+any", 1)]
    any_order = [("sidm", 0), ("scdm+any", 0), ("scdm+any", 1), ("mdm", None)]
    expected = [(*pair, "") for pair in causal]
    expected += [(*pair, order) for pair in any_order for order in ("", ", random order", ", left to right")]
    assert found == expected
    assert len({row["num_parameters"] for row in rows}) == 1
    assert all(0 <= row["accuracy"] <= 1 and row["ms_per_token"] > 0 for row in rows)
    log = recipe["training_log"](study, Path(study["output_dir"]))
    assert [(entry["arm"], entry["step"]) for entry in log if "loss" in entry] == [
        (a, s) for a in ARMS for s in (1, 2)
    ]


def test_what_is_there_is_not_trained_again(recipe: dict[str, Any], study: dict[str, Any]) -> None:
    path = Path(study["output_dir"]) / "sidm-0.json"
    before = path.read_text()
    recipe["run"]("sidm", 0, study, Path(study["output_dir"]))
    assert path.read_text() == before
    recipe["time_again"]("sidm", 0, study, Path(study["output_dir"]))
    again, first = json.loads(path.read_text()), json.loads(before)
    assert [solved["num_correct"] for solved in again["solved"].values()] == [
        solved["num_correct"] for solved in first["solved"].values()
    ]
    assert again["train_seconds"] == first["train_seconds"]


def test_results_of_other_weights_are_refused(recipe: dict[str, Any], study: dict[str, Any], tmp_path: Path) -> None:
    """A checkpoint that was trained anew beside results of the one before it."""
    folder = Path(study["output_dir"])
    for name in ("sidm-0.json", "sidm-0.identity.json"):
        shutil.copy(folder / name, tmp_path)
    shutil.copytree(folder / "ar-0", tmp_path / "sidm-0")
    for again in ("run", "time_again"):
        with pytest.raises(ValueError, match=r"`sidm-0.json`.*another checkpoint.*Changed: .*model.weights"):
            recipe[again]("sidm", 0, study, tmp_path)
    (tmp_path / "sidm-0.identity.json").unlink()
    with pytest.raises(ValueError, match=r"sidm-0.json does not say which weights"):
        recipe["run"]("sidm", 0, study, tmp_path)


def test_a_folder_of_other_values_is_refused(recipe: dict[str, Any], study: dict[str, Any], tmp_path: Path) -> None:
    recipe["claim"](tmp_path, study)
    recipe["claim"](tmp_path, study | {"title": "another", "seeds": [0, 1], "decodings": ["random"]})
    with pytest.raises(ValueError, match=r"`output_dir`=.*other values of num_states, training: remove it"):
        recipe["claim"](tmp_path, study | {"num_states": 9, "training": study["training"] | {"max_steps": 3}})
    (tmp_path / "study.json").rename(tmp_path / "sidm-0.json")
    with pytest.raises(ValueError, match="was begun with other values"):
        recipe["claim"](tmp_path, study)


def test_seeds_that_were_not_solved_alike_make_no_row(
    recipe: dict[str, Any], study: dict[str, Any], tmp_path: Path
) -> None:
    found = json.loads((Path(study["output_dir"]) / "sidm-0.json").read_text())
    (tmp_path / "sidm-0.json").write_text(json.dumps(found))
    del found["solved"]["0, left to right"]
    (tmp_path / "sidm-1.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="seeds of sidm were not all solved alike"):
        recipe["summarize"](study | {"seeds": [0, 1]}, tmp_path)


def row(arm: str, number: int | None, accuracies: list[float], order: str = "") -> dict[str, Any]:
    """As `summarize` makes them."""
    mean = sum(accuracies) / len(accuracies)
    return {
        "arm": arm,
        "num_latent_tokens": number,
        "order": order,
        "accuracy": mean,
        "accuracies": accuracies,
        "standard_error": math.sqrt(
            sum((a - mean) ** 2 for a in accuracies) / (len(accuracies) - 1) / len(accuracies)
        ),
        "ms_per_token": 1.0,
        "num_parameters": 5,
        "train_seconds": 2.0,
    }


def test_lines_and_tables_name_what_was_compared(
    recipe: dict[str, Any], study: dict[str, Any], tmp_path: Path
) -> None:
    rows = [row("ar", 0, [0.2, 0.3]), row("ar+1", 0, [0.25, 0.25]), row("ar+1", 1, [0.8, 1.0])]
    rows += [row("sidm", 0, [0.5, 0.5], order) for order in ("", ", random order", ", left to right")]
    rows += [row("mdm", None, [1.0, 1.0])]
    lines = {name: [entry["arm"] for entry in found] for name, found in recipe["lines_of"](rows).items()}
    assert lines == {
        "AR, each trained for its number": ["ar", "ar+1"],
        "AR, trained for 1": ["ar+1", "ar+1"],
        "any order, each trained for its number": ["sidm"],
        "any order, each trained for its number, random order": ["sidm"],
        "any order, each trained for its number, left to right": ["sidm"],
        "masked diffusion": ["mdm"],
    }
    config = tmp_path / "latent_tokens_study_boards.yaml"
    recipe["publish"](rows, study | {"title": "boards"}, config, tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "| ar+1 | 1 | 90.0 ± 10.0 | 80.0, 100.0 | 1.00 | 2 |" in card
    assert "| sidm, random order | 0 |" in card and "| mdm | all |" in card
    said = json.loads((tmp_path / "results.json").read_text())["headline"]
    assert said == "boards: autoregressive 25.0 %, with 1 latent token 90.0 %"
    assert (tmp_path / "boards.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_name_arms_and_numbers_that_exist(recipe: dict[str, Any], path: Path) -> None:
    study = yaml.safe_load(path.read_text())
    for arm in study["arms"]:
        assert all(number >= 0 for number in recipe["numbers_of"](arm, study))
    recipe["check"](study)
    with pytest.raises(ValueError, match="`decodings` must be of low_confidence, random, left_to_right, got med"):
        recipe["check"](study | {"decodings": ["random", "med"]})
    for wrong in ("ar+", "mdm+1", "scdm", "lrd"):
        with pytest.raises(ValueError, match="`arms` must be"):
            recipe["numbers_of"](wrong, study)
