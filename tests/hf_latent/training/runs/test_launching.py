"""Several processes train together or not at all."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_latent.training.runs.launching import check_launch, check_strategy

RECIPES = Path(__file__).resolve().parents[4] / "recipes" / "accelerate"
ONE = SimpleNamespace(world_size=1, device=torch.device("cpu"), fsdp=None, deepspeed=None)
LAUNCHER = (
    "WORLD_SIZE",
    "MASTER_ADDR",
    "ACCELERATE_MIXED_PRECISION",
    "ACCELERATE_USE_FSDP",
    "ACCELERATE_USE_DEEPSPEED",
)
WHO = """
from transformers import TrainingArguments
print(f"processes {TrainingArguments('.', use_cpu=True).world_size}\\n")
"""


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


def test_one_process_that_was_asked_for_passes() -> None:
    check_launch(ONE)


def test_processes_that_would_each_train_alone_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPUs without `use_cpu` each sees all of the data and writes the same files, and no gradient is shared."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"2 processes were launched .*use_cpu=True"):
        check_launch(ONE)
    check_launch(SimpleNamespace(world_size=2))


def test_one_process_in_the_place_of_several_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `accelerate launch` makes of MULTI_CPU: an address for several processes, and one process."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    check_launch(ONE)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    with pytest.raises(ValueError, match="has started one"):
        check_launch(ONE)


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_a_sharding_that_accelerate_drops_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    accelerator = SimpleNamespace(distributed_type=SimpleNamespace(value="MULTI_CPU"))
    trainer = SimpleNamespace(args=ONE, is_fsdp_enabled=False, is_deepspeed_enabled=False, accelerator=accelerator)
    check_strategy(trainer)
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(ValueError, match=f"{name} was asked for and is not in use"):
        check_strategy(trainer)


def test_a_trainer_asks(make_trainer: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP"):
        make_trainer()  # type: ignore[operator]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["cpu.yaml", "ddp.yaml"])
def test_what_the_recipes_say_of_cpus_starts_two_processes(tmp_path: Path, recipe: str) -> None:
    text = (RECIPES / recipe).read_text().replace("num_processes: 8", "num_processes: 2")
    (tmp_path / "launch.yaml").write_text(text if "use_cpu" in text else f"{text}use_cpu: true\n")
    (tmp_path / "who.py").write_text(WHO)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", "launch.yaml", "who.py"]
    run = subprocess.run(launch, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert run.stdout.count("processes 2") == 2, run.stderr[-2000:]
