"""A run from a YAML file, its report, and the arguments it refuses."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ModelConfig

from hf_latent import LladaForMaskedDiffusion
from hf_latent.tasks import ArithmeticTask, SudokuTask
from hf_latent.training.run import TrainArguments, build_model, load_data, main, parse

RECIPES = Path(__file__).resolve().parents[4] / "recipes"
TINY_MODEL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SHORT = (
    "--max_steps 2 --num_train_examples 40 --num_drills 8 --num_ambiguous_examples 4 --num_eval_examples 4 "
    "--logging_steps 1 --per_device_train_batch_size 8 --eval_strategy no --use_cpu --disable_tqdm true"
)


def run(folder: Path, *more: str, recipe: str = "masked_diffusion/sudoku_4x4.yaml") -> dict[str, Any]:
    model = ["--model_config", json.dumps(TINY_MODEL)]
    arguments = ["--config", str(RECIPES / recipe), *SHORT.split(), *model, "--output_dir", str(folder), *more]
    return main(*parse(arguments))


@pytest.mark.parametrize(
    "recipe",
    ["masked_diffusion/arithmetic.yaml", "masked_diffusion/sudoku_4x4.yaml", "masked_diffusion/sudoku_6x6.yaml"],
)
def test_a_recipe_runs_and_leaves_everything_beside_the_checkpoint(tmp_path: Path, recipe: str) -> None:
    results = run(tmp_path, "--eval_generation_steps", "1", recipe=recipe)
    assert results == json.loads((tmp_path / "results.json").read_text())
    assert results["steps"] == 2
    assert results["generation"]["num_examples"] == 4
    assert math.isfinite(results["held_out"]["eval_loss"])

    log = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]
    assert [entry["step"] for entry in log if "eval_accuracy" in entry] == [1, 2]
    assert (tmp_path / "training_curve.png").read_bytes().startswith(b"\x89PNG")

    resolved = json.loads((tmp_path / "run.json").read_text())
    assert resolved["training"]["max_steps"] == 2
    assert resolved["training"]["loss_weighting"] == "uniform"
    name = Path(recipe).name
    assert name.startswith(resolved["script"]["task"])
    assert resolved["script"]["task"] != "sudoku" or resolved["script"]["task_size"] == int(name[7])
    assert resolved["environment"]["packages"]["torch"] == torch.__version__

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(model, LladaForMaskedDiffusion)
    assert model.config.hidden_size == 16
    assert AutoTokenizer.from_pretrained(tmp_path).mask_token_id == model.config.mask_token_id


@pytest.mark.parametrize(
    ("task", "options", "length"),
    [
        ("zebra", {"num_houses": 3, "num_attributes": 2}, 8),
        ("star_graph", {"degree": 3}, 10),
        ("countdown", {"num_numbers": 3}, 23),
        ("sudoku", {"num_givens": [8, 9]}, 20),
    ],
)
def test_a_task_is_trained_on_with_its_options(tmp_path: Path, task: str, options: dict, length: int) -> None:
    """By the flags of a recipe; the model is then judged on held-out instances of the same options."""
    chosen = ["--task", task, "--task_options", json.dumps(options), "--num_ambiguous_examples", "0"]
    results = run(tmp_path, *chosen)
    assert results["generation"]["num_examples"] == 4
    assert math.isfinite(results["held_out"]["eval_loss"])
    arguments = TrainArguments(task=task, task_options=options, num_train_examples=9, num_eval_examples=3)
    train, test, found = load_data(arguments)
    assert found.completion_length == length
    assert (len(train), len(test)) == (9, 3)
    assert not set(train["prompt"]) & set(test["prompt"])
    assert json.loads((tmp_path / "run.json").read_text())["script"]["task_options"] == options


def test_the_block_diffusion_recipe_differs_in_blocks_alone(tmp_path: Path) -> None:
    """Else the two models of word problems could not be compared."""
    fields = {}
    for kind in ("masked_diffusion", "block_diffusion"):
        fields[kind] = yaml.safe_load((RECIPES / kind / "arithmetic.yaml").read_text())
    model = fields["block_diffusion"]["model_config"]
    names = {name for both in fields.values() for name in both}
    differing = {name for name in names if len({json.dumps(both.get(name)) for both in fields.values()}) > 1}
    assert differing == {"model_config", "time_per", "generation_kwargs", "output_dir"}
    tokenizer = ArithmeticTask().tokenizer()
    sizes = {kind: build_model(both["model_config"], tokenizer, ModelConfig()) for kind, both in fields.items()}
    assert len({model.num_parameters() for model in sizes.values()}) == 1
    decoders = [model.config.get_text_config().to_dict() for model in sizes.values()]
    for name in ("hidden_size", "rms_norm_eps", "rope_parameters", "max_position_embeddings", "initializer_range"):
        assert decoders[0][name] == decoders[1][name], name
    tiny = json.dumps(model | {"text_config": TINY_MODEL | {"max_position_embeddings": 160}})
    results = run(tmp_path, "--model_config", tiny, recipe="block_diffusion/arithmetic.yaml")
    assert results["generation"]["num_examples"] == 4


def test_a_run_goes_on_from_its_last_checkpoint_with_the_same_losses(tmp_path: Path) -> None:
    """`resume_from_checkpoint: auto` also starts a first run, where there is nothing to resume."""
    constant = ["--lr_scheduler_type", "constant", "--warmup_steps", "0", "--save_steps", "2"]
    run(tmp_path / "whole", *constant, "--max_steps", "4")
    run(tmp_path / "parts", *constant, "--max_steps", "2")
    run(tmp_path / "parts", *constant, "--max_steps", "4")
    logs = []
    for name in ("whole", "parts"):
        lines = (tmp_path / name / "training_log.jsonl").read_text().splitlines()
        logs.append([entry["loss"] for entry in map(json.loads, lines) if "loss" in entry])
    assert len(logs[0]) == 4
    assert logs[0] == logs[1]


def test_a_local_file_trains_an_adapter_on_a_saved_model(tmp_path: Path, make_model: Any, tokenizer: Any) -> None:
    folder, data = tmp_path / "base", tmp_path / "train.jsonl"
    make_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = SudokuTask(4).dataset(8, 0, num_givens=10).select_columns(["prompt", "completion"]).to_list()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = f"--train_file {data} --eval_file {data} --model_name_or_path {folder} --output_dir {tmp_path}/out"
    flags = "--max_steps 2 --use_peft --lora_r 2 --lora_target_modules q_proj v_proj --report_to none --use_cpu"
    results = main(*parse([*arguments.split(), *flags.split()]))
    assert results["task"] is None
    assert results["held_out"]["eval_loss"] > 0
    assert (tmp_path / "out" / "adapter_model.safetensors").is_file()
    resolved = json.loads((tmp_path / "out" / "run.json").read_text())
    assert 0 < resolved["num_trainable_parameters"] < resolved["num_parameters"]


def test_training_and_held_out_puzzles_differ_for_the_same_seed() -> None:
    train, test, task = load_data(TrainArguments(task="sudoku", num_train_examples=60, num_eval_examples=20))
    assert (len(train), len(test), task.size) == (60, 20, 4)
    assert not set(train["puzzle"]) & set(test["puzzle"])
    few, _, _ = load_data(
        TrainArguments(task="sudoku", num_train_examples=10, num_eval_examples=2, min_givens=11, max_givens=12)
    )
    assert set(few["num_givens"]) <= {11, 12}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of `task`, `dataset_name` and `train_file`, got none"),
        ({"task": "sudoku", "train_file": "x"}, r"exactly one of .*got \['task', 'train_file'\]"),
        ({"task": "chess"}, "`task` must be one of .*got 'chess'"),
        ({"task": "sudoku", "min_givens": 4}, "go together, got 4 and None"),
        ({"train_file": "x", "eval_generation_steps": 5}, "`eval_generation_steps` needs a `task`, got 5"),
    ],
)
def test_bad_arguments_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainArguments(**arguments)


def test_mistyped_names_raise(tmp_path: Path, tokenizer: Any) -> None:
    """A transformers configuration keeps unknown names as attributes; a YAML file could say anything."""
    with pytest.raises(ValueError, match=r"`model_config` has \['hiden_size'\], which LladaConfig does not know"):
        build_model({"hiden_size": 16}, tokenizer, ModelConfig())
    (tmp_path / "run.yaml").write_text("task: sudoku\nlearning_rte: 1\n")
    with pytest.raises(ValueError, match="learning_rte"):
        parse(["--config", str(tmp_path / "run.yaml")])


def test_model_and_tokenizer_have_to_be_named_once(tmp_path: Path) -> None:
    output = ["--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match=r"give exactly one of `model_config` .*, `backbone` .* got {.*None}"):
        main(*parse(["--task", "sudoku", *output]))
    data = tmp_path / "train.json"
    data.write_text('[{"text": "12"}]')
    with pytest.raises(ValueError, match="`tokenizer_name` is needed"):
        main(*parse(["--train_file", str(data), "--model_config", json.dumps(TINY_MODEL), *output]))


def test_names_of_the_hub_configuration_work_too(tokenizer: Any, tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(
        json.dumps({"d_model": 16, "n_heads": 2, "n_layers": 1, "mlp_hidden_size": 8})
    )
    read = TrainArguments(task="sudoku", model_config=str(tmp_path / "model.json")).model_config
    model = build_model(read, tokenizer, ModelConfig(attn_implementation="eager"))
    assert (model.config.hidden_size, model.config.num_hidden_layers) == (16, 1)
    assert model.config._attn_implementation == "eager"
    assert model.config.vocab_size == len(tokenizer)
    assert model.dtype == torch.float32


def test_quantized_weights_are_asked_for_where_the_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """trl's flag alone would be read by nobody, and an 8B model loaded in 32 bits."""
    asked: dict[str, Any] = {}

    class Loaded(Exception):
        pass

    def load(*args: Any, **kwargs: Any) -> None:
        asked.update(kwargs)
        raise Loaded

    tokenizer = SudokuTask(4).tokenizer()
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "data.jsonl").write_text('{"text": "1"}\n')
    flags = (
        f"--train_file {tmp_path}/data.jsonl --output_dir {tmp_path}/out --load_in_4bit true --use_cpu true".split()
    )
    monkeypatch.setattr(
        "hf_latent.training.masked_diffusion.trainer.load_model",
        lambda name, args, config: load(quantization_config=config),
    )
    monkeypatch.setattr(
        "hf_latent.modeling.latent_token.modeling_latent_token_base.load_backbone", lambda _, kw: load(**kw)
    )
    for source in ("--model_name_or_path", "--backbone"):
        asked.clear()
        with pytest.raises(Loaded):
            main(*parse([*flags, source, str(tmp_path), "--use_peft", "true", "--lora_target_modules", "all-linear"]))
        assert asked["quantization_config"].load_in_4bit is True, source
    with pytest.raises(ValueError, match="`load_in_4bit` and `load_in_8bit` need `use_peft`"):
        main(*parse([*flags, "--model_name_or_path", str(tmp_path)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--backbone x --attention block_causal", "`block_size` goes with `attention` 'block_causal', got None"),
        ("--backbone x --block_size 8", "`block_size` goes with `attention` 'block_causal', got 8 with 'bidirect"),
        ("--model_name_or_path x --attention block_causal --block_size 8", "is for a `backbone`.*got `backbone` None"),
        ("--backbone x --attention block_causal --block_size 8 --num_latent_tokens 2", "without `num_latent_tokens`"),
    ],
)
def test_blocks_that_nothing_is_made_of_are_refused_before_anything_is_loaded(
    tmp_path: Path, arguments: str, message: str
) -> None:
    words = f"--task sudoku --output_dir {tmp_path} --use_cpu --report_to none {arguments}"
    with pytest.raises(ValueError, match=message):
        main(*parse(words.split()))
