"""Self-speculative decoding beside plain decoding of the same model: tokens per forward, kept drafts, seconds."""

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from hf_latent.data.numbers import takes_numbers
from hf_latent.modeling.mode import in_evaluation_mode

__all__ = ["SpeculationResult", "measure_speculation"]


@dataclass(frozen=True)
class SpeculationResult:
    """
    One number of latent tokens, all prompts.

    Args:
        num_latent_tokens (`int`): tokens that are drafted at each forward.
        tokens_per_forward (`float`): tokens written, divided by forwards.
        speedup (`float`): seconds of plain decoding divided by those with drafts, the median over the repeats.
        plain_ms_per_token, ms_per_token (`float`): milliseconds of wall time, medians over the repeats.
        accepted (`list[float]`): share of the first, second, ... drafts that were kept, of those that were judged.
    """

    num_latent_tokens: int
    tokens_per_forward: float
    speedup: float
    plain_ms_per_token: float
    ms_per_token: float
    accepted: list[float]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@takes_numbers
@in_evaluation_mode
def measure_speculation(
    model: Any,
    prompts: Sequence[Mapping[str, torch.Tensor]],
    num_latent_tokens: int,
    *,
    max_new_tokens: int,
    repeats: int = 1,
) -> SpeculationResult:
    """
    Write behind each prompt greedily, with and without drafts, one prompt at a time, both ways in turns.

    Args:
        model: a [`LatentTokenForCausalLM`].
        prompts: `input_ids` and `attention_mask` of shape `(1, P)` each.
        num_latent_tokens (`int`): tokens to draft, at least 1.
        max_new_tokens (`int`): tokens to write at most.
        repeats (`int`): how often everything is timed.

    Raises:
        ValueError: for numbers out of range; if a text is not that of plain decoding.
    """
    for name, value in (("num_latent_tokens", num_latent_tokens), ("repeats", repeats), ("prompts", len(prompts))):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    knobs = {"max_new_tokens": max_new_tokens, "do_sample": False, "return_dict_in_generate": True}
    drafting = {"num_latent_tokens": num_latent_tokens, "self_speculative": "plain"}
    plain_times, times, num_tokens, num_forwards = [], [], 0, 0
    judged = accepted = torch.zeros(num_latent_tokens, dtype=torch.long)
    for repeat in range(repeats):
        plain_seconds = seconds = 0.0
        for inputs in prompts:
            start = time.perf_counter()
            plain = model.generate(**inputs, num_latent_tokens=0, **knobs).sequences
            middle = time.perf_counter()
            drafted = model.generate(**inputs, **drafting, **knobs)
            seconds += time.perf_counter() - middle
            plain_seconds += middle - start
            if not torch.equal(plain, drafted.sequences):
                raise ValueError(
                    f"speculative decoding behind {inputs['input_ids'].tolist()} gives {drafted.sequences.tolist()}, "
                    f"plain decoding {plain.tolist()}: report this, they must be the same."
                )
            if repeat == 0:
                num_tokens += plain.shape[1] - inputs["input_ids"].shape[1]
                num_forwards += int(drafted.num_forward_passes)
                judged, accepted = judged + drafted.num_judged[0].cpu(), accepted + drafted.num_accepted[0].cpu()
        plain_times.append(plain_seconds)
        times.append(seconds)
    shares = (a / max(j, 1) for a, j in zip(accepted.tolist(), judged.tolist(), strict=True))
    return SpeculationResult(
        num_latent_tokens=num_latent_tokens,
        tokens_per_forward=num_tokens / num_forwards,
        speedup=statistics.median(p / s for p, s in zip(plain_times, times, strict=True)),
        plain_ms_per_token=1000 * statistics.median(plain_times) / num_tokens,
        ms_per_token=1000 * statistics.median(times) / num_tokens,
        accepted=[round(share, 4) for share in shares],
    )
