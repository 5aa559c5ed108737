"""Settings of latent diffusion's two stages that cannot be."""

from pathlib import Path
from typing import Any

import pytest

from hf_latent.training.latent_diffusion.config import LatentDiffusionTrainingConfig


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stage": "third"}, r"`stage` must be one of \('autoencoder', 'denoiser'\), got 'third'"),
        ({"latent_statistics": "row"}, "`latent_statistics` must be one of"),
        ({"reconstruct": "input"}, "`reconstruct` must be one of"),
        ({"latent_noise": -1.0}, "`latent_noise` must be at least 0, got -1.0"),
        ({"stage": "denoiser", "condition_dropout": 2.0}, r"`condition_dropout` must be in \[0, 1\], got 2.0"),
        ({"stage": "denoiser", "ema_decay": 1.0}, r"`ema_decay` must be in \(0, 1\), got 1.0"),
        (
            {"stage": "denoiser", "latent_noise": 0.5},
            "`latent_noise` is read by the stage 'autoencoder' only",
        ),
        ({"ema_decay": 0.9}, "`ema_decay` is read by the stage 'denoiser' only"),
        ({"encode_batch_size": 0}, "`encode_batch_size` must be at least 1, got 0"),
        ({"noise_seed": -1}, r"`noise_seed` must be in \[0, 2\*\*63\), got -1"),
        ({"remove_unused_columns": True}, "`remove_unused_columns` must be False"),
        ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` must be 0, got 0.1"),
    ],
)
def test_impossible_settings_raise(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        LatentDiffusionTrainingConfig(output_dir=str(tmp_path), **arguments)
