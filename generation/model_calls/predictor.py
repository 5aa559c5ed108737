"""
The model as the denoising loop sees it: logits of the positions that are read, whatever lies between.

Guidance doubles the batch, a block cache reads a window of each row, appended blocks hide what is not there yet,
latent refinement replaces the embeddings of open positions. `A` rows, `L` columns, `N` positions read, `V` vocabulary.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_latent.generation.beliefs.refinement import RefinementState
from hf_latent.generation.model_calls.block_cache import BlockCache, BlockCacheName, QueryWindow, query_window_mask
from hf_latent.generation.model_calls.shadows import Shadows, find_shadow_masks
from hf_latent.generation.model_calls.sliding_windows import SlidingWindowMasks
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.rows import ActiveRows


@dataclass(frozen=True)
class PredictorSettings:
    """
    How the model is called; see `DiffusionGenerationConfig` for the knobs of the same names.

    Args:
        cfg_scale: 0 without guidance.
        block_cache: None reads every position at every forward.
        cache_refresh_interval: forwards after which a row's cache is filled anew; None: once a block.
        append_blocks: whether blocks behind the one a row is at do not exist for it yet.
        verifies: whether forwards are asked for the shadows of written positions.
    """

    mask_token_id: int
    cfg_scale: float = 0.0
    block_cache: BlockCacheName | None = None
    cache_refresh_interval: int | None = None
    append_blocks: bool = False
    verifies: bool = False


class ForwardRequest(NamedTuple):
    """
    What a forward is to predict.

    Args:
        indices: rows and columns `(N,)` of the positions, row by row.
        to_predict: the same as `(A, L)` bool.
        blocks: the block each row is at.
        num_to_predict: how many positions are predicted of each row.
        host_values: those of `Predictor.host_values`, if it gives any.
        refinement_state: latent refinement's, if it is on.
        verified: rows and columns `(M,)` of written positions of the blocks whose shadows are read, too, if any are.
    """

    indices: tuple[torch.Tensor, torch.Tensor]
    to_predict: torch.Tensor
    blocks: list[int]
    num_to_predict: list[int]
    host_values: Sequence[list[int]] = ()
    refinement_state: RefinementState | None = None
    verified: tuple[torch.Tensor, torch.Tensor] | None = None


class Predictor:
    """
    Calls `model`; holds the cache of a run.

    Models of this library take `logits_to_keep` and are asked for the positions that are read. Those of somebody else
    (a checkpoint's own code) give all logits; Dream's, which predict the token behind each position, are shifted here.
    """

    def __init__(self, model: PreTrainedModel, settings: PredictorSettings) -> None:
        self.model, self.settings = model, settings
        self.forward_parameters = set(inspect.signature(model.forward).parameters)
        self.takes_logits_to_keep = "logits_to_keep" in self.forward_parameters and hasattr(
            model, "reads_previous_state"
        )
        self.reads_previous_state = bool(getattr(model, "reads_previous_state", False))
        self.num_copies = 1 if settings.cfg_scale == 0 else 2
        self.cache = BlockCache() if settings.block_cache is not None else None
        self._cached_blocks: list[int] = []  # of each row: the block at whose start its cache was filled, else -1
        self._cache_ages: list[int] = []  # forwards since
        self._view: _CanvasView | None = None  # of the last forward
        self._window_masks: SlidingWindowMasks | None = None  # where windows are read of layers that see windows
        if self.cache is not None:
            self._window_masks = self._check_cache()
        self._shadow_masks = find_shadow_masks(model, self.takes_logits_to_keep) if settings.verifies else None

    def _check_cache(self) -> SlidingWindowMasks:
        """Raise `ValueError` for a model that cannot read a window against what is cached of all other positions."""
        name, given = type(self.model).__name__, f"`block_cache`={self.settings.block_cache!r}"
        if not self.takes_logits_to_keep:
            raise ValueError(
                f"{given} needs a model of hf-latent, got {name}: load the checkpoint with `import hf_latent` and "
                "without its own code."
            )
        decoder = self.model.base_model
        refusal = f"{given} needs a decoder whose layers remember keys and values only, got {type(decoder).__name__}"
        if getattr(decoder, "_is_stateful", False):
            raise ValueError(f"{refusal}, which has recurrent layers.")
        try:
            return SlidingWindowMasks(decoder)
        except ValueError as error:
            raise ValueError(f"{refusal}: {error}") from error

    @property
    def embed(self) -> nn.Module:
        """The model's input embeddings."""
        return self.model.get_input_embeddings()

    def select_candidates(self, canvas: Canvas, rows: ActiveRows, selected: torch.Tensor) -> torch.Tensor:
        """Those of the positions that may be written `(A, L)` that are predicted: here all."""
        return selected

    def select_editable(self, canvas: Canvas, rows: ActiveRows, written: torch.Tensor) -> torch.Tensor:
        """Those of the written positions `(A, L)` of the rows' blocks that are read again to be revised: here all."""
        return written

    def host_values(self, canvas: Canvas, to_predict: torch.Tensor) -> list[torch.Tensor]:
        """
        What the host has to know of each row before a forward, `(A,)` each: here nothing, `[]`. It is read with the
        one sync of a step and comes back in the request. `to_predict` `(A, L)` bool. May be called more than once for
        a forward.
        """
        return []

    def _canvas_view(self, canvas: Canvas, request: ForwardRequest) -> "_CanvasView":
        """What there is and what is read of each row: found anew only when a row has entered a block, or is done."""
        view = self._view
        if view is None or view.canvas is not canvas or view.blocks != request.blocks or canvas.has_answer:
            view = self._view = self._make_view(canvas, request)
        return view

    def _make_view(self, canvas: Canvas, request: ForwardRequest) -> "_CanvasView":
        exists, ends, window = canvas.valid, [canvas.ids.shape[1]], None
        if self.settings.append_blocks or self.settings.block_cache is not None:
            block = torch.tensor(request.blocks, device=canvas.ids.device)
        if self.settings.append_blocks:
            exists = canvas.valid & (canvas.block_index <= block[:, None])
            columns = torch.arange(1, canvas.ids.shape[1] + 1, device=block.device)
            ends = (columns * exists).amax(-1).tolist()
        if self.settings.block_cache is not None:
            positions = query_window_mask(
                canvas, block, request.to_predict, self.settings.block_cache, self.reads_previous_state
            )
            window = QueryWindow.of(positions & exists, canvas.position_ids)
        hides_columns = canvas.padded or min(ends) < max(ends)
        view = _CanvasView(canvas, request.blocks, max(ends), exists, hides_columns, window, None, None)
        if window is None or self._window_masks is None or not self._window_masks.needed(canvas.ids.shape[1]):
            return view
        return replace(view, masks=self._mask(view, None, window))

    def _mask(self, view: "_CanvasView", rows: torch.Tensor | None, window: QueryWindow) -> Any:
        """Who sees whom in a forward of the `window` of some `rows`, where layers see windows of their own."""
        assert self._window_masks is not None
        keys, exists = (_take(view.cut(x), rows, None) for x in (view.canvas.position_ids, view.exists))
        queries, keys, exists = map(self._copy_for_guidance, (window.position_ids, keys, exists))
        return self._window_masks(queries, keys, exists, self.model.dtype)

    def select(self, rows: torch.Tensor, numbers: list[int]) -> None:
        """Keep these rows `(A',)`, given on the device and on the host."""
        if self.cache is None or not self._cache_ages:
            return
        self.cache.batch_select_indices(self._rows_of_copies(rows, len(self._cache_ages)))
        self._cached_blocks = [self._cached_blocks[i] for i in numbers]
        self._cache_ages = [self._cache_ages[i] for i in numbers]

    def past_key_values(self, ids: torch.Tensor) -> Any:
        """None: what is cached of a model that reads every position at once is of no use to another run."""
        return None

    def __call__(self, canvas: Canvas, request: ForwardRequest) -> torch.Tensor:
        """Logits `(N, V)`; with shadows `(N + M, V)`, theirs last."""
        view = self._canvas_view(canvas, request)
        if request.verified is not None:
            return self._forward_shadowed(view, request, request.verified)
        if self.cache is None:
            return self._forward_guided(view, request.indices, request.refinement_state, None, None)
        return self._forward_cached(view, request)

    def _forward_shadowed(
        self, view: "_CanvasView", request: ForwardRequest, verified: tuple[torch.Tensor, torch.Tensor]
    ) -> torch.Tensor:
        assert self._shadow_masks is not None
        shadows = view.shadows
        if shadows is None:  # the same at every forward of a block
            in_block = view.canvas.block_index == torch.tensor(view.blocks, device=view.exists.device)[:, None]
            shadowed, exists = view.cut(in_block & view.canvas.writable), view.cut(view.exists)
            places = view.cut(view.canvas.position_ids)
            shadows = self._shadow_masks(shadowed, exists, places, self.num_copies, self.model.dtype)
            view = self._view = replace(view, shadows=shadows)
        shadow_index = view.length + shadows.window.index_in_window[verified]
        pairs = zip(request.indices, (verified[0], shadow_index), strict=True)
        row_index, column_index = (torch.cat(pair) for pair in pairs)
        return self._forward_guided(view, (row_index, column_index), request.refinement_state, None, None, shadows)

    def _forward_cached(self, view: "_CanvasView", request: ForwardRequest) -> torch.Tensor:
        """A forward of everything for the rows whose cache is stale, and one of their windows for the others."""
        window = view.window
        assert window is not None
        stale = self._find_stale(request.blocks)
        if len(set(stale)) == 1:
            return self._forward_guided(
                view, request.indices, request.refinement_state, None, None if stale[0] else window
            )
        logits: torch.Tensor | None = None
        device = window.columns.device
        ranges = torch.arange(sum(request.num_to_predict), device=device).split(request.num_to_predict)
        for flag in (True, False):
            members = [i for i, s in enumerate(stale) if s == flag]
            rows = torch.tensor(members, device=device)
            index = torch.cat([ranges[i] for i in members])
            indices = request.indices[0][index], request.indices[1][index]
            part = self._forward_guided(
                view, indices, request.refinement_state, rows, None if flag else window.select(members, rows)
            )
            if logits is None:
                logits = part.new_empty(sum(request.num_to_predict), part.shape[-1])
            logits[index] = part
        assert logits is not None
        return logits

    def _find_stale(self, blocks: list[int]) -> list[bool]:
        """Whose cache is filled anew by the coming forward; counts that forward."""
        self._cached_blocks, self._cache_ages = (
            self._cached_blocks or [-1] * len(blocks),
            self._cache_ages or [0] * len(blocks),
        )
        limit = self.settings.cache_refresh_interval
        stale = [
            filled != block or (limit is not None and age >= limit)
            for filled, block, age in zip(self._cached_blocks, blocks, self._cache_ages, strict=True)
        ]
        self._cached_blocks = list(blocks)
        self._cache_ages = [1 if flag else age + 1 for flag, age in zip(stale, self._cache_ages, strict=True)]
        return stale

    def _forward_guided(
        self,
        view: "_CanvasView",
        indices: tuple[torch.Tensor, torch.Tensor],
        refinement_state: RefinementState | None,
        rows: torch.Tensor | None,
        window: QueryWindow | None,
        shadows: Shadows | None = None,
    ) -> torch.Tensor:
        """Logits of `indices`, all within `rows` (None: every row), of a forward of a `window` (None: all)."""
        inputs = self._inputs(view, refinement_state, rows, window, shadows)
        row_index, column_index = self._locate(view, indices, rows, window)
        if self.num_copies == 2:
            num_rows = len(view.canvas.ids) if rows is None else len(rows)
            row_index, column_index = torch.cat([row_index, row_index + num_rows]), column_index.repeat(2)
        if self.cache is not None:
            cached_rows = None if rows is None else self._rows_of_copies(rows, len(view.canvas.ids))
            repeated = None if window is None else self._copy_for_guidance(window.columns)
            self.cache.set_target(cached_rows, repeated, view.length, None if window is None else window.start)
        logits = self._forward(inputs, (row_index, column_index))
        if self.num_copies == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + (self.settings.cfg_scale + 1) * (conditional - unconditional)

    def _inputs(
        self,
        view: "_CanvasView",
        refinement_state: RefinementState | None,
        rows: torch.Tensor | None,
        window: QueryWindow | None,
        shadows: Shadows | None,
    ) -> dict[str, Any]:
        """What the model is given: ids or embeddings, where they stand, and what they may see."""
        canvas = view.canvas
        contents = [view.cut(canvas.ids)]
        if self.num_copies == 2:
            contents.append(torch.where(view.cut(canvas.writable), contents[0], self.settings.mask_token_id))
        name = "input_ids"
        if refinement_state is not None and refinement_state.mixes:
            name = "inputs_embeds"
            contents = [refinement_state.embeddings(ids, view.cut(canvas.masked)) for ids in contents]
        contents = [_take(content, rows, window) for content in contents]
        if shadows is not None:
            masks = torch.full((1, 1), self.settings.mask_token_id, device=canvas.ids.device)
            extra = masks if name == "input_ids" else self.embed(masks)
            size = len(canvas.ids), shadows.count, *extra.shape[2:]
            contents = [torch.cat([content, extra.expand(size).to(content.dtype)], 1) for content in contents]
        with torch.autocast(canvas.ids.device.type, enabled=False):  # which joins no other half precision than its own
            inputs: dict[str, Any] = {name: contents[0] if len(contents) == 1 else torch.cat(contents)}
        if shadows is not None:
            return inputs | {"position_ids": shadows.position_ids, "attention_mask": shadows.masks}
        if window is not None:
            inputs["position_ids"] = self._copy_for_guidance(window.position_ids)
        elif view.hides_columns:
            inputs["position_ids"] = self._copy_for_guidance(_take(view.cut(canvas.position_ids), rows, None))
        if window is not None and view.masks is not None:
            inputs["attention_mask"] = view.masks if rows is None else self._mask(view, rows, window)
        elif view.hides_columns:
            inputs["attention_mask"] = self._copy_for_guidance(_take(view.cut(view.exists), rows, None).long())
        return inputs

    def _locate(
        self,
        view: "_CanvasView",
        indices: tuple[torch.Tensor, torch.Tensor],
        rows: torch.Tensor | None,
        window: QueryWindow | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the positions `indices` of the canvas are in a forward of `rows` and a `window`."""
        row_index, column_index = indices
        if window is not None:
            column_index = window.index_in_window[indices] if window.start is None else column_index - window.start
        if rows is not None:
            number = torch.empty_like(view.canvas.row)
            number[rows] = torch.arange(len(rows), device=rows.device)
            row_index = number[row_index]
        return row_index, column_index

    def _copy_for_guidance(self, values: torch.Tensor) -> torch.Tensor:
        """`(A', ...)` once more for the second half that guidance adds."""
        return values if self.num_copies == 1 else values.repeat(self.num_copies, 1)

    def _rows_of_copies(self, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
        """Rows of a cache of `num_rows`, and the same again in the second half that guidance adds."""
        return torch.cat([rows + copy * num_rows for copy in range(self.num_copies)])

    def _forward(self, inputs: dict[str, Any], indices: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if self.takes_logits_to_keep:
            extra = {} if self.cache is None else {"cache": self.cache}
            return self.model(**inputs, **extra, logits_to_keep=indices, return_dict=True).logits
        return self._forward_foreign(inputs)[indices]

    def _forward_foreign(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """All logits `(A, L, V)` of a model that is not ours, aligned with what they predict."""
        if "position_ids" not in self.forward_parameters:
            inputs = {name: value for name, value in inputs.items() if name != "position_ids"}
        missing = set(inputs) - self.forward_parameters
        if missing and not any(
            p.kind is p.VAR_KEYWORD for p in inspect.signature(self.model.forward).parameters.values()
        ):
            raise ValueError(
                f"{type(self.model).__name__}.forward does not take {sorted(missing)}, which this call needs."
            )
        logits = self.model(**inputs).logits
        if getattr(self.model.config, "model_type", "").lower() != "dream":
            return logits
        shifted = torch.cat([logits[:, :1], logits[:, :-1]], dim=1)
        if "attention_mask" in inputs:
            first = inputs["attention_mask"].cumsum(-1) <= 1
            shifted = torch.where(first[..., None], logits, shifted)
        return shifted


@dataclass(frozen=True)
class _CanvasView:
    """The canvas as the forwards of a block see it."""

    canvas: Canvas
    blocks: list[int]  # the block each row is at
    length: int  # columns
    exists: torch.Tensor  # (A, L) bool: only those that are not hidden
    hides_columns: bool  # whether any of the columns is
    window: QueryWindow | None  # what is read while the block's cache is filled
    masks: Any  # of that window, where layers see windows of their own; else None
    shadows: Shadows | None  # of the blocks, once they were read

    def cut(self, values: torch.Tensor) -> torch.Tensor:
        """The columns of `(A, L)` that are there."""
        return values if self.length == values.shape[1] else values[:, : self.length]


def _take(values: torch.Tensor, rows: torch.Tensor | None, window: QueryWindow | None) -> torch.Tensor:
    """`(A, L, ...)` at `rows` `(A',)` and the columns of a `window` of them; None takes all."""
    values = values if rows is None else values[rows]
    if window is None:
        return values
    if window.start is not None:
        return values[:, window.start : window.start + window.columns.shape[1]]
    if values.dim() == 2:
        return values.gather(1, window.columns)
    return torch.take_along_dim(values, window.columns[..., None], dim=1)


__all__ = ["ForwardRequest", "Predictor", "PredictorSettings"]
