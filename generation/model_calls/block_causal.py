"""
How the denoising loop calls a block-causal model (arXiv 2503.09573): a forward within a block reads that block alone,
against the keys and values of all before it, which are final.

`A` rows, `L` columns of the canvas, `N` positions read, `Q` columns of a forward.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedModel

from hf_latent.generation.model_calls.block_causal_masks import canvas_block_visibility
from hf_latent.generation.model_calls.block_causal_spans import RowLayout, Span
from hf_latent.generation.model_calls.exact_cache import BlockCausalCache, ColumnCache, ExactCache, TurnKeeper, resume
from hf_latent.generation.model_calls.predictor import ForwardRequest, Predictor, PredictorSettings
from hf_latent.generation.model_calls.semi_causal_masks import NOT_IN_STREAM
from hf_latent.generation.model_calls.sliding_windows import smallest_window
from hf_latent.generation.state.canvas import Canvas
from hf_latent.generation.state.rows import ActiveRows


class BlockCausalPredictor(Predictor):
    """
    Calls a block-causal `model`.

    The forward that enters a block reads the tokens before it that no forward has read in their final form (the block
    that was just finished, or the prompt) together with the new block, masked so that they do not see it: entering
    costs no forward of its own. Where the state of the position before predicts a token, a block's first token is
    predicted by the block before, as in Fast-dLLM v2: that forward reads what is finished, and predicts it alone.

    Args:
        block_size: positions of a block of the attention.
        sub_block_length: of the parts that are written one after the other; needed for `block_cache="dual"`.
        uses_cache: whether keys and values are kept; if not, every forward reads everything again.
        past: of an earlier turn.
        keeps_past: whether `past_key_values` will be asked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        settings: PredictorSettings,
        block_size: int,
        sub_block_length: int | None = None,
        uses_cache: bool = True,
        past: ExactCache | None = None,
        keeps_past: bool = False,
    ) -> None:
        _check_cache_arguments(settings, block_size, sub_block_length, uses_cache, past)
        super().__init__(model, replace(settings, block_cache=None))
        self.masks = model.block_causal_masks()
        self.block_size, self.sub_block_length = block_size, sub_block_length
        self.reads_sub_blocks = settings.block_cache is not None
        self.uses_cache, self.past, self.keeps_past = uses_cache, past, keeps_past
        self.turns: TurnKeeper | None = None
        self._layout: RowLayout | None = None
        self._blocks: list[int] = []  # the blocks that the next two are of
        self._first_columns: list[torch.Tensor] = []  # (A, 1) each, of those whose openness the host has to know
        self._open_flags: list[torch.Tensor] = []  # (A,) bool each: whether they are open
        self._reading: _Reading | None = None  # of the last forward
        self._index: torch.Tensor | None = None  # (A,): where the rows are in the batch

    def _lay_out(self, canvas: Canvas) -> "RowLayout":
        if self._layout is None:
            self._layout = RowLayout.of(canvas, self.block_size, self.sub_block_length or self.block_size)
            self._index = torch.arange(len(canvas.ids), device=canvas.ids.device)
            self._positions = canvas.position_ids
            self._valid = canvas.valid
            if self.uses_cache:
                self.cache = ColumnCache(canvas.ids.shape[1])
                self.turns = TurnKeeper(self.cache)
            if self.past is not None:
                order = resume(self.past, canvas, self.cache)
                self._layout.stored = (order < NOT_IN_STREAM).sum(-1).tolist()
        return self._layout

    # Which positions are predicted

    def select_candidates(self, canvas: Canvas, rows: ActiveRows, selected: torch.Tensor) -> torch.Tensor:
        """The `selected` positions `(A, L)`; of a row whose block's first one is read from the block before, that."""
        layout = self._lay_out(canvas)
        self._open_flags = []
        if not (self.reads_previous_state or self.reads_sub_blocks):
            return selected
        if rows.blocks != self._blocks:
            self._blocks = rows.blocks
            self._first_columns = [
                torch.tensor(columns, device=selected.device)[:, None] for columns in layout.first_columns(rows.blocks)
            ]
        if layout.firsts_are_written(rows.blocks):
            return selected
        block_first, part_first = self._first_columns
        self._open_flags = [selected.gather(1, part_first).squeeze(-1)]
        if not self.reads_previous_state:
            return selected
        is_open = selected.gather(1, block_first)
        # The very first token of a row has no state before it.
        is_open = is_open & (canvas.position_ids.gather(1, block_first) > 0)
        self._open_flags.append(is_open.squeeze(-1))
        columns = torch.arange(selected.shape[1], device=selected.device)
        return selected & (~is_open | (columns == block_first))

    def select_editable(self, canvas: Canvas, rows: ActiveRows, written: torch.Tensor) -> torch.Tensor:
        """
        The `written` positions `(A, L)`, but for those whose state is that of a block before, which is final, or of a
        part before, which is not read again.
        """
        if not self.reads_previous_state:
            return written
        length = self.sub_block_length if self.reads_sub_blocks and self.sub_block_length else self.block_size
        return written & ((canvas.position_ids % length > 0) | (canvas.position_ids == 0))

    def host_values(self, canvas: Canvas, to_predict: torch.Tensor) -> list[torch.Tensor]:
        """
        What the host has to know `(A,)`, bool: whether the first position of each row's part of a block is open, and
        whether it is the block's and read from the block before. Nothing once they are known to be written.
        """
        return self._open_flags

    # What is read for it

    def __call__(self, canvas: Canvas, request: ForwardRequest) -> torch.Tensor:
        """Logits `(N, V)`."""
        if sum(request.num_to_predict) == 0:  # an idle step of a schedule with more steps than tokens
            return torch.zeros(0, self.model.config.vocab_size, device=canvas.ids.device)
        assert self._layout is not None
        spans = self._find_spans(request)
        reading = self._reading
        if reading is None or reading.spans != spans:
            reading = self._reading = self._make_reading(canvas, spans)
        logits = self._forward_guided_reading(canvas, request, reading)
        if self.uses_cache:
            self._layout.record(request.blocks, spans)
        return logits

    def _find_spans(self, request: ForwardRequest) -> list[Span]:
        layout = self._layout
        assert layout is not None
        flags = [*request.host_values, *[[0] * len(request.blocks)] * 2][:2]
        if request.host_values:
            layout.record_firsts(request.blocks, flags[0])
        part_open, from_before = flags
        return [
            layout.span(i, block, bool(part_open[i]), bool(from_before[i]), self.reads_sub_blocks)
            if self.uses_cache
            else layout.uncached_span(i, block, bool(from_before[i]))
            for i, block in enumerate(request.blocks)
        ]

    def _make_reading(self, canvas: Canvas, spans: list[Span]) -> "_Reading":
        """The columns of the spans, and who sees whom among them."""
        assert self._layout is not None
        offsets, device = self._layout.offsets, canvas.ids.device
        ends = [(offset + span.seen, span.from_before) for offset, span in zip(offsets, spans, strict=True)]
        if not self.uses_cache:
            # All columns up to the last one that is read or predicted; those that are not there yet are not seen.
            length = max(end + from_before for end, from_before in ends)
            columns = torch.arange(length, device=device).expand(len(spans), -1)
            return self._finish_reading(canvas, spans, 0, columns, length)
        length = max(end for end, _ in ends)
        firsts = [offset + span.start for offset, span in zip(offsets, spans, strict=True)]
        widths = [span.end - span.start for span in spans]
        if len({*zip(firsts, spans, strict=True)}) == 1 and not spans[0].from_before:
            columns = torch.arange(firsts[0], firsts[0] + widths[0], device=device).expand(len(spans), -1)
            return self._finish_reading(canvas, spans, firsts[0], columns, length)
        # Rows with fewer read their last once more, which changes nothing; that again is the state behind which a
        # token is predicted that is itself not read.
        width = max(w + span.from_before for w, span in zip(widths, spans, strict=True))
        first, last = torch.tensor([firsts, [f + w - 1 for f, w in zip(firsts, widths, strict=True)]], device=device)
        columns = (first[:, None] + torch.arange(width, device=device)).minimum(last[:, None])
        return self._finish_reading(canvas, spans, None, columns, length)

    def _finish_reading(
        self, canvas: Canvas, spans: list[Span], start: int | None, columns: torch.Tensor, length: int
    ) -> "_Reading":
        masks = self._prepare_masks(canvas, spans, columns, length)
        reading = _Reading(spans, start, columns, columns[:, 0], canvas.position_ids, length, masks)
        return replace(reading, position_ids=self._copy_for_guidance(reading.take(canvas.position_ids)))

    def _prepare_masks(self, canvas: Canvas, spans: list[Span], columns: torch.Tensor, length: int) -> Any:
        """Prepared masks of the queries at `columns` `(A, Q)`; None where all of them see all `length` keys."""
        assert self._layout is not None
        span = spans[0]
        shared = max(self._layout.offsets) == 0 and len(set(spans)) == 1
        window = smallest_window(self.masks.windows)
        in_one_block = self.uses_cache and span.start // self.block_size == (span.seen - 1) // self.block_size
        if shared and in_one_block and (window is None or length <= window):
            return None
        rows = 1 if shared else len(spans)  # masks of equal rows are one
        position_ids, exists = canvas.position_ids[:rows, :length], canvas.valid[:rows, :length]
        if not shared or not self.uses_cache:
            seen = torch.tensor([each.seen for each in spans[:rows]], device=columns.device)
            exists = exists & (position_ids < seen[:, None])
        keys, columns = canvas_block_visibility(position_ids, exists, self.block_size), columns[:rows]
        if not shared and self.num_copies == 2:
            keys, columns = keys.select((torch.arange(rows, device=columns.device).repeat(2),)), columns.repeat(2, 1)
        every = torch.arange(len(columns), device=columns.device)
        return self.masks(keys.select((every[:, None], columns)), keys, columns, self.model.dtype)

    def _forward_guided_reading(self, canvas: Canvas, request: ForwardRequest, reading: "_Reading") -> torch.Tensor:
        ids, state = reading.take(canvas.ids), request.refinement_state
        contents = [ids]
        if self.num_copies == 2:
            contents.append(torch.where(reading.take(canvas.writable), ids, self.settings.mask_token_id))
        name = "input_ids"
        if state is not None and state.mixes:
            name, masked = "inputs_embeds", reading.take(canvas.masked)
            contents = [state.embeddings(content, masked, reading.take) for content in contents]
        with torch.autocast(ids.device.type, enabled=False):  # which joins no other half precision than its own
            inputs: dict[str, Any] = {name: contents[0] if len(contents) == 1 else torch.cat(contents)}
        inputs |= {"position_ids": reading.position_ids, "attention_mask": reading.masks}
        row_index, column_index = request.indices
        column_index = column_index - (reading.firsts[row_index] if reading.start is None else reading.start)
        if self.num_copies == 2:
            row_index, column_index = torch.cat([row_index, row_index + len(ids)]), column_index.repeat(2)
        if self.cache is not None:
            columns = self._copy_for_guidance(reading.columns)
            self.cache.set_target(None, columns, reading.length, reading.start)
        logits = self._forward(inputs, (row_index, column_index))
        if self.num_copies == 1:
            return logits
        conditional, unconditional = logits.chunk(2)
        return unconditional + (self.settings.cfg_scale + 1) * (conditional - unconditional)

    # Rows that leave, and turns

    def select(self, rows: torch.Tensor, numbers: list[int]) -> None:
        """Keep these rows."""
        assert self._layout is not None and self._index is not None
        if self.keeps_past and self.turns is not None and self.num_copies == 1:
            gone = torch.ones(len(self._index), dtype=torch.bool, device=rows.device)
            gone[rows] = False
            self._store_finished(gone.nonzero().squeeze(-1))
        if self.cache is not None:
            self.cache.batch_select_indices(self._rows_of_copies(rows, len(self._index)))
        self._index, self._reading, self._blocks = self._index[rows], None, []
        self._open_flags = [flag[rows] for flag in self._open_flags]
        self._layout = self._layout.select(numbers)

    def _store_finished(self, rows: torch.Tensor) -> None:
        assert self._layout is not None and self._index is not None and self.turns is not None
        stored = torch.tensor(self._layout.stored, device=rows.device)
        self.turns.store(rows, self._index, (stored,))

    def past_key_values(self, ids: torch.Tensor) -> BlockCausalCache | None:
        """
        The cache of the whole batch at the end of a run that wrote `ids` `(B, L)`; None if nothing was read, and with
        guidance, whose rows without a prompt would have none of this turn's text in the next.
        """
        if self.turns is None or not self.turns.cache.layers or self._index is None or self.num_copies == 2:
            return None
        self._store_finished(torch.arange(len(self._index), device=ids.device))
        layers, (stored,) = self.turns.collect(ids.shape[1])
        positions, valid = self._positions[:, : ids.shape[1]], self._valid[:, : ids.shape[1]]
        order = torch.where(valid & (positions < stored[:, None]), positions, NOT_IN_STREAM)
        return BlockCausalCache(layers, order, ids, positions, self.block_size)


@dataclass(frozen=True)
class _Reading:
    """The columns that the forwards of a block read of each row."""

    spans: list[Span]
    start: int | None  # the first, where all rows read one run of columns: a slice is quicker than an index
    columns: torch.Tensor  # (A, Q); a row's are a run, and its last again
    firsts: torch.Tensor  # (A,): the first of each row's
    position_ids: torch.Tensor  # (A, Q), or twice the rows with guidance
    length: int  # columns that are seen
    masks: Any

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """`(A, L)` at these columns."""
        if self.start is not None:
            return values[:, self.start : self.start + self.columns.shape[1]]
        return values.gather(1, self.columns)


def _check_cache_arguments(
    settings: PredictorSettings,
    block_size: int,
    sub_block_length: int | None,
    uses_cache: bool,
    past: Any,
) -> None:
    """Raise `ValueError` for what a block-causal model cannot be called with."""
    cache = settings.block_cache
    if cache == "prefix" or (cache is not None and sub_block_length is None):
        raise ValueError(
            f"`block_cache`={cache!r} must be left out for a block-causal model, whose cache of finished blocks is "
            "exact; 'dual' needs `sub_block_length`, and reads again within a block only the part that is written."
        )
    if settings.cache_refresh_interval is not None:
        raise ValueError(
            f"`cache_refresh_interval`={settings.cache_refresh_interval} must be left out for a block-causal model, "
            "whose cache is exact."
        )
    if not uses_cache and (cache is not None or past is not None):
        name = "past_key_values" if cache is None else "block_cache"
        raise ValueError(f"`use_cache`=False keeps no keys and values: leave out `{name}`.")
    if past is None:
        return
    if not isinstance(past, BlockCausalCache):
        raise ValueError(
            "`past_key_values` must be what `generate` of a block-causal model returned with "
            f"`return_dict_in_generate=True`, got {type(past).__name__}."
        )
    if past.block_size != block_size:
        raise ValueError(
            f"`past_key_values` are of blocks of {past.block_size} tokens, this call's have {block_size}."
        )
    if settings.cfg_scale != 0:
        raise ValueError(
            f"`past_key_values` must be left out with `cfg_scale`={settings.cfg_scale}: without guidance the text of "
            "this turn was not given, now it is."
        )


__all__ = ["BlockCausalPredictor"]
