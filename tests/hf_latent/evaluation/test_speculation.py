"""Drafts are judged, forwards counted and texts compared as they come from `generate`."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hf_latent.evaluation import measure_speculation

PROMPTS = [{"input_ids": torch.tensor([[1, 2]])}, {"input_ids": torch.tensor([[3]])}]


class Scripted:
    """Writes four tokens; with two drafts it needs two forwards, of which the second keeps one draft of two."""

    def __init__(self, drafted_text: int = 7) -> None:
        self.calls: list[tuple[int, bool | str]] = []
        self.drafted_text = drafted_text

    def generate(
        self, input_ids: torch.Tensor, num_latent_tokens: int, self_speculative: bool | str = False, **_: Any
    ) -> Any:
        self.calls.append((num_latent_tokens, self_speculative))
        written = torch.full((1, 4), self.drafted_text if self_speculative else 7)
        return SimpleNamespace(
            sequences=torch.cat([input_ids, written], dim=1),
            num_forward_passes=torch.tensor([2]),
            num_judged=torch.tensor([[2, 2]]),
            num_accepted=torch.tensor([[2, 1]]),
        )


def test_counts_are_sums_over_the_prompts_and_not_over_repeats() -> None:
    """Repeats are for the clock alone: counted twice, tokens per forward would stay and the prompts double."""
    for repeats in (1, 3):
        model = Scripted()
        result = measure_speculation(model, PROMPTS, 2, max_new_tokens=4, repeats=repeats)
        assert result.tokens_per_forward == 8 / 4
        assert result.accepted == [1.0, 0.5]
        assert model.calls == [(0, False), (2, "plain")] * 2 * repeats
        assert result.speedup > 0 and result.ms_per_token > 0 and result.plain_ms_per_token > 0


def test_another_text_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"behind \[\[1, 2\]\] gives \[\[1, 2, 8, 8, 8, 8\]\], plain decoding"):
        measure_speculation(Scripted(drafted_text=8), PROMPTS, 2, max_new_tokens=4)


@pytest.mark.parametrize(
    ("prompts", "number", "repeats", "message"),
    [
        (PROMPTS, 0, 1, "`num_latent_tokens` must be at least 1, got 0"),
        (PROMPTS, 2, 0, "`repeats` must be at least 1, got 0"),
        ([], 2, 1, "`prompts` must be at least 1, got 0"),
    ],
)
def test_nothing_to_measure_is_refused(prompts: list, number: int, repeats: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure_speculation(Scripted(), prompts, number, max_new_tokens=4, repeats=repeats)
