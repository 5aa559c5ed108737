"""The denoising loop on a semi-causal model: what is cached is exact, and it is used by every rule and feature."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from hf_latent.generation.model_calls import semi_causal
from hf_latent.generation.model_calls.semi_causal import SemiCausalPredictor

MASK, EOS, PAD = 63, 61, 62
KNOBS: dict[str, Any] = {"eos_token_id": None, "pad_token_id": PAD, "return_dict_in_generate": True}
FAMILIES = ["llama", "qwen2", "mistral", "gemma2", "gemma3_text", "gpt2"]
RULES: list[dict[str, Any]] = [
    {"decoding": "low_confidence"},
    {"decoding": "entropy", "max_denoising_steps": 4},
    {"decoding": "margin", "max_denoising_steps": 9, "denoising_schedule": "dream"},
    {"decoding": "random"},
    {"decoding": "left_to_right"},
    {"decoding": "confidence_threshold", "confidence_threshold": 0.4},
    {"decoding": "entropy_bound", "entropy_bound": 1.0},
    {"decoding": "med", "entropy_threshold": 2.0, "max_tokens_per_step": 3},
    {"decoding": "med_left_to_right", "entropy_threshold": 2.0},
]


# Exactness


class Call(NamedTuple):
    """A forward of the predictor, as it was."""

    ids: torch.Tensor  # (A, L)
    valid: torch.Tensor  # (A, L)
    queried: torch.Tensor  # (A, L)
    group: torch.Tensor  # (A, L)
    indices: tuple[torch.Tensor, torch.Tensor]
    logits: torch.Tensor  # (N, V)
    index: torch.Tensor  # (A,)
    keys: list[torch.Tensor]  # per layer (A, H, L, D), after the call
    positions: torch.Tensor  # (A, L)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every forward of the test, in order."""
    recorded: list[Call] = []
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    canvas_visibility, call = semi_causal.canvas_visibility, SemiCausalPredictor.__call__

    def record_groups(clean: Any, queried: Any, order: Any, group: Any, position: Any) -> Any:
        seen.append((queried.clone(), group.clone()))
        return canvas_visibility(clean, queried, order, group, position)

    def record(self: SemiCausalPredictor, canvas: Any, request: Any) -> torch.Tensor:
        number = len(seen)
        logits = call(self, canvas, request)
        if len(seen) > number:
            queried, group = seen[-1]
            keys = [torch.cat([layer.keys, layer.values], -1).clone() for layer in self.cache.layers]
            recorded.append(
                Call(
                    canvas.ids.clone(),
                    canvas.valid.clone(),
                    queried,
                    group,
                    request.indices,
                    logits.clone(),
                    self._index.clone(),
                    keys,
                    canvas.position_ids.clone(),
                )
            )
        return logits

    monkeypatch.setattr(semi_causal, "canvas_visibility", record_groups)
    monkeypatch.setattr(SemiCausalPredictor, "__call__", record)
    return recorded


def brute_force_mask(call: Call, written: torch.Tensor, window: int | None) -> torch.Tensor:
    """
    Float mask `(A, 1, L, L)`, pair by pair. `written` `(A, L)`: number of the forward before which a token came, -1
    for those that never did.
    """
    num_rows, length = call.ids.shape
    mask = torch.full((num_rows, 1, length, length), torch.finfo(torch.float32).min)
    for a in range(num_rows):
        queried, group, times, positions = (x[a].tolist() for x in (call.queried, call.group, written, call.positions))
        for i in range(length):
            for j in range(length):
                if queried[i]:
                    sees = times[j] >= 0 or (queried[j] and group[i] == group[j])
                else:
                    sees = times[i] >= 0 and times[j] >= 0 and (times[j], j) < (times[i], i)
                if window is not None and abs(positions[i] - positions[j]) >= window:
                    sees = False
                if sees or i == j:
                    mask[a, 0, i, j] = 0
    return mask


def prepared(model: Any, call: Call, written: torch.Tensor) -> Any:
    """The mask in the form that the family takes."""
    config = model.model.config
    window = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or ())
    if "sliding_attention" in kinds:
        return {
            "full_attention": brute_force_mask(call, written, None),
            "sliding_attention": brute_force_mask(call, written, window),
        }
    return brute_force_mask(call, written, None if kinds else window)


def check_calls(model: Any, calls: list[Call], batch_size: int) -> None:
    """Every forward gave the logits of one forward of the whole canvas, and changed no token's keys and values."""
    times: dict[int, dict[int, int]] = {row: {} for row in range(batch_size)}
    before: dict[tuple[int, int], list[torch.Tensor]] = {}
    for step, call in enumerate(calls):
        written = torch.full_like(call.ids, -1)
        clean = (call.valid & (call.ids != MASK)).tolist()
        for a, row in enumerate(call.index.tolist()):
            for column in range(call.ids.shape[1]):
                if clean[a][column]:
                    written[a, column] = times[row].setdefault(column, step)
        with torch.no_grad():
            full = model(call.ids, attention_mask=prepared(model, call, written), position_ids=call.positions).logits
        torch.testing.assert_close(call.logits, full[call.indices], atol=1e-5, rtol=1e-5)
        for a, row in enumerate(call.index.tolist()):
            for column in (written[a] >= 0).nonzero().flatten().tolist():
                now = [keys[a, :, column] for keys in call.keys]
                for mine, earlier in zip(now, before.setdefault((row, column), now), strict=True):
                    assert torch.equal(mine, earlier), (step, row, column)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("num_latent_tokens", [0, 2])
def test_every_forward_gives_the_logits_of_one_full_forward(
    padded: Callable,
    family: str,
    side: str,
    num_latent_tokens: int,
    make_latent_token: Callable[..., Any],
    calls: list[Call],
) -> None:
    """Of rows in different states: with slots mixed up, positions moved or queries left in the cache, they differ."""
    model = make_latent_token("any", family)
    ids, mask = padded([[5, 9, 2, 30, 7], [11, 12, 13]], side, PAD)
    knobs = {"num_latent_tokens": num_latent_tokens, "max_denoising_steps": 4}
    out = model.generate(ids, attention_mask=mask, max_new_tokens=7, block_length=4, **knobs, **KNOBS)
    assert len(calls) > 2 and (out.sequences != MASK).all()
    check_calls(model, calls, 2)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["decoding"])
@pytest.mark.parametrize("extra", [{}, {"num_candidates": 2}])
def test_rules_reveal_in_any_order_and_the_cache_stays_exact(
    rule: dict[str, Any], extra: dict[str, Any], make_latent_token: Callable[..., Any], calls: list[Call]
) -> None:
    """Rows that are done leave, idle ones wait: at each step others are in the batch."""
    model = make_latent_token("any")
    ids = torch.tensor([[5, MASK, 9, MASK, MASK, 2, MASK, MASK], [4, 4, 8, 1, MASK, 3, 6, MASK], [MASK] * 8])
    model.infill(ids, num_latent_tokens=1, seed=3, **rule, **extra, **KNOBS)
    check_calls(model, calls, 3)


def test_groups_are_as_large_as_asked_for_and_new_at_every_step(
    make_latent_token: Callable[..., Any], calls: list[Call]
) -> None:
    model = make_latent_token("any")
    model.generate(torch.tensor([[5, 6]]), max_new_tokens=8, num_latent_tokens=2, **KNOBS)
    assert len(calls) == 8
    for call in calls:
        left = int(call.queried.sum())
        sizes = sorted(call.group[0, call.queried[0]].bincount().tolist(), reverse=True)
        assert sizes == [3] * (left // 3) + ([left % 3] if left % 3 else [])
    assert not torch.equal(calls[0].group[:, 3:], calls[1].group[:, 3:])


def test_candidates_are_as_many_as_asked_for(make_latent_token: Callable[..., Any], calls: list[Call]) -> None:
    model = make_latent_token("any")
    model.generate(torch.tensor([[5, 6]]), max_new_tokens=8, num_candidates=3, num_latent_tokens=2, **KNOBS)
    assert [int(call.queried.sum()) for call in calls] == [3, 3, 3, 3, 3, 3, 2, 1]
    assert all(call.group[call.queried].max() == 0 for call in calls)


def test_a_forward_reads_what_is_new_and_what_is_predicted_and_nothing_else(
    make_latent_token: Callable[..., Any],
) -> None:
    """What it costs: prompt and candidates once, then the token of the step before and the candidates."""
    model = make_latent_token("any")
    widths: list[int] = []
    hook = model.model.register_forward_pre_hook(
        lambda module, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    model.generate(torch.tensor([[5, 6, 7, 8]]), max_new_tokens=6, num_candidates=2, num_latent_tokens=1, **KNOBS)
    hook.remove()
    assert widths == [4 + 2, 1 + 2, 1 + 2, 1 + 2, 1 + 2, 1 + 1]


def test_a_row_that_idles_is_not_read_again(make_latent_token: Callable[..., Any], calls: list[Call]) -> None:
    """With more steps than tokens a row waits for the others; read again, its first token's keys would be new ones."""
    model = make_latent_token("any")
    ids = torch.tensor([[5, 6, 7, 8, MASK], [MASK] * 5])
    out = model.infill(ids, max_denoising_steps=5, **KNOBS)
    assert out.num_forward_passes.tolist() == [5, 5]
    check_calls(model, calls, 2)


@pytest.mark.parametrize("knobs", [{}, {"max_denoising_steps": 3}, {"max_denoising_steps": 30}])
@pytest.mark.parametrize("refines", [False, True])
@pytest.mark.parametrize("schedule", ["uniform", "dream"])
def test_fewer_candidates_than_the_schedule_wants_still_come_to_an_end(
    knobs: dict[str, Any], refines: bool, schedule: str, make_latent_token: Callable[..., Any]
) -> None:
    """A block stopped by refinement, of whose masks one was a candidate, waited for a quota that was 0 for ever."""
    model = make_latent_token("any")
    knobs = knobs | {"denoising_schedule": schedule, "num_candidates": 1}
    if refines:
        knobs |= {"latent_refinement": True, "stop_kl": 1e9, "refinement_steps": 1}
    out = model.generate(torch.tensor([[5, 6], [7, 8]]), max_new_tokens=8, **knobs, **KNOBS)
    assert (out.sequences != MASK).all() and (out.num_forward_passes <= 40).all()
