"""
What a step reads from a forward's logits: the belief at the positions that are predicted, and how probable the tokens
are that were written, where they have shadows.

`N` positions predicted, `M` verified, `V` vocabulary.
"""

import torch

from hf_latent.generation.beliefs.belief import Belief, BeliefReader
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.noise import uniform
from hf_latent.generation.state.rows import ActiveRows
from hf_latent.generation.state.settings import DenoisingSettings

CANDIDATE_STREAM = 0


def read_predicted(
    canvas: Canvas,
    rows: ActiveRows,
    indices: tuple[torch.Tensor, torch.Tensor],
    logits: torch.Tensor,
    read_belief: BeliefReader,
    settings: DenoisingSettings,
) -> Belief:
    """The belief of `logits` `(N, V)`, which are overwritten, at `indices`."""
    row_index, _ = indices
    noise = seen = None
    if read_belief.temperature > 0:
        position = canvas.position_ids[indices]
        noise = uniform(settings.seed, CANDIDATE_STREAM, canvas.row[row_index], rows.noise_step[row_index], position)
    if read_belief.reads_canvas:
        seen = _tokens_seen(canvas, row_index, read_belief)
    return read_belief(logits, seen, noise, _offset(canvas, indices, read_belief))


def read_written(
    canvas: Canvas, indices: tuple[torch.Tensor, torch.Tensor], logits: torch.Tensor, read_belief: BeliefReader
) -> torch.Tensor:
    """Log odds in nats `(M,)` of the tokens at `indices` under `logits` `(M, V)` of their shadows, overwritten."""
    seen = None
    if read_belief.reads_canvas:
        seen = _tokens_seen(canvas, indices[0], read_belief)
        # A penalty on tokens of the text did not count the token itself when it was written.
        number = torch.arange(len(seen), device=seen.device)
        seen = seen.index_put((number, indices[1]), seen.new_tensor(read_belief.mask_token_id))
    return read_belief.read_odds(logits, canvas.ids[indices], seen, _offset(canvas, indices, read_belief))


def _tokens_seen(canvas: Canvas, row_index: torch.Tensor, read_belief: BeliefReader) -> torch.Tensor:
    # Padding looks unwritten: a penalty on tokens in the text would count it otherwise.
    return canvas.ids.masked_fill(~canvas.valid, read_belief.mask_token_id)[row_index]


def _offset(
    canvas: Canvas, indices: tuple[torch.Tensor, torch.Tensor], read_belief: BeliefReader
) -> torch.Tensor | None:
    if not read_belief.ends_later:
        return None
    first = torch.where(canvas.writable, canvas.position_ids, canvas.ids.shape[1]).amin(-1)
    return canvas.position_ids[indices] - first[indices[0]]


__all__ = ["read_predicted", "read_written"]
