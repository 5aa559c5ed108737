"""The study of latent diffusion: its commands are those a user would type, and what is there is summarized."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import BartConfig, BartForConditionalGeneration

from hf_latent.training.latent_diffusion import backbone as latent_diffusion_backbone
from hf_latent.training.latent_diffusion import run as latent_diffusion_run

ROOT = Path(__file__).resolve().parents[4]
CONFIG = ROOT / "recipes" / "studies/latent_diffusion_study.yaml"
STUDY = yaml.safe_load(CONFIG.read_text())
MODULES = {"stages": latent_diffusion_run, "backbone": latent_diffusion_backbone}
TASKS = ["rotation", "double_digit_additions"]
METRICS = ("accuracy", "exact")


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "recipes" / "studies/latent_diffusion_study.py"))


@pytest.mark.parametrize("name", list(STUDY["arms"]))
def test_every_arm_is_a_command_of_its_recipe(
    recipe: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    for run in recipe["runs_of"](name, STUDY):
        script, *arguments = recipe["command_of"](run, STUDY)
        data, training = MODULES[Path(script).stem].parse(arguments)
        values = {**STUDY["values"], **STUDY["arms"][name]["values"]}
        assert (data.tasks or [], training.seed, training.output_dir) == (run.tasks, run.seed, str(run.folder))
        assert data.num_train_examples == values["num_train_examples"]
        if "model_config" in values:
            assert data.model_config == values["model_config"]


def test_values_of_a_task_are_its_alone(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arm = {**STUDY["arms"]["in_context"], "task_values": {"rotation": {"max_steps": 7}}}
    study = {**STUDY, "arms": {"in_context": arm}}
    steps = {
        run.tasks[0]: latent_diffusion_run.parse(recipe["command_of"](run, study)[1:])[1].max_steps
        for run in recipe["runs_of"]("in_context", study)
    }
    assert steps.pop("rotation") == 7
    assert set(steps) == set(STUDY["values"]["tasks"]) - {"rotation"} and set(steps.values()) == {5000}


def test_arms_differ_in_what_their_names_say(recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """All other values are those of the denoiser, whose own are in its recipe's file."""
    monkeypatch.chdir(ROOT)

    def parsed(name: str) -> tuple[dict[str, Any], Any]:
        run = next(iter(recipe["runs_of"](name, STUDY)))
        assert run.tasks == STUDY["values"]["tasks"][:1]
        data, training = MODULES[Path(STUDY["arms"][name]["recipe"]).name].parse(recipe["command_of"](run, STUDY)[1:])
        return {"num_train_timesteps": 1000, **(data.model_config or {})}, training

    model, training = parsed("in_context")
    differences = {
        "reference": {},
        "cross_attention": {"conditioning": "cross_attention"},
        "adaln_zero": {"conditioning": "adaln_zero"},
        "T500": {"num_train_timesteps": 500},
        "T4000": {"num_train_timesteps": 4000},
        "cosine": {"beta_schedule": "squaredcos_cap_v2"},
        "min_snr": {},
    }
    for name, difference in differences.items():
        other, other_training = parsed(name)
        assert other == model | difference, name
        assert (other_training.min_snr_gamma != training.min_snr_gamma) == (name == "min_snr")
        assert other_training.max_steps == training.max_steps
    for name in ("baseline_answer_first", "baseline_answer_last"):
        baseline = parsed(name)[1]
        for field in ("max_steps", "per_device_train_batch_size", "adam_beta2"):
            assert getattr(baseline, field) == getattr(training, field), field


def result(shares: dict[str | None, float]) -> dict[str, Any]:
    """As a recipe writes it; a run on one task does not name it."""
    generation = {
        metric if task is None else f"{metric}_{task}": share for task, share in shares.items() for metric in METRICS
    }
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
        "values": {"tasks": TASKS, "num_eval_examples": 8},
        "arms": {name: {"values": {}} for name in ("pretrain", "joint", "denoiser", "baseline", "later")},
    }
    study["arms"]["denoiser"] |= {"every_seed": True, "per_task": True}
    alone = {f"denoiser-{TASKS[0]}": 0.5, f"denoiser-{TASKS[0]}-1": 0.7, f"denoiser-{TASKS[1]}": 1.0}
    written = {"joint": result(dict(zip(TASKS, [0.0, 0.25], strict=True)))}
    written |= {name: result({None: share}) for name, share in alone.items()}
    for name, results in written.items():
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(json.dumps(results))
        (folder / "training_log.jsonl").write_text(json.dumps({"loss": 1.0, "step": 1}) + "\n")
    rows = recipe["summarize"](study)
    assert [row["arm"] for row in rows] == ["joint", "denoiser"]
    assert rows[0]["exact_double_digit_additions"] == {"mean": 0.25, "each": [0.25], "standard_error": None}
    found = rows[1]["accuracy_rotation"]
    assert found["each"] == [0.5, 0.7]
    assert found["mean"] == pytest.approx(0.6)
    assert found["standard_error"] == pytest.approx(0.1)

    folder = tmp_path / "card"
    recipe["publish"](rows, study, folder)
    card = folder / "README.md"
    assert "| denoiser | 60.0 ± 10.0 | 100.0 | 2 | 3 |" in card.read_text()
    assert (folder / "study.png").read_bytes().startswith(b"\x89PNG")
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert sorted(entry["run"] for entry in log) == sorted(written)
    card.write_text("before\n" + card.read_text() + "after\n")
    recipe["publish"]([{name: value for name, value in rows[0].items() if "double" not in name}], study, folder)
    text = card.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "denoiser" not in text
    assert "| joint | 0.0 |  | 2 | 3 |" in text
    told = recipe["table"](rows, TASKS, "accuracy", {"paper": dict.fromkeys(TASKS, 12.25)})
    assert told.splitlines()[-1] == "| paper | 12.2 | 12.2 | | |"
    card.write_text("a card without marks")
    with pytest.raises(ValueError, match="without the marks"):
        recipe["publish"](rows, study, folder)


def test_arms_that_were_trained_elsewhere_are_kept_on_demand(recipe: dict[str, Any], tmp_path: Path) -> None:
    """In the study's order; an arm that has been trained again is replaced, with its curve and log."""
    arms = {name: {"values": {}, "per_task": True} for name in ("reference", "in_context", "baseline_answer_first")}
    study = {"seeds": [0], "arms": arms, "values": {"tasks": ["rotation"], "num_eval_examples": 8}}
    folder = tmp_path / "card"

    def train(place: str, shares: dict[str, float]) -> None:
        study["output_dir"] = str(tmp_path / place)
        for name, share in shares.items():
            (run,) = recipe["runs_of"](name, study)
            run.folder.mkdir(parents=True)
            (run.folder / "results.json").write_text(json.dumps(result({None: share})))
            (run.folder / "training_log.jsonl").write_text(json.dumps({"step": 1, "eval_accuracy": share}))

    def published(keep: bool) -> dict[str, float]:
        recipe["publish"](recipe["summarize"](study), study, folder, keep)
        found = json.loads((folder / "study.json").read_text())
        shares = {row["arm"]: row["accuracy_rotation"]["mean"] for row in found["rows"]}
        log = map(json.loads, (folder / "training_log.jsonl").read_text().splitlines())
        assert {entry["run"]: entry["eval_accuracy"] for entry in log} == {
            f"{k}-rotation": v for k, v in shares.items()
        }
        curves = found["learning_curves"]["rotation"]
        assert curves == {name: [[1, share]] for name, share in shares.items() if name != "reference"}
        return shares

    train("elsewhere", {"in_context": 0.5, "baseline_answer_first": 0.25})
    with pytest.raises(ValueError, match="earlier publication"):
        recipe["publish"](recipe["summarize"](study), study, folder, True)
    published(keep=False)
    train("here", {"reference": 1.0, "baseline_answer_first": 0.75})
    kept = {"reference": 1.0, "in_context": 0.5, "baseline_answer_first": 0.75}
    assert list(published(keep=True).items()) == list(kept.items())
    assert "in_context" not in published(keep=False)


def test_what_is_compared_is_drawn_over_updates(recipe: dict[str, Any], tmp_path: Path) -> None:
    """Of the first seed, where there are answers; what the samplers' recipe has found is copied."""
    names = ("in_context", "baseline_answer_first")
    arms = {name: {"values": {}, "per_task": True, "every_seed": True} for name in names}
    study = {"output_dir": str(tmp_path), "seeds": [0, 1], "shown": "in_context-rotation", "arms": arms}
    study["values"] = {"tasks": TASKS, "num_eval_examples": 8}
    shares = {"in_context": [0.5, 0.75], "baseline_answer_first": [1.0, 1.0]}
    for name in names:
        for run in recipe["runs_of"](name, study):
            run.folder.mkdir()
            log = [{"step": 1, "eval_accuracy": shares[name][run.seed]}, {"step": 1, "eval_loss": 0.1}]
            (run.folder / "training_log.jsonl").write_text("\n".join(map(json.dumps, log)))
            if run.tasks == ["rotation"]:
                (run.folder / "results.json").write_text(json.dumps(result({None: shares[name][run.seed]})))
    curves = recipe["learning_curves"](study)
    assert list(curves) == TASKS
    assert curves["rotation"] == {"in_context": [[1, 0.5]], "baseline_answer_first": [[1, 1.0]]}
    (tmp_path / study["shown"] / "samplers.json").write_text("{}")
    recipe["publish"](recipe["summarize"](study), study, tmp_path / "card")
    said = json.loads((tmp_path / "card" / "results.json").read_text())
    assert said["headline"] == "answers right, by latent diffusion and the encoder-decoder: rotation 62.5 and 100.0 %"
    assert said["num_examples"] == 8
    assert {"updates.png", "samplers.json"} <= {path.name for path in (tmp_path / "card").iterdir()}


def test_sentences_have_a_table_of_their_own(recipe: dict[str, Any], tmp_path: Path) -> None:
    """With what is reached without learning anything; they have no part in those of the tasks."""
    study = {"output_dir": str(tmp_path), "seeds": [0], "values": {"tasks": TASKS, "num_eval_examples": 8}}
    study |= {"levels": str(tmp_path / "levels.json"), "arms": {}}
    generations = {"tasks_arm": {"accuracy_rotation": 0.5, "exact_rotation": 0.25}, "text_arm": {"chrf": 31.25}}
    for name, generation in generations.items():
        study["arms"][name] = {"values": {"tasks": [] if name == "text_arm" else ["rotation", "rotation"]}}
        (tmp_path / name).mkdir()
        results = {**result({}), "generation": {"exact": 0.125, **generation}}
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    levels = {"num_test_pairs": 8, "chrf": {"another pair's completion": 12.5}}
    (tmp_path / "levels.json").write_text(json.dumps(levels))
    recipe["publish"](recipe["summarize"](study), study, tmp_path / "card")
    text = (tmp_path / "card" / "README.md").read_text()
    assert "| text_arm | 31.2 | 12.5 | 2 | 3 |\n| another pair's completion | 12.5 | | | |" in text
    assert text.count("text_arm") == 1 and text.count("tasks_arm") == 2
    assert json.loads((tmp_path / "card" / "study.json").read_text())["levels"] == levels
    (tmp_path / "levels.json").unlink()  # of a study without sentences
    recipe["publish"](recipe["summarize"](study), study, tmp_path / "card")
    assert "text_arm" not in (tmp_path / "card" / "README.md").read_text()


def test_training_goes_by_the_recipe_and_is_done_once(recipe: dict[str, Any], tmp_path: Path) -> None:
    tiny = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    tiny |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 64}
    values = {"max_steps": 1, "per_device_train_batch_size": 2, "model_config": tiny, "eval_strategy": "no"}
    study = {
        "output_dir": str(tmp_path),
        "seeds": [0],
        "values": {"tasks": ["rotation"], "num_train_examples": 4, "num_eval_examples": 2, "use_cpu": True},
        "arms": {
            "tiny": {"recipe": "latent_diffusion/backbone", "config": "latent_diffusion/pretrain", "values": values}
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
    study["values"]["num_train_examples"] = 5
    config.write_text(yaml.safe_dump(study))
    with pytest.raises(ValueError, match=r"`tiny`.*Changed: values.num_train_examples 4 -> 5"):
        recipe["main"](recipe["parse"](["--config", str(config), "--arms", "tiny"]))
    assert results.stat().st_mtime_ns == first
    (tmp_path / "tiny.identity.json").unlink()
    with pytest.raises(ValueError, match="tiny does not say which weights"):
        recipe["main"](recipe["parse"](["--config", str(config), "--arms", "tiny"]))
    with pytest.raises(ValueError, match="`arms` must be of tiny, got huge"):
        recipe["main"](recipe["parse"](["--config", str(config), "--arms", "huge"]))


def test_a_training_from_other_weights_is_not_taken_for_this_one(recipe: dict[str, Any], tmp_path: Path) -> None:
    """The autoencoder was trained again, under its old path; its denoiser is there already."""
    special = {"vocab_size": 12, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 16}
    model = BartForConditionalGeneration(BartConfig(**special, **sizes, **heads))
    model.save_pretrained(tmp_path / "start")
    values = {"model_name_or_path": str(tmp_path / "start"), "max_steps": 1}
    arm = {"recipe": "latent_diffusion/backbone", "config": "latent_diffusion/baseline", "values": values}
    study = {"output_dir": str(tmp_path), "seeds": [0], "values": {"tasks": ["rotation"]}, "arms": {"tiny": arm}}
    (run,) = recipe["runs_of"]("tiny", study)
    run.folder.mkdir()
    (run.folder / "results.json").write_text("{}")
    (tmp_path / "tiny.identity.json").write_text(json.dumps(recipe["made_of"](run, study)))
    recipe["train"](run, study)
    with torch.no_grad():
        model.get_encoder().layers[0].fc1.weight[0, 0] += 1
    model.save_pretrained(tmp_path / "start")
    recipe["identify_start"].cache_clear()
    with pytest.raises(ValueError, match=r"`tiny`.*was begun with another checkpoint.*Changed: model.weights"):
        recipe["train"](run, study)
