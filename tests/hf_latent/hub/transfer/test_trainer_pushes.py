"""What trainers push is what a bundle holds, and a push that fails does not cost the training."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import PreTrainedModel

from hf_latent import LladaConfig, LladaForMaskedDiffusion
from hf_latent.hub import HubError, bundle
from hf_latent.tasks import SudokuTask, sudoku_tokenizer
from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer


def tiny_model() -> PreTrainedModel:
    torch.manual_seed(0)
    tokenizer = sudoku_tokenizer(4)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("mask", "pad", "eos")}
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LladaForMaskedDiffusion(LladaConfig(vocab_size=len(tokenizer), **sizes, **special))


def make_trainer(folder: Path, model: Any = None, peft_config: Any = None, **arguments: Any) -> MaskedDiffusionTrainer:
    defaults = {"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 4, "push_to_hub": True}
    defaults |= {"hub_model_id": "user/run", "hub_always_push": True, "report_to": "none", "disable_tqdm": True}
    return MaskedDiffusionTrainer(
        tiny_model() if model is None else model,
        MaskedDiffusionConfig(str(folder), use_cpu=True, **(defaults | arguments)),
        train_dataset=SudokuTask(4).dataset(8, 0, num_givens=(8, 10)),
        processing_class=sudoku_tokenizer(4),
        peft_config=peft_config,
    )


@pytest.mark.parametrize("strategy", ["checkpoint", "all_checkpoints"])
def test_strategies_that_publish_optimizer_states_are_refused(hub: Any, tmp_path: Path, strategy: str) -> None:
    """Before the repository is made."""
    with pytest.raises(ValueError, match=f"`hub_strategy`='{strategy}' publishes optimizer states.*'every_save'"):
        make_trainer(tmp_path / "run", hub_strategy=strategy)
    assert not hub.repositories
    make_trainer(tmp_path / "run", hub_strategy=strategy, push_to_hub=False)


def test_only_the_checkpoint_and_its_card_are_pushed(hub: Any, tmp_path: Path) -> None:
    """A run's folder also has pickles, and files that tell about the machine; a card by hand stays."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# By hand\n")
    (folder / "run.json").write_text(json.dumps({"output_dir": str(folder)}))
    (folder / "logits.npy").write_bytes(b"x")
    trainer = make_trainer(folder, hub_strategy="end")
    trainer.train()
    assert (folder / "checkpoint-2" / "optimizer.pt").exists()
    assert hub.repository("user/run").history() == []
    trainer.push_to_hub(commit_message="Done", revision="trained")
    assert (folder / "training_args.bin").exists()
    repository = hub.repository("user/run")
    assert repository.history() == [] and repository.history("trained") == ["Done"]
    files = repository.contents("trained")
    expected = bundle(trainer.model, sudoku_tokenizer(4), tmp_path / "bundle", verify=False)
    assert set(files) == {path.name for path in expected.iterdir()}
    # Training has set padding and truncation of the tokenizer; the record also names the commit of this checkout.
    for name in set(files) - {"README.md", "tokenizer.json", "bundle.json"}:
        assert files[name] == (expected / name).read_bytes(), name
    records = [json.loads(text)["sha256"] for text in (files["bundle.json"], (expected / "bundle.json").read_bytes())]
    assert records[0] == records[1] and "modeling_llada.py" in records[0]
    assert files["README.md"] == b"---\nlicense: mit\n---\n# By hand\n"
    assert not list(folder.glob(".push.*"))


def test_a_failed_push_is_a_warning_during_training_and_an_error_at_the_end(
    hub: Any, tmp_path: Path, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    hub.fail("POST", "/commit/", 500, times=100, message=f"no, {token}")
    trainer = make_trainer(tmp_path / "run")
    trainer.train()
    assert trainer.state.global_step == 2
    assert "A push during training failed; training goes on. user/run: Not pushed" in caplog.text
    with pytest.raises(HubError, match="The Hub has a problem of its own"):
        trainer.push_to_hub()
    assert token not in caplog.text
    assert hub.repository("user/run").contents() == {}
    assert (tmp_path / "run" / "model.safetensors").exists()
    assert not list((tmp_path / "run").glob(".push.*"))
    hub.faults.clear()
    job = trainer.push_to_hub(blocking=False)
    assert job.result().commit_oid == hub.repository("user/run").find("main")
    assert {"model.safetensors", "modeling_llada.py", "README.md"} <= set(hub.repository("user/run").contents())


def test_an_adapter_names_a_base_that_others_have(hub: Any, tmp_path: Path) -> None:
    """It was trained from a folder; during training that is a warning, because nothing is lost by it."""
    base = bundle(tiny_model(), sudoku_tokenizer(4), tmp_path / "base", verify=False)
    lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = make_trainer(tmp_path / "run", model=str(base), peft_config=lora)
    trainer.train()
    with pytest.raises(ValueError, match=r"has the local path .*`base_model="):
        trainer.push_to_hub()
    assert hub.repository("user/run").history() == []
    trainer.push_to_hub(base_model="user/base")
    files = hub.repository("user/run").contents()
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "user/base"
    assert {"adapter_model.safetensors", "tokenizer.json", "README.md"} <= set(files)
    assert str(tmp_path).encode() not in b"".join(files.values())
    config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)  # what is here still loads here


def test_what_a_killed_push_has_left_goes_with_the_next(hub: Any, tmp_path: Path) -> None:
    """It holds a copy of the weights, and nobody would look for it: its name is hidden."""
    trainer = make_trainer(tmp_path / "run", hub_strategy="end")
    trainer.train()
    script = (
        "import os, pathlib, sys; from hf_latent.training.common.publishing import gather_files; "
        "folder = pathlib.Path(sys.argv[1]); scratch = gather_files(folder, folder); os.kill(os.getpid(), 9)"
    )
    trainer.save_model()
    killed = subprocess.run([sys.executable, "-c", script, tmp_path / "run"], check=False)
    (left,) = (tmp_path / "run").glob(".push.*")
    assert killed.returncode == -9 and (left / "push" / "model.safetensors").is_file()
    trainer.push_to_hub()
    assert "model.safetensors" in hub.repository("user/run").contents()
    assert not list((tmp_path / "run").glob(".push.*"))
