"""
How the denoising loop calls a semi-causal model (arXiv 2602.03769): each forward reads the tokens that were written
since the one before, which enter the cache for good, and the positions to predict, in groups, which leave nothing.

`A` rows, `L` columns of the canvas, `N` positions read, `Q` columns of a forward.
"""

import torch
from transformers import PreTrainedModel

from hf_latent.generation.model_calls.block_cache import true_columns
from hf_latent.generation.model_calls.exact_cache import ColumnCache, ExactCache, SemiCausalCache, TurnKeeper, resume
from hf_latent.generation.model_calls.predictor import ForwardRequest, Predictor, PredictorSettings
from hf_latent.generation.model_calls.semi_causal_masks import NOT_IN_STREAM, canvas_visibility
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.noise import uniform
from hf_latent.generation.state.rows import ActiveRows

GROUP_STREAM = 2


class SemiCausalPredictor(Predictor):
    """
    Calls a semi-causal `model`.

    Args:
        num_latent_tokens: positions that are predicted together with each one: groups have one more.
        num_candidates: positions that are predicted at all, of those that may be written; None: all.
        seed: of the choice of candidates and groups, which is the row's own.
        past: of an earlier turn.
        keeps_past: whether `past_key_values` will be asked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: PredictorSettings,
        num_latent_tokens: int,
        num_candidates: int | None,
        seed: int,
        past: ExactCache | None = None,
        keeps_past: bool = False,
    ) -> None:
        if settings.cfg_scale != 0 or settings.block_cache is not None:
            name = "cfg_scale" if settings.cfg_scale != 0 else "block_cache"
            raise ValueError(
                f"`{name}` must be left out for a semi-causal model, whose text sees what was written before it and "
                f"whose cache is exact, got {getattr(settings, name)!r}."
            )
        if past is not None and not isinstance(past, SemiCausalCache):
            raise ValueError(
                "`past_key_values` must be what `generate` of a semi-causal model returned with "
                f"`return_dict_in_generate=True`, got {type(past).__name__}."
            )
        super().__init__(model, settings)
        self.cache = ColumnCache()
        self.turns = TurnKeeper(self.cache)
        self.masks = model.semi_causal_masks()
        self.group_size, self.num_candidates, self.seed = num_latent_tokens + 1, num_candidates, seed
        self.past, self.keeps_past = past, keeps_past
        self._order: torch.Tensor | None = None  # (A, L): places in the stream, `NOT_IN_STREAM` for what is not cached
        self._noise: torch.Tensor | None = None  # (A, L): by which candidates and groups are drawn
        self._new_tokens: torch.Tensor | None = None  # (A, L) bool: tokens that the coming forward caches
        self._to_predict: torch.Tensor | None = None  # (A, L) bool: positions that it predicts
        self._ids: torch.Tensor | None = None  # (A, L): tokens as they were cached
        self._positions: torch.Tensor | None = None  # (B, L), of all rows
        self._index: torch.Tensor | None = None  # (A,): where the rows are in the batch

    def select_candidates(self, canvas: Canvas, rows: ActiveRows, selected: torch.Tensor) -> torch.Tensor:
        """
        At most `num_candidates` of the `selected` positions `(A, L)` of each row, drawn anew at every step; all at the
        last of `max_denoising_steps`, which commits what is left.
        """
        self._noise = uniform(
            self.seed, GROUP_STREAM, canvas.row[:, None], rows.noise_step[:, None], canvas.position_ids
        )
        if self.num_candidates is None:
            return selected
        drawn = selected & (_rank(self._noise, selected) < self.num_candidates)
        # The forward before, where it is not booked yet, was a step, or only refined: then all are read once more.
        last = [row.is_last_step_after(int(rows.decisions is not None)) for row in rows.states]
        return (
            torch.where(torch.tensor(last, device=selected.device)[:, None], selected, drawn) if any(last) else drawn
        )

    def host_values(self, canvas: Canvas, to_predict: torch.Tensor) -> list[torch.Tensor]:
        """Columns that each row reads `(A,)`."""
        if self._order is None:
            self._order, self._ids = torch.full_like(canvas.ids, NOT_IN_STREAM), canvas.ids
            self._positions = canvas.position_ids
            self._index = torch.arange(len(canvas.ids), device=canvas.ids.device)
            if self.past is not None:
                self._order = resume(self.past, canvas, self.cache)
        self._new_tokens = canvas.valid & ~canvas.masked & (self._order == NOT_IN_STREAM)
        self._to_predict = to_predict
        return [(self._new_tokens | to_predict).sum(-1)]

    def select(self, rows: torch.Tensor, numbers: list[int]) -> None:
        """Keep these rows."""
        assert self._order is not None and self._ids is not None
        assert self._index is not None and self._noise is not None
        if self.keeps_past:
            gone = torch.ones(len(self._index), dtype=torch.bool, device=rows.device)
            gone[rows] = False
            self._store_finished(gone.nonzero().squeeze(-1))
        self._order, self._index, self._noise = self._order[rows], self._index[rows], self._noise[rows]
        self._ids, self._new_tokens, self._to_predict = self._ids[rows], self._new_tokens[rows], self._to_predict[rows]
        self.cache.batch_select_indices(rows)

    def __call__(self, canvas: Canvas, request: ForwardRequest) -> torch.Tensor:
        """Logits `(N, V)`."""
        assert self._order is not None and self._new_tokens is not None and self._to_predict is not None
        (widths,) = request.host_values
        if max(widths) == 0:  # an idle step of a schedule with more steps than tokens
            return torch.zeros(0, self.model.config.vocab_size, device=canvas.ids.device)
        entered = (self._order < NOT_IN_STREAM).sum(-1, keepdim=True)
        self._order = torch.where(self._new_tokens, entered + self._new_tokens.long().cumsum(-1) - 1, self._order)
        self._ids = torch.where(self._new_tokens, canvas.ids, self._ids)
        window = self._new_tokens | self._to_predict
        columns = true_columns(window, max(widths))
        rows = torch.arange(len(columns), device=columns.device)
        row_index, column_index = request.indices[0], (window.cumsum(-1) - 1)[request.indices]
        group = _rank(self._noise, self._to_predict) // self.group_size
        keys = canvas_visibility(
            self._order < NOT_IN_STREAM, self._to_predict, self._order, group, canvas.position_ids
        )
        idles = min(widths) == 0
        if idles:  # an idle row costs nothing, and none of its keys is computed again
            rows = torch.tensor([i for i, width in enumerate(widths) if width > 0], device=columns.device)
            row_index, columns = torch.searchsorted(rows, row_index), columns[rows]
        indices = rows[:, None], columns
        queries, keys = keys.select(indices), keys.select((rows,)) if idles else keys
        refinement_state = request.refinement_state
        if refinement_state is not None and refinement_state.mixes:
            inputs = {"inputs_embeds": refinement_state.embeddings(canvas.ids, canvas.masked)[indices]}
        else:
            inputs = {"input_ids": canvas.ids[indices]}
        self.cache.set_target(rows if idles else None, columns, canvas.ids.shape[1])
        return self.model(
            **inputs,
            attention_mask=self.masks(queries, keys, columns, self.model.dtype),
            position_ids=canvas.position_ids[indices],
            cache=self.cache,
            logits_to_keep=(row_index, column_index),
            return_dict=True,
        ).logits

    # Turns

    def _store_finished(self, rows: torch.Tensor) -> None:
        assert self._order is not None and self._ids is not None and self._index is not None
        self.turns.store(rows, self._index, (self._order, self._ids))

    def past_key_values(self, ids: torch.Tensor) -> SemiCausalCache | None:
        """The cache of the whole batch at the end of a run that wrote `ids` `(B, L)`; None if nothing was read."""
        if not self.cache.layers or self._order is None or self._positions is None:
            return None
        self._store_finished(torch.arange(len(self._order), device=ids.device))
        length = ids.shape[1]
        layers, (order, cached) = self.turns.collect(length)
        order, cached = order[:, :length], cached[:, :length]
        # What was written and then cut off by the row's end is no text; what saw it is to be read anew.
        cut = order.masked_fill(cached == ids, NOT_IN_STREAM).amin(-1, keepdim=True)
        order = torch.where(order < cut, order, NOT_IN_STREAM)
        return SemiCausalCache(layers, order, ids, self._positions[:, :length])


def _rank(noise: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Place of each `chosen` position `(A, L)` among its row's, by noise."""
    return noise.masked_fill(~chosen, float("inf")).argsort(dim=-1, stable=True).argsort(dim=-1)


__all__ = ["SemiCausalCache", "SemiCausalPredictor"]
