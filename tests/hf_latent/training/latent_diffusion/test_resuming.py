"""Latent diffusion goes on where it was killed, its moving average with it, and takes no streams."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import BartConfig, BartForConditionalGeneration

from hf_latent import LatentAutoencoder, LatentDiffusionForConditionalGeneration
from hf_latent.training.latent_diffusion.config import LatentDiffusionTrainingConfig
from hf_latent.training.latent_diffusion.trainer import LatentDiffusionTrainer

SIZES = {"latent_length": 2, "latent_dim": 4, "denoiser_hidden_size": 16, "denoiser_num_layers": 1}
ROWS = Dataset.from_list([{"input_ids": [0, 5 + i, 2], "labels": [0, 9 - i, 2]} for i in range(6)])


class KilledWhileSaving(LatentDiffusionTrainer):
    """Whose process ends with the weights of step 4 and their average on the disk, and no optimizer."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if output_dir.endswith("checkpoint-4"):
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_optimizer_and_scheduler(output_dir)


def make_trainer(folder: Path, kind: type = LatentDiffusionTrainer, data: Any = ROWS) -> Any:
    torch.manual_seed(0)
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    ids = {"vocab_size": 16, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    bart = BartForConditionalGeneration(BartConfig(d_model=16, max_position_embeddings=16, **heads, **layers, **ids))
    autoencoder = LatentAutoencoder.from_encoder_decoder(bart, **SIZES, denoiser_num_heads=2, num_train_timesteps=20)
    model = LatentDiffusionForConditionalGeneration.from_autoencoder(autoencoder)
    options = {"save_strategy": "steps", "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 2}
    options |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True, "lr_scheduler_type": "constant"}
    args = LatentDiffusionTrainingConfig(str(folder), stage="denoiser", max_steps=6, ema_decay=0.9, **options)
    return kind(model, args, train_dataset=data)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_run_that_was_killed_inside_a_save_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole")
    whole.train()
    child = os.fork()
    if child == 0:
        try:
            make_trainer(tmp_path / "cut", KilledWhileSaving).train()
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-2"]
    rest = make_trainer(tmp_path / "cut")
    rest.train()
    losses = [[entry["loss"] for entry in t.state.log_history if "loss" in entry] for t in (whole, rest)]
    assert losses[0] == losses[1]
    with whole.averaged(), rest.averaged():
        for name, value in whole.model.state_dict().items():
            assert torch.equal(rest.model.state_dict()[name], value), name


def test_a_stream_is_refused_by_name(tmp_path: Path) -> None:
    """Latents are encoded once, for all examples."""
    stream = IterableDataset.from_generator(lambda: iter(ROWS))
    with pytest.raises(ValueError, match=r"`train_dataset` must be a datasets\.Dataset, got IterableDataset"):
        make_trainer(tmp_path, data=stream)
