"""Two processes take the step that one process takes."""

import json
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset

SCRIPT = """
import json, os, sys
import torch
from datasets import Dataset
from hf_latent import LladaConfig, LladaForMaskedDiffusion
from hf_latent.tasks import sudoku_tokenizer
from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer


def step(folder, normalization, world):
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = LladaForMaskedDiffusion(LladaConfig(
        vocab_size=15, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, init_std=0.3,
        mask_token_id=2, pad_token_id=0, eos_token_id=1))
    config = MaskedDiffusionConfig(
        folder, use_cpu=True, max_steps=1, logging_steps=1, optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
        lr_scheduler_type="constant", per_device_train_batch_size=8 // world, disable_tqdm=True, save_strategy="no",
        report_to="none", loss_normalization=normalization, train_sampling_strategy="sequential")
    data = Dataset.from_list(json.load(open(folder + "/rows.json")))
    trainer = MaskedDiffusionTrainer(
        model, config, train_dataset=data, eval_dataset=data.select(range(7)), processing_class=sudoku_tokenizer(4))
    before = trainer.evaluate()
    trainer.train()
    log = next(entry for entry in trainer.state.log_history if "loss" in entry)
    result = {name: log[name] for name in ("loss", "nll", "masked_accuracy", "mask_ratio", "num_tokens")}
    result |= {name: before[name] for name in ("eval_loss", "eval_nll")}
    return result | {f"weight {i}": p.sum().item() for i, p in enumerate(model.parameters())}


if __name__ == "__main__":
    world, folder = int(os.environ["WORLD_SIZE"]), sys.argv[1]
    results = {normalization: step(folder, normalization, world) for normalization in ("token", "sequence")}
    if os.environ["RANK"] == "0":
        json.dump(results, open(folder + "/results.json", "w"))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_two_processes_take_the_same_step_as_one(tmp_path: Path, ragged_dataset: Dataset) -> None:
    """
    The divisor counts all processes and DDP averages: without the correction loss and gradient are halved. The seven
    evaluation rows do not divide by two: a row that is repeated to fill the last batch must not count twice. And an
    evaluation before the first step must not keep the model from being wrapped in DDP, as it does in Trainer.
    """
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    (tmp_path / "rows.json").write_text(json.dumps(ragged_dataset.to_list()[:8]))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={free_port()}"]
    subprocess.run([*launch, str(script), str(tmp_path)], check=True, timeout=300)
    two = json.loads((tmp_path / "results.json").read_text())
    step = runpy.run_path(str(script))["step"]
    for normalization in ("token", "sequence"):
        one = step(str(tmp_path), normalization, 1)
        assert one == pytest.approx(two[normalization], rel=1e-4, abs=1e-4), normalization
