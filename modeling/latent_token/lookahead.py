"""
What an autoregressive model looks ahead with: behind each of some tokens of the stream, a group of that token once
more and `num_latent_tokens` masks at the positions after it (arXiv 2602.03769, left to right).

The token's copy predicts the next token as the token itself would, but sees the masks; the masks predict the tokens
after that. A group sees the stream before its token, and itself; with no masks the copy is the token.
"""

import torch

from hf_latent.generation.model_calls.semi_causal_masks import NOT_IN_STREAM, Visibility


def causal_stream(exists: torch.Tensor, position: torch.Tensor, document: torch.Tensor | None = None) -> Visibility:
    """
    A causal stream of the tokens that `exist`, bool `(B, T)`, at their `position` `(B, T)`.

    Args:
        document: int64 `(B, T)`, number of the document that a token of a packed row belongs to; tokens of one
            document are neighbours.
    """
    place = exists.long().cumsum(-1) - 1
    visible_from = torch.zeros_like(place)
    if document is not None:
        begins = torch.ones_like(exists)
        begins[:, 1:] = document[:, 1:] != document[:, :-1]
        # The number of tokens before: a document may begin with padding.
        visible_from = torch.where(begins, place + 1 - exists.long(), 0).cummax(-1).values
    order = torch.where(exists, place, NOT_IN_STREAM)
    return Visibility(
        order=order,
        visible_from=torch.where(exists, visible_from, 0),
        visible_until=torch.where(exists, place + 1, 0),
        group=torch.full_like(place, -1),
        position=position,
    )


def lookahead_groups(
    clean: Visibility, states: torch.Tensor, num_latent_tokens: int, max_positions: int | None = None
) -> Visibility:
    """
    The groups `(B, S * (num_latent_tokens + 1))` behind the tokens in the columns `states` `(B, S)` of a stream.

    `max_positions`: of a model with a table of positions, which has nothing to look ahead to behind the last one.
    """
    tokens = clean.select((torch.arange(len(states), device=states.device)[:, None], states))
    ahead = torch.arange(num_latent_tokens + 1, device=states.device)
    shape = (*states.shape, len(ahead))
    position = tokens.position[..., None] + ahead
    if max_positions is not None:
        position = position.clamp(max=max_positions - 1)
    number = torch.arange(states.shape[1], device=states.device)[:, None].expand(shape)
    exists = tokens.order < NOT_IN_STREAM
    return Visibility(
        order=torch.full(shape, NOT_IN_STREAM, device=states.device).flatten(1),
        visible_from=tokens.visible_from[..., None].expand(shape).flatten(1),
        visible_until=torch.where(exists, tokens.order, 0)[..., None].expand(shape).flatten(1),
        group=number.flatten(1),
        position=position.flatten(1),
    )


def lookahead_inputs(
    inputs: torch.Tensor, states: torch.Tensor, mask: torch.Tensor, num_latent_tokens: int
) -> torch.Tensor:
    """
    Ids `(B, S * (num_latent_tokens + 1))`, or embeddings with a last dimension more, of the groups.

    Args:
        inputs: ids `(B, T)` or embeddings `(B, T, D)` of the stream.
        states: int64 `(B, S)`, columns of the tokens.
        mask: the mask's id `()` or embedding `(D,)`.
    """
    copies = inputs[torch.arange(len(states), device=states.device)[:, None], states][:, :, None]
    masks = mask.to(copies.dtype).expand(*states.shape, num_latent_tokens, *inputs.shape[2:])
    return torch.cat([copies, masks], dim=2).flatten(1, 2)


def columns_to_keep(
    logits_to_keep: int | torch.Tensor, batch_size: int, length: int, device: torch.device
) -> torch.Tensor:
    """Columns `(B, S)` that `logits_to_keep` names, an `int` or a 1-D index."""
    columns = torch.arange(length, device=device)
    if isinstance(logits_to_keep, int):
        return columns[-logits_to_keep:].expand(batch_size, -1)
    if (
        isinstance(logits_to_keep, torch.Tensor)
        and logits_to_keep.dim() == 1
        and not logits_to_keep.is_floating_point()
    ):
        return columns[logits_to_keep.to(device)].expand(batch_size, -1)
    raise ValueError(f"`logits_to_keep` must be a number or a 1-D index with latent tokens, got {logits_to_keep!r}.")


__all__ = ["causal_stream", "columns_to_keep", "lookahead_groups", "lookahead_inputs"]
