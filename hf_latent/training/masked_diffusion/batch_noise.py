"""The noise of a trainer's batch: what is drawn for its rows from seed, pass and example, whatever the batch."""

from typing import Any

import torch
from torch import nn

from hf_latent.data.corruption import sample_block_sizes, sample_lengths
from hf_latent.training.common.objectives import IGNORE_INDEX
from hf_latent.training.masked_diffusion.checks import is_block_causal
from hf_latent.training.masked_diffusion.noising import NoisyRows, add_noise, blocks_of
from hf_latent.training.runs.passes import PASS

EVAL_EPOCH = -1  # evaluation meets the same noise after every epoch, and never that of training


class BatchNoiseMixin:
    """Which tokens of a batch exist, are supervised and are masked. Comes before transformers' `Trainer`."""

    args: Any
    model: nn.Module
    passes: Any
    state: Any

    @property
    def _is_block_causal(self) -> bool:
        return is_block_causal(self.model)

    def _draw(self, inputs: dict[str, Any]) -> dict[str, int]:
        """Seed and pass over the data, of what is drawn for a batch."""
        epoch = inputs.get(PASS, self.passes.current) if self.model.training else EVAL_EPOCH
        return {"seed": self.args.noise_seed, "epoch": epoch}

    def _attended(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Tokens `[B, L]` that exist: not padding, not behind the end of a row that is cut at random."""
        attended = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
        if not self.model.training or self.args.random_length_share == 0:
            return attended
        share = self.args.random_length_share
        lengths = sample_lengths(inputs["example_id"], attended.sum(-1), share, **self._draw(inputs))  # [B]
        return attended & (attended.cumsum(-1) <= lengths[:, None])

    def _supervised(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Tokens `[B, L]` that may be masked and are predicted then."""
        return (inputs["labels"] != IGNORE_INDEX) & self._attended(inputs)

    def _add_noise(
        self, inputs: dict[str, torch.Tensor], attended: torch.Tensor, supervised: torch.Tensor
    ) -> NoisyRows:
        """The noise of a batch; of block-causal models every block has a time of its own unless told otherwise."""
        blocks = None
        if self._is_block_causal and self.args.time_per != "sequence":
            blocks = blocks_of(self._positions(inputs, attended), self._block_size(inputs))
        return add_noise(
            inputs["input_ids"],
            supervised,
            inputs["example_id"],
            self.args,
            mask_token_id=self.model.config.mask_token_id,
            blocks=blocks,
            is_training=self.model.training,
            **self._draw(inputs),
        )

    def _positions(self, inputs: dict[str, torch.Tensor], attended: torch.Tensor) -> torch.Tensor:
        """Positions `[B, L]`, which padding does not move."""
        if "position_ids" in inputs:
            return inputs["position_ids"].expand(attended.shape)
        return (attended.long().cumsum(-1) - 1).clamp(min=0)

    def _block_size(self, inputs: dict[str, torch.Tensor]) -> int | torch.Tensor:
        """Block size of this step, or of every row `[B]`: the configuration's, or one that is drawn."""
        args = self.args
        if args.block_sizes is None or not self.model.training:
            return self.model.config.block_size
        if args.block_size_per == "step":
            return sample_block_sizes(args.block_sizes, seed=args.noise_seed, step=self.state.global_step)
        draw = self._draw(inputs)
        return sample_block_sizes(
            args.block_sizes, seed=draw["seed"], step=draw["epoch"], example_ids=inputs["example_id"]
        )


__all__ = ["EVAL_EPOCH", "BatchNoiseMixin"]
