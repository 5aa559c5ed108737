"""
Which positions of each row a forward of a block-causal model reads, on the host: where its blocks begin, and how far
its cache is final.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch

from hf_latent.generation.state.canvas import Canvas


class Span(NamedTuple):
    """
    The positions that a forward reads of a row.

    Args:
        start, end: the first and one past the last.
        seen: one past the last position whose keys are there to be seen, cached or read.
        from_before: whether the position at `end` is predicted by the state before it, without being read.
    """

    start: int
    end: int
    seen: int
    from_before: bool


@dataclass
class RowLayout:
    """
    Of `A` rows, lists with one entry each.

    Args:
        block_size: positions of a block of the attention.
        part_length: of a part of it, which is written as a whole.
        num_columns: of the canvas.
        offsets: columns before the row's first token.
        lengths: its tokens, given and to be written.
        answer_ends: one past the position of its answer's last token; 0 without.
        part_starts: of each block of the canvas, the first position of its part of an attention block.
        stored: positions from the first whose keys and values are final and cached.
        read_block: start of the attention block whose positions have all been read in their present part, -1 for none.
        written_firsts: start of the part whose first position is known to be written; -1 for none.
    """

    block_size: int
    part_length: int
    num_columns: int
    offsets: list[int]
    lengths: list[int]
    answer_ends: list[int]
    part_starts: list[list[int]]
    stored: list[int]
    read_block: list[int]
    written_firsts: list[int]

    @classmethod
    def of(cls, canvas: Canvas, block_size: int, part_length: int) -> "RowLayout":
        """Of all rows, nothing read yet; the one host sync of a run."""
        num_rows, num_columns = canvas.ids.shape
        num_blocks = int(canvas.num_blocks.max())
        index = torch.where(canvas.block_index < 0, num_blocks, canvas.block_index).clamp(max=num_blocks)
        firsts = torch.full((num_rows, num_blocks + 1), num_columns, device=index.device)
        firsts.scatter_reduce_(1, index, canvas.position_ids, "amin")
        offsets = (canvas.valid.cumsum(-1) == 0).sum(-1)
        answer_ends = ((canvas.position_ids + 1) * canvas.answer).amax(-1)
        rows = torch.stack([offsets, canvas.valid.sum(-1), answer_ends], -1)
        on_host = torch.cat([rows, firsts[:, :num_blocks] // part_length * part_length], -1).tolist()
        return cls(
            block_size,
            part_length,
            num_columns,
            offsets=[row[0] for row in on_host],
            lengths=[row[1] for row in on_host],
            answer_ends=[row[2] for row in on_host],
            part_starts=[row[3:] for row in on_host],
            stored=[0] * num_rows,
            read_block=[-1] * num_rows,
            written_firsts=[-1] * num_rows,
        )

    def select(self, numbers: list[int]) -> "RowLayout":
        """These rows."""
        values = {name: [value[i] for i in numbers] for name, value in vars(self).items() if isinstance(value, list)}
        return RowLayout(self.block_size, self.part_length, self.num_columns, **values)

    def part_start(self, row: int, block: int) -> int:
        """First position of the part of an attention block that a block of the canvas lies in."""
        starts = self.part_starts[row]
        return starts[min(block, len(starts) - 1)] if starts else 0  # a row that is done is at none of them

    def block_start(self, row: int, block: int) -> int:
        """First position of that attention block."""
        return self.part_start(row, block) // self.block_size * self.block_size

    def first_columns(self, blocks: list[int]) -> tuple[list[int], list[int]]:
        """Columns of the first positions of the attention blocks, and of their parts."""
        last = self.num_columns - 1
        finders = self.block_start, self.part_start
        first, second = (
            [min(self.offsets[i] + find(i, block), last) for i, block in enumerate(blocks)] for find in finders
        )
        return first, second

    def firsts_are_written(self, blocks: list[int]) -> bool:
        """Whether the first positions of all rows' parts are known to be."""
        return all(self.written_firsts[i] == self.part_start(i, block) for i, block in enumerate(blocks))

    def record_firsts(self, blocks: list[int], part_open: list[int]) -> None:
        """The first positions of the rows' parts are open, or not."""
        for i, block in enumerate(blocks):
            self.written_firsts[i] = -1 if part_open[i] else self.part_start(i, block)

    def span(self, row: int, block: int, part_open: bool, from_before: bool, reads_parts: bool) -> Span:
        """
        What a forward with a cache reads of a row at a `block` of the canvas.

        Args:
            part_open: whether the first position of the row's part is open.
            from_before: whether that is predicted by the block before.
            reads_parts: whether a part alone is read, once its attention block has been (Fast-dLLM v2's block cache):
                while its own first position is open, which the part before it predicts, all of the block is.
        """
        start, part, length = self.block_start(row, block), self.part_start(row, block), self.lengths[row]
        end = min(start + self.block_size, length)
        first = min(self.stored[row], start)
        if from_before and not self.answer_ends[row]:
            return Span(min(first, start - 1), start, start, True)
        if self.answer_ends[row]:
            # The answer is predicted at every forward, from drafts of the blocks up to its own.
            answer_end = -(-self.answer_ends[row] // self.block_size) * self.block_size
            end = max(end, min(answer_end, length))
            return Span(min(first, start - 1) if from_before else first, end, end, False)
        if reads_parts and first == start and self.read_block[row] == start and not part_open:
            return Span(part, min(part + self.part_length, length), end, False)
        return Span(first, end, end, False)

    def uncached_span(self, row: int, block: int, from_before: bool) -> Span:
        """The same without a cache: everything from the first position on."""
        span = self.span(row, block, False, from_before, False)
        return span._replace(start=0)

    def record(self, blocks: list[int], spans: list[Span]) -> None:
        """Forwards of these spans have been made."""
        for i, (block, span) in enumerate(zip(blocks, spans, strict=True)):
            start = self.block_start(i, block)
            self.stored[i] = max(self.stored[i], start)
            if span.end > start and span.start <= start:
                self.read_block[i] = start


__all__ = ["RowLayout", "Span"]
