"""What a training leaves: a push takes the checkpoint of it and says what it left out; advice works when followed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from typer.testing import CliRunner

from hf_latent import cli
from hf_latent.hub import bundle, push
from hf_latent.hub.safety.training_files import is_training_file, leave_out

# In a folder beside the checkpoint, of trainers, accelerate, FSDP, DeepSpeed, trackers and editors.
LEFT = [
    *(
        "optimizer.pt",
        "optimizer_0.pt",
        "optimizer.bin",
        "scheduler.pt",
        "scheduler.bin",
        "scaler.pt",
        "rng_state.pth",
    ),
    *(
        "rng_state_3.pth",
        "random_states_0.pkl",
        "training_args.bin",
        "trainer_state.json",
        "latest",
        "zero_to_fp32.py",
    ),
    *(
        "events.out.tfevents.1.host.7.0",
        "custom_checkpoint_0.pkl",
        "checkpoint-2/optimizer.pt",
        "checkpoint-2/deep/x.bin",
    ),
    *("runs/now/events.out.tfevents.1", "logs/train.log", "wandb/run-1/files/conda.yaml", "mlruns/0/meta.yaml"),
    *("global_step5/mp_rank_00_model_states.pt", "pytorch_model_fsdp_0/__0_0.distcp", "optimizer_0/__0_0.distcp"),
    *("_push-abc/model.safetensors", ".mine.0123abcd.tmp/model.safetensors", ".venv/lib/x.py", ".idea/workspace.xml"),
]
KEPT = [
    *("model.safetensors", "config.json", "run.json", "results.json", "training_log.jsonl", "training_curve.png"),
    *("pytorch_model.bin", "optimizer_study.md", "latest.md", "plots/runs.png", "catalogs/a.json", ".gitattributes"),
]


@pytest.fixture
def folder(bundled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundled, tmp_path / "mine"))


def write(folder: Path, names: list[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(argument) for argument in arguments])


def test_the_rule_says_what_is_of_a_training_run() -> None:
    assert [name for name in LEFT if not is_training_file(name)] == []
    assert [name for name in KEPT if is_training_file(name)] == []


@pytest.mark.parametrize("large", [False, True])
def test_a_push_leaves_them_out_and_says_so(hub: Any, folder: Path, large: bool) -> None:
    """Each of them made a push fail, or was sent; in one commit and in several."""
    expected = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    write(folder, LEFT)
    done = run("push", folder, "user/mine", "--no-verify", *(["--large"] if large else []))
    assert done.exit_code == 0, done.output
    assert set(hub.repository("user/mine").contents()) - {".gitattributes"} == expected
    plan = push(folder, "user/mine", verify=False, dry_run=True)
    assert set(plan.left_out) == set(LEFT)
    said = next(line for line in done.output.splitlines() if line.startswith("Left out, as it is of the training run"))
    assert "checkpoint-2/ (2 files)" in said and "optimizer.pt" in said and "trainer_state.json" in said
    assert (folder / "optimizer.pt").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, bundled: Path) -> Path:
    """The output folder of transformers' own trainer, with a checkpoint."""
    model = AutoModelForCausalLM.from_pretrained(bundled)
    rows = [{"input_ids": [3, 4, 5], "attention_mask": [1, 1, 1], "labels": [3, 4, 5]}] * 4
    folder = tmp_path_factory.mktemp("trained") / "run"
    arguments = TrainingArguments(str(folder), max_steps=2, save_steps=1, report_to=[], use_cpu=True, logging_steps=1)
    trainer = Trainer(model, arguments, train_dataset=rows)
    trainer.train()
    trainer.save_model()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for place in (folder, folder / "checkpoint-1", folder / "checkpoint-2"):
            shutil.copy2(bundled / name, place / name)
    return folder


@pytest.mark.parametrize("part", [".", "checkpoint-2"])
def test_what_a_trainer_writes_is_pushed_and_bundled_as_it_is(
    hub: Any, trained: Path, tmp_path: Path, part: str
) -> None:
    assert (trained / part / "training_args.bin").exists() and (trained / "checkpoint-2" / "optimizer.pt").exists()
    done = run("push", trained / part, "user/mine", "--no-verify")
    assert done.exit_code == 0, done.output
    files = hub.repository("user/mine").contents()
    assert {"model.safetensors", "config.json", "modeling_llada.py", "tokenizer.json"} <= set(files)
    assert not [name for name in files if is_training_file(name)]
    done = run("bundle", trained / part, tmp_path / "new")
    assert done.exit_code == 0, done.output
    assert not [path for path in (tmp_path / "new").rglob("*") if is_training_file(path.name)]
    weights = load_file(tmp_path / "new" / "model.safetensors")
    assert all(
        torch.equal(weights[name], tensor) for name, tensor in load_file(trained / part / "model.safetensors").items()
    )


def test_an_interrupted_training_is_told_which_checkpoint_there_is_and_that_works(
    hub: Any, trained: Path, tmp_path: Path
) -> None:
    """Its output folder has no weights of its own; the advice is typed as it is given."""
    stopped = tmp_path / "stopped"
    for step in (1, 2):
        shutil.copytree(trained / f"checkpoint-{step}", stopped / f"checkpoint-{step}")
    for command in (["bundle", stopped, tmp_path / "new"], ["push", stopped, "user/mine", "--no-verify"]):
        told = str(run(*command).exception)
        assert "no weights of its own" in told and "checkpoint-2" in told
        advised = told.partition("`")[2].partition("`")[0].replace("user/name", "user/mine").split()
        assert advised[0] == "hf-latent"
        done = run(*advised[1:])
        assert done.exit_code == 0, done.output
    assert (tmp_path / "new" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("left", "said"),
    [
        (
            "checkpoint-2/pytorch_model_fsdp_0/__0_0.distcp",
            "accelerate merge-weights .*checkpoint-2/pytorch_model_fsdp_0",
        ),
        ("global_step2/zero_pp_rank_0_mp_rank_00_model_states.pt", "python .*/zero_to_fp32.py .*--safe_serialization"),
    ],
)
def test_pieces_of_weights_are_named_with_what_puts_them_together(
    hub: Any, tmp_path: Path, left: str, said: str
) -> None:
    write(tmp_path / "pieces", [left])
    for command in (["bundle", tmp_path / "pieces", tmp_path / "new"], ["push", tmp_path / "pieces", "user/mine"]):
        with pytest.raises(ValueError, match=said):
            raise run(*command).exception


def test_pickled_weights_become_a_folder_that_can_be_pushed(hub: Any, folder: Path, tmp_path: Path) -> None:
    """What the refusal says, done."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"pytorch_model.bin is a pickle.*`hf-latent bundle FOLDER NEW`"):
        push(folder, "user/mine")
    done = run("bundle", folder, tmp_path / "new")
    assert done.exit_code == 0, done.output
    done = run("push", tmp_path / "new", "user/mine", "--no-verify")
    assert done.exit_code == 0, done.output


def test_what_lora_leaves_is_pushed_and_its_merge_bundled(hub: Any, bundled: Path, tmp_path: Path) -> None:
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(bundled), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    )
    adapter = tmp_path / "adapter"
    model.save_pretrained(adapter)
    write(adapter, ["checkpoint-1/optimizer.pt", "training_args.bin", "trainer_state.json"])
    with pytest.raises(ValueError, match=r"base model is .*--base-model user/model|has the local path .*--base-model"):
        push(adapter, "user/adapter")
    done = run("push", adapter, "user/adapter", "--base-model", "user/base")
    assert done.exit_code == 0, done.output
    files = hub.repository("user/adapter").contents()
    assert set(files) - {".gitattributes"} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == str(bundled)
    done = run("bundle", bundled, tmp_path / "merged", "--adapter", adapter)
    assert done.exit_code == 0, done.output
    inside = AutoModelForCausalLM.from_pretrained(bundled)
    inside.load_adapter(str(adapter))
    with pytest.raises(ValueError, match="hf-latent bundle BASE FOLDER --adapter ADAPTER"):
        bundle(inside, None, tmp_path / "other")


@pytest.mark.parametrize("named", ["absolute", "relative"])
def test_the_base_beside_an_adapter_is_pushed_by_itself(hub: Any, bundled: Path, tmp_path: Path, named: str) -> None:
    """
    Trainers write a base that was converted in their process to `base`. peft takes `base_model_name_or_path` for a
    name on the Hub, never for a folder of the adapter's repository: `base` there would be somebody else's model.
    """
    output = tmp_path / "output"
    base = Path(shutil.copytree(bundled, output / "base"))
    lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), lora).save_pretrained(output)
    config = json.loads((output / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base) if named == "absolute" else "base"
    (output / "adapter_config.json").write_text(json.dumps(config))
    (output / "README.md").write_text("# An adapter\n")
    write(output, ["checkpoint-1/optimizer.pt"])
    said = str(run("push", output, "user/adapter").exception)
    assert "--base-model user/model" in said
    if named == "relative":
        assert f"push the base first (`hf-latent push {base} user/model`)" in said
    done = run("push", output, "user/adapter", "--base-model", "user/base")
    assert done.exit_code == 0, done.output
    assert f"base/ ({len([path for path in base.rglob('*') if path.is_file()])} files)" in done.output
    files = hub.repository("user/adapter").contents()
    assert set(files) - {".gitattributes"} == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "user/base"
    done = run("push", base, "user/base", "--no-verify")
    assert done.exit_code == 0, done.output


def test_a_folder_called_base_beside_a_model_is_its_own() -> None:
    files = {name: Path(name) for name in ("config.json", "base/config.json", "base/notes.md")}
    assert leave_out(files) == (files, ())
    assert leave_out(files | {"adapter_config.json": Path("x")})[1] == ("base/config.json", "base/notes.md")
