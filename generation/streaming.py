"""Feeds a transformers streamer (`put`, `put_draft`, `end`) from the denoising loop."""

from typing import Any

import torch

from hf_latent.generation.state.progress import Progress


class DraftStream:
    """
    Sends what is final to `streamer.put` and the block being written to `streamer.put_draft`.

    Final is what lies before the current block; it is sent once, and altogether exactly what is returned. A draft is
    everything from there to the end of the block, masks included, sent after every step. A streamer without
    `put_draft` only gets final tokens. One with `put_progress` is lent the whole `Progress` before either, once a
    step; candidates are in it with `output_history`.

    Args:
        streamer: a transformers `BaseStreamer`, e.g. `TextDiffusionStreamer`.
        prompt (`torch.LongTensor` of shape `(1, P)`): sent first, as `generate` does in transformers.
        begin (`int`): column of the first position to be written.
        end (`int`): one past the last column that is returned.
    """

    def __init__(self, streamer: Any, prompt: torch.Tensor, begin: int, end: int) -> None:
        self.streamer = streamer
        self.begin, self.end = begin, end
        streamer.put(prompt.cpu())

    def __call__(self, progress: Progress) -> None:
        """Send the state after a step."""
        if hasattr(self.streamer, "put_progress"):
            self.streamer.put_progress(progress)
        columns = torch.arange(progress.ids.shape[1], device=progress.ids.device)
        first = torch.where(progress.masked[0], columns, len(columns)).amin()
        end, first_open, is_final = torch.stack(
            [progress.current_block_end[0], first, progress.block_is_final[0]]
        ).tolist()
        end = min(end, self.end)
        if first_open >= self.end and is_final:
            return  # how much of a row that is written is returned is known to `finish`
        if first_open >= end and is_final:
            self._put_until(progress.ids, end)
        elif hasattr(self.streamer, "put_draft"):
            self.streamer.put_draft(progress.ids[0, self.begin : end].cpu())

    def finish(self, sequences: torch.Tensor) -> None:
        """Send what is left and close the stream."""
        self._put_until(sequences, sequences.shape[1])
        self.streamer.end()

    def _put_until(self, ids: torch.Tensor, end: int) -> None:
        if end > self.begin:
            self.streamer.put(ids[0, self.begin : end].cpu())
            self.begin = end


__all__ = ["DraftStream"]
