"""The recipes of latent diffusion, each cut to a few steps, one after the other; and the sizes that users have."""

import json
import random
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, BartConfig, BartForConditionalGeneration

from hf_latent import LatentAutoencoder, LatentDiffusionForConditionalGeneration
from hf_latent.evaluation import text_similarity
from hf_latent.tasks import answer_first_tokenizer
from hf_latent.training.latent_diffusion import backbone
from hf_latent.training.latent_diffusion import run as stages
from hf_latent.training.latent_diffusion.backbone import build_bart, infill_spans
from hf_latent.training.latent_diffusion.sources import PairArguments, judge_outputs, load_pairs

RECIPES = Path(__file__).resolve().parents[4] / "recipes"
SHORT = {
    "num_train_examples": 60,
    "num_eval_examples": 6,
    "max_steps": 2,
    "logging_steps": 1,
    "warmup_steps": 0,
    "use_cpu": True,
    "per_device_train_batch_size": 4,
    "save_strategy": "no",
    "eval_strategy": "no",
    "disable_tqdm": True,
}
TINY_BART = {
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 64,
}
TINY_LATENT = {"latent_length": 2, "latent_dim": 4}
TINY_DENOISER = {
    "denoiser_hidden_size": 8,
    "denoiser_num_layers": 1,
    "denoiser_num_heads": 2,
    "num_train_timesteps": 8,
}
FEW_STEPS = {"num_inference_steps": 4, "max_new_tokens": 4}


def run(module: Any, recipe: str, folder: Path, *more: str) -> dict[str, Any]:
    short = [word for name, value in SHORT.items() for word in (f"--{name}", str(value))]
    arguments = ["--config", str(RECIPES / recipe), *short, "--output_dir", str(folder), *more]
    return module.main(*module.parse(arguments))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    """All recipes for a CPU, in the order of the documentation."""
    folder = tmp_path_factory.mktemp("latent_diffusion")
    pretrain, autoencoder = folder / "pretrain", folder / "autoencoder"
    results = {
        "pretrain": run(backbone, "latent_diffusion/pretrain.yaml", pretrain, "--model_config", json.dumps(TINY_BART)),
        "autoencoder": run(
            stages,
            "latent_diffusion/autoencoder.yaml",
            autoencoder,
            *("--model_name_or_path", str(pretrain), "--model_config", json.dumps(TINY_LATENT)),
            *("--lora_r", "2", "--eval_generation_steps", "1"),
        ),
        "denoiser": run(
            stages,
            "latent_diffusion/denoiser.yaml",
            folder / "denoiser",
            *("--model_name_or_path", str(autoencoder), "--model_config", json.dumps(TINY_DENOISER)),
            *("--generation_kwargs", json.dumps(FEW_STEPS), "--eval_generation_steps", "1"),
        ),
        "baseline": run(
            backbone,
            "latent_diffusion/baseline.yaml",
            folder / "baseline",
            *("--model_name_or_path", str(pretrain), "--order", "answer_last", "--eval_generation_steps", "1"),
        ),
    }
    return {name: (folder / name, result) for name, result in results.items()}


@pytest.mark.parametrize("name", ["pretrain", "autoencoder", "denoiser", "baseline"])
def test_a_recipe_leaves_everything_beside_the_checkpoint(trained: Any, name: str) -> None:
    folder, results = trained[name]
    assert results == json.loads((folder / "results.json").read_text())
    assert results["steps"] == 2
    assert json.loads((folder / "run.json").read_text())["environment"]["packages"]["torch"] == torch.__version__
    log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log if "loss" in entry] == [1, 2]
    if name != "pretrain":
        assert results["generation"]["num_examples"] == SHORT["num_eval_examples"] * len(results["tasks"])
        assert 0 <= results["generation"]["accuracy"] <= 1
        assert [entry["step"] for entry in log if "eval_accuracy" in entry] == [1, 2]
    assert AutoTokenizer.from_pretrained(folder).vocab_size == answer_first_tokenizer().vocab_size


def test_stages_build_on_each_other(trained: Any) -> None:
    """What one writes, the next one reads; LoRA is merged, the latents' statistics are kept."""
    pretrained = AutoModelForSeq2SeqLM.from_pretrained(trained["pretrain"][0])
    autoencoder = LatentAutoencoder.from_pretrained(trained["autoencoder"][0])
    model = LatentDiffusionForConditionalGeneration.from_pretrained(trained["denoiser"][0])
    encoder = pretrained.get_encoder().state_dict()
    for other in (autoencoder, model.autoencoder):
        for name, value in encoder.items():
            assert torch.equal(other.language_model.get_encoder().state_dict()[name], value), name
    for name, value in autoencoder.state_dict().items():
        assert torch.equal(model.autoencoder.state_dict()[name], value), name
    assert (autoencoder.latent_std != 1).all()
    assert model.config.denoiser_hidden_size == 8


def test_an_autoencoder_is_trained_on(trained: Any, tmp_path: Path) -> None:
    """Its frozen part stays, the rest goes on from where it was and not from random weights."""
    folder = trained["autoencoder"][0]
    before = LatentAutoencoder.from_pretrained(folder).state_dict()
    arguments = ["--model_name_or_path", str(folder), "--model_config", json.dumps(TINY_LATENT)]
    run(stages, "latent_diffusion/autoencoder.yaml", tmp_path, *arguments, "--learning_rate", "1e-4")
    after = LatentAutoencoder.from_pretrained(tmp_path).state_dict()
    frozen = {name for name in before if ".encoder." in name or name.endswith("shared.weight")}
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    trained_on = [name for name in before if "compressor" in name]
    assert any(not torch.equal(before[name], after[name]) for name in trained_on)
    for name in trained_on:  # Adam moves a weight by about the learning rate in each of the two updates
        torch.testing.assert_close(after[name], before[name], atol=1e-3, rtol=0)


def test_an_autoencoder_that_is_trained_on_keeps_its_sizes(trained: Any, tmp_path: Path) -> None:
    arguments = ["--model_name_or_path", str(trained["autoencoder"][0]), "--model_config", '{"latent_length": 3}']
    with pytest.raises(ValueError, match=r"`model_config` must agree .*'latent_length': 2.*got .*'latent_length': 3"):
        run(stages, "latent_diffusion/autoencoder.yaml", tmp_path, *arguments)


def test_samplers_are_compared_once_and_the_denoising_is_shown(trained: Any) -> None:
    """A second run of the same command measures nothing: seconds would differ."""
    folder = trained["denoiser"][0]
    recipe = runpy.run_path(str(RECIPES / "studies/latent_diffusion_samplers.py"))
    command = ["--folder", str(folder), "--num_problems", "3", "--batch_size", "2", "--full", "--shown_of", "4"]
    recipe["main"](recipe["parse"](command))
    first = json.loads((folder / "samplers.json").read_text())
    settings = [tuple(result["settings"].values()) for result in first["results"]]
    assert settings == [*((name, n) for name in ("ddim", "dpmsolver++", "ddpm") for n in (1, 2)), ("ddpm", 8)]
    assert all(result["num_examples"] == 3 for result in first["results"])
    recipe["main"](recipe["parse"](command))
    assert json.loads((folder / "samplers.json").read_text()) == first
    shown = json.loads((folder / "denoising.json").read_text())["shown"]
    assert [row["timestep"] for row in shown[0]["steps"]] == [7, 5, 3, 1]
    for picture in ("samplers.png", "denoising.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_a_denoiser_needs_an_autoencoder(trained: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be what the stage 'autoencoder' has written"):
        run(
            stages,
            "latent_diffusion/denoiser.yaml",
            tmp_path,
            *("--model_name_or_path", str(trained["pretrain"][0])),
        )


@pytest.mark.parametrize("size", ["base", "large"])
def test_recipes_for_real_weights_can_be_read(size: str) -> None:
    """They are run by users: here only that every name in them exists and the shapes fit."""
    for stage in ("autoencoder", "denoiser"):
        path = RECIPES / f"latent_diffusion/bart_{size}_{stage}.yaml"
        script, training = stages.parse(["--config", str(path), "--bf16", "false", "--use_cpu"])
        assert script.model_name_or_path
        assert training.stage == stage
        assert AutoConfig.for_model("latent_diffusion", **script.model_config)


def test_local_files_are_data_too(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"question": "1 + 1", "reply": "2"}\n' * 3)
    arguments = PairArguments(
        train_file=str(tmp_path / "data.jsonl"), eval_file=str(tmp_path / "data.jsonl"), input_column="question"
    )
    train, test = load_pairs(arguments)
    assert (len(train), len(test)) == (3, 3)
    judged = judge_outputs(["2", "3", "2"], test, list(test["reply"]), arguments)
    assert judged["exact"] == pytest.approx(2 / 3)
    assert "accuracy" not in judged and "chrf" not in judged
    arguments.text_metric = "chrf"
    outputs = ["2", "31", "2"]
    expected = text_similarity(outputs, list(test["reply"]))
    assert 0 < judge_outputs(outputs, test, list(test["reply"]), arguments)["chrf"] == expected < 100


def test_outputs_of_several_tasks_are_judged_for_each(tmp_path: Path) -> None:
    arguments = PairArguments(tasks=["rotation", "double_digit_additions"], num_eval_examples=4, num_train_examples=4)
    _, test = load_pairs(arguments)
    targets = list(test["completion"])
    outputs = [target if i < 4 else f"0 {target}" for i, target in enumerate(targets)]
    outputs[0] = f"{targets[0]} up"
    judged = judge_outputs(outputs, test, targets, arguments)
    assert (judged["accuracy_rotation"], judged["exact_rotation"]) == (1.0, 0.75)
    assert judged["accuracy_double_digit_additions"] == 0.0
    assert judged["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of `tasks`, `dataset_name` and `train_file`, got none"),
        ({"tasks": ["rotation"], "train_file": "x"}, r"got \['tasks', 'train_file'\]"),
        ({"tasks": ["chess"]}, "`kind` must be one of"),
        ({"tasks": ["rotation"], "text_metric": "meteor"}, "`text_metric` must be one of"),
        ({"tasks": ["rotation"], "max_length": 0}, "`max_length` must be at least 1, got 0"),
    ],
)
def test_bad_sources_raise(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PairArguments(**arguments)


def test_bad_arguments_of_a_recipe_raise() -> None:
    with pytest.raises(ValueError, match="`model_name_or_path` must name a BART or T5"):
        stages.LatentDiffusionArguments(tasks=["rotation"])
    with pytest.raises(ValueError, match=r"either `model_config` .* got None and None"):
        backbone.BackboneArguments(tasks=["rotation"])
    for change, message in (
        ({"objective": "guess"}, "`objective` must be one of"),
        ({"mask_ratio": 1.0}, r"`mask_ratio` must be in \(0, 1\), got 1.0"),
        ({"num_corruptions": 0}, "`num_corruptions` at least 1, got 3.0 and 0"),
    ):
        with pytest.raises(ValueError, match=message):
            backbone.BackboneArguments(tasks=["rotation"], model_config={}, **change)
    with pytest.raises(ValueError, match=r"`model_config` has \['d_modell'\]"):
        build_bart({"d_modell": 3}, answer_first_tokenizer())


def test_spans_are_masked_at_the_rate_and_the_rest_stays_in_order() -> None:
    """1,000 texts of 20 tokens: 30 % of the tokens are gone, one mask stands for each span."""
    ids = [0, *range(10, 30), 2]
    gone = masks = 0
    for seed in range(1000):
        noisy = infill_spans(ids, random.Random(seed), mask_token_id=4, mask_ratio=0.3, mean_span_length=3.0)
        assert (noisy[0], noisy[-1]) == (0, 2)
        kept = [token for token in noisy if token != 4]
        assert kept == [token for token in ids if token in kept]  # in order, nothing new
        gone += len(ids) - len(kept)
        masks += noisy.count(4)
    assert 0.22 < gone / 20_000 < 0.3  # less than 0.3: spans of length 0 are counted as one
    assert 1.5 < gone / masks < 3.5
    assert infill_spans(ids, random.Random(5), mask_token_id=4, mask_ratio=0.3, mean_span_length=3.0) == infill_spans(
        ids, random.Random(5), mask_token_id=4, mask_ratio=0.3, mean_span_length=3.0
    )


FULL_SIZES = {
    # Shapes of facebook/bart-base and facebook/bart-large, with random weights; of the latter's layers two.
    "base": {"d_model": 768, "layers": 6, "heads": 12, "ffn": 3072, "vocab_size": 50265},
    "large": {"d_model": 1024, "layers": 2, "heads": 16, "ffn": 4096, "vocab_size": 50265},
}


@pytest.mark.slow
@pytest.mark.parametrize("size", list(FULL_SIZES))
def test_full_sizes_train_one_step_of_each_stage_and_generate(size: str, tmp_path: Path) -> None:
    """A user with the real weights changes the path and nothing else: the recipe files, but for steps and batch."""
    shape = FULL_SIZES[size]
    config = BartConfig(
        vocab_size=shape["vocab_size"],
        d_model=shape["d_model"],
        **{f"{side}_layers": shape["layers"] for side in ("encoder", "decoder")},
        **{f"{side}_attention_heads": shape["heads"] for side in ("encoder", "decoder")},
        **{f"{side}_ffn_dim": shape["ffn"] for side in ("encoder", "decoder")},
    )
    BartForConditionalGeneration(config).save_pretrained(tmp_path / "bart")
    answer_first_tokenizer().save_pretrained(tmp_path / "bart")
    few = "--num_train_examples 2 --num_eval_examples 1 --max_steps 1 --per_device_train_batch_size 2 --use_cpu"
    few += (
        " --bf16 false --save_strategy no --eval_strategy no --eval_generation_steps 0 --optim sgd --disable_tqdm true"
    )
    generate = json.dumps({"max_new_tokens": 3})
    for stage, source in (("autoencoder", "bart"), ("denoiser", "autoencoder")):
        if stage == "denoiser":
            generate = json.dumps({"max_new_tokens": 3, "num_inference_steps": 2, "sampler": "dpmsolver++"})
        arguments = ["--config", str(RECIPES / f"latent_diffusion/bart_{size}_{stage}.yaml"), *few.split()]
        paths = ["--model_name_or_path", str(tmp_path / source), "--output_dir", str(tmp_path / stage)]
        results = stages.main(*stages.parse([*arguments, *paths, "--generation_kwargs", generate]))
        assert results["steps"] == 1
        assert results["generation"]["num_examples"] == 1
        assert results["held_out"]["eval_loss"] > 0
