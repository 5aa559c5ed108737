"""The study of latent diffusion: its commands are those a user would type, and what is there is summarized."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from hf_latent.training import latent_diffusion_backbone, latent_diffusion_run

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "recipes" / "latent_diffusion_study.yaml"
STUDY = yaml.safe_load(CONFIG.read_text())
MODULES = {"latent_diffusion": latent_diffusion_run, "latent_diffusion_backbone": latent_diffusion_backbone}
TASKS = ["rotation", "double_digit_additions"]
METRICS = ("accuracy", "exact")


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "recipes" / "latent_diffusion_study.py"))


@pytest.mark.parametrize("name", list(STUDY["arms"]))
def test_every_arm_is_a_command_of_its_recipe(
    recipe: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for seed, folder in recipe["runs_of"](name, STUDY):
        script, *arguments = recipe["command_of"](name, seed, folder, STUDY)
        data, training = MODULES[Path(script).stem].parse(arguments)
        arm = STUDY["arms"][name]
        assert (data.tasks, training.seed, training.output_dir) == (STUDY["values"]["tasks"], seed, str(folder))
        assert training.max_steps == arm["values"]["max_steps"]
        assert data.num_train_examples == {**STUDY["values"], **arm["values"]}["num_train_examples"]
        if "model_config" in arm["values"]:
            assert data.model_config == arm["values"]["model_config"]


def test_arms_differ_in_what_their_names_say(recipe: dict[str, Any]) -> None:
    def values(name: str) -> dict[str, Any]:
        return {**STUDY["arms"][name]["values"]}

    assert values("cross_attention")["model_config"]["conditioning"] == "cross_attention"
    assert values("T4000")["model_config"] == values("in_context")["model_config"] | {"num_train_timesteps": 4000}
    assert values("baseline_answer_last") == values("baseline_answer_first") | {"order": "answer_last"}
    for field in ("max_steps", "per_device_train_batch_size", "learning_rate"):
        assert len({values(name)[field] for name in list(STUDY["arms"])[2:]}) == 1, field


def result(shares: list[float]) -> dict[str, Any]:
    generation = {f"{metric}_{task}": share for task, share in zip(TASKS, shares, strict=True) for metric in METRICS}
    return {
        "steps": 2,
        "train_seconds": 3.0,
        "generation": {**generation, "num_examples": 8},
        "run": {"num_parameters": 10},
    }


def test_what_is_there_is_summarized(recipe: dict[str, Any], tmp_path: Path) -> None:
    """By hand: 0.5 and 0.7 have the mean 0.6 and the standard error 0.1. Arms without results are left out."""
    study = {
        "output_dir": str(tmp_path / "runs"),
        "seeds": [0, 1],
        "values": {"tasks": TASKS},
        "arms": {name: {"every_seed": name == "denoiser"} for name in ("pretrain", "denoiser", "baseline", "later")},
    }
    written = {"denoiser": [0.5, 1.0], "denoiser-1": [0.7, 1.0], "baseline": [0.0, 0.25]}
    for name, shares in written.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(result(shares)))
        (folder / "training_log.jsonl").write_text(json.dumps({"loss": 1.0, "step": 1}) + "\n")
    rows = recipe["summarize"](study)
    assert [(row["arm"], row["num_seeds"]) for row in rows] == [("denoiser", 2), ("baseline", 1)]
    found = rows[0]["accuracy_rotation"]
    assert found["each"] == [0.5, 0.7]
    assert found["mean"] == pytest.approx(0.6)
    assert found["standard_error"] == pytest.approx(0.1)
    assert rows[1]["exact_double_digit_additions"] == {"mean": 0.25, "each": [0.25], "standard_error": None}

    folder = tmp_path / "card"
    recipe["publish"](rows, study, folder)
    card = folder / "README.md"
    assert "| denoiser | 60.0 ± 10.0 | 100.0 ± 0.0 | 2 | 3 |" in card.read_text()
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert [(entry["arm"], entry["seed"]) for entry in log] == [("denoiser", 0), ("denoiser", 1), ("baseline", 0)]
    card.write_text("before\n" + card.read_text() + "after\n")
    recipe["publish"](rows[:1], study, folder)
    text = card.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "baseline" not in text
    card.write_text("a card without marks")
    with pytest.raises(ValueError, match="without the marks"):
        recipe["publish"](rows, study, folder)


def test_training_goes_by_the_recipe_and_is_done_once(recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    tiny |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    values = {"max_steps": 1, "per_device_train_batch_size": 2, "model_config": tiny, "eval_strategy": "no"}
    study = {
        "output_dir": str(tmp_path),
        "seeds": [0],
        "values": {"tasks": ["rotation"], "num_train_examples": 4, "num_eval_examples": 2, "use_cpu": True},
        "arms": {
            "tiny": {"recipe": "latent_diffusion_backbone", "config": "latent_diffusion_pretrain", "values": values}
        },
    }
    config = tmp_path / "study.yaml"
    config.write_text(yaml.safe_dump(study))
    recipe["main"](recipe["parse"](["--config", str(config), "--arms", "tiny"]))
    results = tmp_path / "tiny" / "results.json"
    assert json.loads(results.read_text())["steps"] == 1
    first = results.stat().st_mtime_ns
    recipe["main"](recipe["parse"](["--config", str(config), "--arms", "tiny"]))
    assert results.stat().st_mtime_ns == first
    with pytest.raises(ValueError, match="`arms` must be of tiny, got huge"):
        recipe["main"](recipe["parse"](["--config", str(config), "--arms", "huge"]))
