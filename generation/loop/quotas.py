"""How many tokens each row commits in a step: by its schedule, or within bounds that leave the rest to the belief."""

from hf_latent.generation.commit.schedule import dream_quota, uniform_quota
from hf_latent.generation.state.rows import RowState
from hf_latent.generation.state.settings import DenoisingSettings


def quotas(rows: list[RowState], settings: DenoisingSettings) -> list[int]:
    """Tokens that each row commits under a rule that leaves their number to the schedule."""
    return [_quota(row, settings) for row in rows]


def bounds(rows: list[RowState], settings: DenoisingSettings) -> tuple[list[int], list[int]]:
    """Least and most tokens that each row commits under a rule that finds their number itself."""
    floors, ceilings = [], []
    for row in rows:
        floor, ceiling = settings.min_tokens_per_step, row.num_masked
        if settings.steps_per_block is not None:
            floor = max(floor, _quota(row, settings))
        elif settings.follows_schedule:
            due = row.num_masked_at_start
            if not row.is_last_step:
                due = row.num_masked_at_start // row.num_steps * (row.step + 1)
            ceiling = due - (row.num_masked_at_start - row.num_masked)
        elif row.is_last_step:
            floor = row.num_masked
        if settings.max_tokens_per_step is not None:
            ceiling = min(ceiling, settings.max_tokens_per_step)
        floors.append(floor)
        ceilings.append(ceiling)
    return floors, ceilings


def _quota(row: RowState, settings: DenoisingSettings) -> int:
    if row.num_steps == 0:
        return 1
    if row.is_last_step:  # also what candidates that were fewer than a quota have left
        return row.num_masked
    if settings.dream_schedule:
        return dream_quota(row.num_masked, row.step, row.num_steps, settings.schedule_epsilon)
    if settings.steps_per_block is not None:
        # Of a block that is partly given, the quotas are those of a whole one; an answer may be longer.
        return uniform_quota(max(settings.block_length, row.num_masked_at_start), row.step, row.num_steps)
    return uniform_quota(row.num_masked_at_start, row.step, row.num_steps)


__all__ = ["bounds", "quotas"]
