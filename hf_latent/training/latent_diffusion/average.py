"""An exponential moving average of the denoiser: diffusers' `EMAModel`, kept with the trainer's checkpoints."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerCallback

from hf_latent.modeling.atomic import replacing

FILE = "denoiser_average.safetensors"


class DenoiserAverage(TrainerCallback):
    """
    Average the parameters of `module` after every optimizer step.

    The decay of step n is `min(decay, n / (9 + n))`, of the first step 0: the average forgets where it started.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = module
        self.average = EMAModel(module.parameters(), decay=decay)

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Follow the model to its device."""
        self.average.to(next(self.module.parameters()).device)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Take the step's weights in."""
        self.average.step(self.module.parameters())

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The module holds the averaged weights inside of the block, its own again behind it."""
        self.average.store(self.module.parameters())
        self.average.copy_to(self.module.parameters())
        try:
            yield
        finally:
            self.average.restore(self.module.parameters())

    def save(self, folder: Path) -> None:
        """Write beside, then rename."""
        names = [name for name, _ in self.module.named_parameters()]
        tensors = {n: p.contiguous() for n, p in zip(names, self.average.shadow_params, strict=True)}
        with replacing(folder / FILE) as beside:
            save_file(tensors, beside, metadata={"optimization_step": str(self.average.optimization_step)})

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote; `ValueError` where it is missing: the average would start anew in silence."""
        if not (folder / FILE).exists():
            raise ValueError(f"{folder} has no {FILE}: it was trained without `ema_decay`; resume without it, too.")
        with safe_open(folder / FILE, "pt") as file:
            self.average.optimization_step = int(file.metadata()["optimization_step"])
            device = self.average.shadow_params[0].device
            self.average.shadow_params = [
                file.get_tensor(name).to(device, torch.float32) for name, _ in self.module.named_parameters()
            ]


__all__ = ["FILE", "DenoiserAverage"]
