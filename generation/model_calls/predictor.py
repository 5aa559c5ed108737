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

from hf_latent.generation.beliefs.refinement import Memory
from hf_latent.generation.model_calls.block_cache import BlockCacheName, Window, WindowCache, find_window
from hf_latent.generation.model_calls.windows import BandMasks
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.rows import Rows


@dataclass(frozen=True)
class PredictorSettings:
    """
    How the model is called; see `DiffusionGenerationConfig` for the knobs of the same names.

    Args:
        cfg_scale: 0 without guidance.
        block_cache: None reads every position at every forward.
        cache_refresh_interval: forwards after which a row's cache is filled anew; None: once a block.
        append_blocks: whether blocks behind the one a row is at do not exist for it yet.
    """

    mask_token_id: int
    cfg_scale: float = 0.0
    block_cache: BlockCacheName | None = None
    cache_refresh_interval: int | None = None
    append_blocks: bool = False


class Reading(NamedTuple):
    """
    What a forward is to read.

    Args:
        at: rows and columns `(N,)` of the positions, row by row.
        positions: the same as `(A, L)` bool.
        blocks: the block each row is at.
        counts: how many positions are read of each row.
        facts: what `Predictor.measure` has asked for.
        memory: latent refinement's, if it is on.
    """

    at: tuple[torch.Tensor, torch.Tensor]
    positions: torch.Tensor
    blocks: list[int]
    counts: list[int]
    facts: Sequence[list[int]] = ()
    memory: Memory | None = None


class Predictor:
    """
    Calls `model`; holds the cache of a run.

    Models of this library take `logits_to_keep` and are asked for the positions that are read. Those of somebody else
    (a checkpoint's own code) give all logits; Dream's, which predict the token behind each position, are shifted here.
    """

    def __init__(self, model: PreTrainedModel, settings: PredictorSettings) -> None:
        self.model, self.settings = model, settings
        self.accepts = set(inspect.signature(model.forward).parameters)
        self.selects = "logits_to_keep" in self.accepts and hasattr(model, "align")
        self.shifted = bool(getattr(model, "reads_previous_state", False))
        self.copies = 1 if settings.cfg_scale == 0 else 2
        self.cache = WindowCache() if settings.block_cache is not None else None
        self._cached_blocks: list[int] = []  # of each row: the block at whose start its cache was filled, else -1
        self._ages: list[int] = []  # forwards since
        self._view: _View | None = None  # of the last forward
        self._bands: BandMasks | None = None  # where windows are read of layers that see windows
        if self.cache is not None:
            self._bands = self._check_cache()

    def _check_cache(self) -> BandMasks:
        """Raise `ValueError` for a model that cannot read a window against what is cached of all other positions."""
        name, given = type(self.model).__name__, f"`block_cache`={self.settings.block_cache!r}"
        if not self.selects:
            raise ValueError(
                f"{given} needs a model of hf-latent, got {name}: load the checkpoint with `import hf_latent` and "
                "without its own code."
            )
        decoder = self.model.base_model
        refusal = f"{given} needs a decoder whose layers remember keys and values only, got {type(decoder).__name__}"
        if getattr(decoder, "_is_stateful", False):
            raise ValueError(f"{refusal}, which has recurrent layers.")
        try:
            return BandMasks(decoder)
        except ValueError as error:
            raise ValueError(f"{refusal}: {error}") from error

    @property
    def embed(self) -> nn.Module:
        """The model's input embeddings."""
        return self.model.get_input_embeddings()

    def narrow(self, canvas: Canvas, rows: Rows, selected: torch.Tensor) -> torch.Tensor:
        """Those of the positions that may be written `(A, L)` that are predicted: here all."""
        return selected

    def measure(self, canvas: Canvas, read: torch.Tensor) -> list[torch.Tensor]:
        """
        Facts `(A,)`, int64, that the host must know of every forward beside how many positions are read: here none.
        `read` `(A, L)` bool. May be called more than once for a forward.
        """
        return []

    def _plan(self, canvas: Canvas, reading: Reading) -> "_View":
        """What there is and what is read of each row: found anew only when a row has entered a block, or left."""
        view = self._view
        if view is None or view.canvas is not canvas or view.blocks != reading.blocks or canvas.has_answer:
            view = self._view = self._look(canvas, reading)
        return view

    def _look(self, canvas: Canvas, reading: Reading) -> "_View":
        exists, ends, window = canvas.valid, [canvas.ids.shape[1]], None
        if self.settings.append_blocks or self.settings.block_cache is not None:
            block = torch.tensor(reading.blocks, device=canvas.ids.device)
        if self.settings.append_blocks:
            exists = canvas.valid & (canvas.block_index <= block[:, None])
            columns = torch.arange(1, canvas.ids.shape[1] + 1, device=block.device)
            ends = (columns * exists).amax(-1).tolist()
        if self.settings.block_cache is not None:
            positions = find_window(canvas, block, reading.positions, self.settings.block_cache, self.shifted)
            window = Window.of(positions & exists, canvas.position_ids)
        hides = canvas.padded or min(ends) < max(ends)
        view = _View(canvas, reading.blocks, max(ends), exists, hides, window, None)
        if window is None or self._bands is None or not self._bands.needed(canvas.ids.shape[1]):
            return view
        return replace(view, masks=self._mask(view, None, window))

    def _mask(self, view: "_View", rows: torch.Tensor | None, window: Window) -> Any:
        """Who sees whom in a forward of the `window` of some `rows`, where layers see windows of their own."""
        assert self._bands is not None
        keys, exists = (_pick(view.cut(x), rows, None) for x in (view.canvas.position_ids, view.exists))
        return self._bands(*map(self._copied, (window.position_ids, keys, exists)), self.model.dtype)

    def select(self, rows: torch.Tensor, numbers: list[int]) -> None:
        """Keep these rows `(A',)`, given on the device and on the host."""
        if self.cache is None or not self._ages:
            return
        self.cache.batch_select_indices(self._doubled(rows, len(self._ages)))
        self._cached_blocks = [self._cached_blocks[i] for i in numbers]
        self._ages = [self._ages[i] for i in numbers]

    def past_key_values(self, ids: torch.Tensor) -> Any:
        """None: what is cached of a model that reads every position at once is of no use to another run."""
        return None

    def __call__(self, canvas: Canvas, reading: Reading) -> torch.Tensor:
        """Logits `(N, V)`."""
        view = self._plan(canvas, reading)
        if self.cache is None:
            return self._guided(view, reading.at, reading.memory, None, None)
        return self._cached(view, reading)

    def _cached(self, view: "_View", reading: Reading) -> torch.Tensor:
        """A forward of everything for the rows whose cache is stale, and one of their windows for the others."""
        window = view.window
        assert window is not None
        stale = self._age(reading.blocks)
        if len(set(stale)) == 1:
            return self._guided(view, reading.at, reading.memory, None, None if stale[0] else window)
        logits: torch.Tensor | None = None
        device = window.columns.device
        ranges = torch.arange(sum(reading.counts), device=device).split(reading.counts)
        for flag in (True, False):
            members = [i for i, s in enumerate(stale) if s == flag]
            rows = torch.tensor(members, device=device)
            index = torch.cat([ranges[i] for i in members])
            at = reading.at[0][index], reading.at[1][index]
            part = self._guided(view, at, reading.memory, rows, None if flag else window.select(members, rows))
            if logits is None:
                logits = part.new_empty(sum(reading.counts), part.shape[-1])
            logits[index] = part
        assert logits is not None
        return logits

    def _age(self, blocks: list[int]) -> list[bool]:
        """Whose cache is filled anew by the coming forward; counts that forward."""
        self._cached_blocks, self._ages = self._cached_blocks or [-1] * len(blocks), self._ages or [0] * len(blocks)
        limit = self.settings.cache_refresh_interval
        stale = [
            filled != block or (limit is not None and age >= limit)
            for filled, block, age in zip(self._cached_blocks, blocks, self._ages, strict=True)
        ]
        self._cached_blocks = list(blocks)
        self._ages = [1 if flag else age + 1 for flag, age in zip(stale, self._ages, strict=True)]
        return stale

    def _guided(
        self,
        view: "_View",
        at: tuple[torch.Tensor, torch.Tensor],
        memory: Memory | None,
        rows: torch.Tensor | None,
        window: Window | None,
    ) -> torch.Tensor:
        """Logits of positions `at`, all within `rows` (None: every row), of a forward of a `window` (None: all)."""
        inputs = self._inputs(view, memory, rows, window)
        at_row, at_column = self._locate(view, at, rows, window)
        if self.copies == 2:
            num_rows = len(view.canvas.ids) if rows is None else len(rows)
            at_row, at_column = torch.cat([at_row, at_row + num_rows]), at_column.repeat(2)
        if self.cache is not None:
            cached_rows = None if rows is None else self._doubled(rows, len(view.canvas.ids))
            repeated = None if window is None else self._copied(window.columns)
            self.cache.place(cached_rows, repeated, view.length, None if window is None else window.start)
        logits = self._forward(inputs, (at_row, at_column))
        if self.copies == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + (self.settings.cfg_scale + 1) * (conditional - unconditional)

    def _inputs(
        self, view: "_View", memory: Memory | None, rows: torch.Tensor | None, window: Window | None
    ) -> dict[str, Any]:
        """What the model is given: ids or embeddings, where they stand, and what they may see."""
        canvas = view.canvas
        contents = [view.cut(canvas.ids)]
        if self.copies == 2:
            contents.append(torch.where(view.cut(canvas.writable), contents[0], self.settings.mask_token_id))
        name = "input_ids"
        if memory is not None and memory.mixes:
            name = "inputs_embeds"
            contents = [memory.embeddings(ids, view.cut(canvas.masked)) for ids in contents]
        contents = [_pick(content, rows, window) for content in contents]
        with torch.autocast(canvas.ids.device.type, enabled=False):  # which joins no other half precision than its own
            inputs: dict[str, Any] = {name: contents[0] if len(contents) == 1 else torch.cat(contents)}
        if window is not None:
            inputs["position_ids"] = self._copied(window.position_ids)
        elif view.hides:
            inputs["position_ids"] = self._copied(_pick(view.cut(canvas.position_ids), rows, None))
        if window is not None and view.masks is not None:
            inputs["attention_mask"] = view.masks if rows is None else self._mask(view, rows, window)
        elif view.hides:
            inputs["attention_mask"] = self._copied(_pick(view.cut(view.exists), rows, None).long())
        return inputs

    def _locate(
        self,
        view: "_View",
        at: tuple[torch.Tensor, torch.Tensor],
        rows: torch.Tensor | None,
        window: Window | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the positions `at` of the canvas are in a forward of `rows` and a `window`."""
        at_row, at_column = at
        if window is not None:
            at_column = window.places[at] if window.start is None else at_column - window.start
        if rows is not None:
            number = torch.empty_like(view.canvas.row)
            number[rows] = torch.arange(len(rows), device=rows.device)
            at_row = number[at_row]
        return at_row, at_column

    def _copied(self, values: torch.Tensor) -> torch.Tensor:
        """`(A', ...)` once more for the second half that guidance adds."""
        return values if self.copies == 1 else values.repeat(self.copies, 1)

    def _doubled(self, rows: torch.Tensor, num_rows: int) -> torch.Tensor:
        """Rows of a cache of `num_rows`, and the same again in the second half that guidance adds."""
        return torch.cat([rows + copy * num_rows for copy in range(self.copies)])

    def _forward(self, inputs: dict[str, Any], at: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        if self.selects:
            extra = {} if self.cache is None else {"cache": self.cache}
            return self.model(**inputs, **extra, logits_to_keep=at, return_dict=True).logits
        return self._foreign(inputs)[at]

    def _foreign(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """All logits `(A, L, V)` of a model that is not ours, aligned with what they predict."""
        if "position_ids" not in self.accepts:
            inputs = {name: value for name, value in inputs.items() if name != "position_ids"}
        missing = set(inputs) - self.accepts
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
class _View:
    """The canvas as the forwards of a block see it."""

    canvas: Canvas
    blocks: list[int]  # the block each row is at
    length: int  # columns
    exists: torch.Tensor  # (A, L) bool: only those that are not hidden
    hides: bool  # whether any of the columns is
    window: Window | None  # what is read while the block's cache is filled
    masks: Any  # of that window, where layers see windows of their own; else None

    def cut(self, values: torch.Tensor) -> torch.Tensor:
        """The columns of `(A, L)` that are there."""
        return values if self.length == values.shape[1] else values[:, : self.length]


def _pick(values: torch.Tensor, rows: torch.Tensor | None, window: Window | None) -> torch.Tensor:
    """`(A, L, ...)` at `rows` `(A',)` and the columns of a `window` of them; None takes all."""
    values = values if rows is None else values[rows]
    if window is None:
        return values
    if window.start is not None:
        return values[:, window.start : window.start + window.columns.shape[1]]
    if values.dim() == 2:
        return values.gather(1, window.columns)
    return torch.take_along_dim(values, window.columns[..., None], dim=1)


__all__ = ["Predictor", "PredictorSettings", "Reading"]
