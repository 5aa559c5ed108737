"""A row is written the same alone and in any batch, wherever its padding is."""

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hf_latent import DiffusionGenerateOutput
from hf_latent.generation.commit.rules import RULES

EOS, PAD, MASK = 45, 46, 47
BY_SCHEDULE = ("low_confidence", "random", "entropy", "margin", "left_to_right")
ALL_RULES = tuple(RULES)
KNOBS = {"confidence_threshold": 0.7, "entropy_threshold": 0.8, "entropy_bound": 0.6, "stability_kl": 0.5}
texts = st.lists(st.integers(0, 44), min_size=1, max_size=6)
templates = st.lists(st.one_of(st.just(MASK), st.integers(0, 44)), min_size=2, max_size=10).filter(lambda x: MASK in x)


def pad(rows: list[list[int]], side: str, extra: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows)) + extra
    ids = [[PAD] * (width - len(row)) + row if side == "left" else row + [PAD] * (width - len(row)) for row in rows]
    mask = [
        [0] * (width - len(r)) + [1] * len(r) if side == "left" else [1] * len(r) + [0] * (width - len(r))
        for r in rows
    ]
    return torch.tensor(ids), torch.tensor(mask)


def knobs(data: st.DataObject, decoding: str, model: torch.nn.Module) -> dict[str, object]:
    """Anything that may go with a rule, and with the model."""
    drawn = {
        "decoding": decoding,
        "block_length": data.draw(st.none() | st.integers(1, 6), "block_length"),
        "max_denoising_steps": data.draw(st.sampled_from([None, 10, 13]), "max_denoising_steps"),
        "denoising_schedule": data.draw(st.sampled_from(["uniform", "dream"]), "denoising_schedule"),
        "pace_to_schedule": data.draw(st.booleans(), "pace_to_schedule"),
        "max_tokens_per_step": data.draw(st.sampled_from([None, 2]), "max_tokens_per_step"),
        "temperature": data.draw(st.sampled_from([0.0, 0.9]), "temperature"),
        "cfg_scale": data.draw(st.sampled_from([0.0, 0.0, 1.0]), "cfg_scale"),
        "top_p": data.draw(st.sampled_from([None, 0.8]), "top_p"),
        "top_k": data.draw(st.sampled_from([None, 1, 5]), "top_k"),
        "repetition_penalty": data.draw(st.sampled_from([None, 1.5]), "repetition_penalty"),
        "deferred_tokens": data.draw(st.sampled_from([None, [EOS, 3]]), "deferred_tokens"),
        "eos_token_id": data.draw(st.sampled_from([None, list(range(0, 46, 6))]), "eos_token_id"),
        "block_cache": data.draw(st.sampled_from([None, "prefix", "dual"]), "block_cache"),
        "cache_refresh_interval": data.draw(st.sampled_from([None, 2]), "cache_refresh_interval"),
        "latent_refinement": data.draw(st.booleans(), "latent_refinement"),
        "refinement_ratio": data.draw(st.sampled_from([0.0, 0.2]), "refinement_ratio"),
        "refinement_steps": data.draw(st.sampled_from([0, 3]), "refinement_steps"),
        "refinement_kl": data.draw(st.sampled_from([0.0, 0.1, 1.0]), "refinement_kl"),
        "stop_kl": data.draw(st.sampled_from([0.0, 0.3]), "stop_kl"),
    }
    if drawn["latent_refinement"]:
        drawn["rejection_js"] = data.draw(st.sampled_from([None, 0.3]), "rejection_js")
    if drawn["block_cache"] is None and not model.reads_previous_state:
        drawn["verification_threshold"] = data.draw(st.sampled_from([None, 0.3, 1.0]), "verification_threshold")
    return drawn | KNOBS | {"seed": 11, "return_dict_in_generate": True}


def own(out: DiffusionGenerateOutput, row: int, start: int, length: int) -> dict[str, list]:
    """What is the row's own in an output, without padding; entropies to 4 digits, nan as None."""
    columns = slice(start, start + length)
    entropy = out.commit_entropy[row, columns].tolist()
    missing = length - len(entropy)  # columns that no row came to, with `append_blocks`
    return {
        "ids": out.sequences[row, columns].tolist() + missing * [PAD],
        "commit_step": out.commit_step[row, columns].tolist() + missing * [-1],
        "entropy": [None if math.isnan(x) else pytest.approx(x, abs=1e-4) for x in entropy] + missing * [None],
        "forwards": int(out.num_forward_passes[row]),
        **trace(out, row),
    }


def trace(out: DiffusionGenerateOutput, row: int) -> dict[str, list]:
    """What a row wrote down of itself, without what belongs to longer rows."""
    forwards = int(out.num_forward_passes[row])
    found = {
        name: [None if math.isnan(x) else pytest.approx(x, abs=1e-4) for x in values[row, :forwards].tolist()]
        for name, values in (("belief_kl", out.belief_kl), ("answer_entropy", out.answer_entropy))
        if values is not None
    }
    names = ("leftmost_share", "leftmost_distance", "num_refinement_passes", "exit_step", "num_remasked")
    return found | {
        name: pytest.approx(float(getattr(out, name)[row]), nan_ok=True)
        for name in names
        if getattr(out, name) is not None
    }


@pytest.mark.parametrize("decoding", ALL_RULES)
@given(data=st.data())
@settings(max_examples=7)
def test_a_row_generates_the_same_in_any_batch(model: torch.nn.Module, decoding: str, data: st.DataObject) -> None:
    """
    Padded left, padded right, alone: ids, commit order, entropies and forwards, given tokens kept, no mask left.

    The published samplers decode another answer in another batch: padding is attended to or shifts positions, one
    row's count of masks rules another's, penalties count padding, noise is drawn for the batch as a whole.
    """
    rows = data.draw(st.lists(texts, min_size=2, max_size=3), "rows")
    settings = knobs(data, decoding, model) | {
        "max_new_tokens": data.draw(st.integers(1, 8), "max_new_tokens"),
        "min_new_tokens": data.draw(st.sampled_from([None, 3]), "min_new_tokens"),
    }
    if settings["block_length"] is not None:
        settings["append_blocks"] = data.draw(st.booleans(), "append_blocks")
    number = settings["max_new_tokens"]
    expected = []
    for i, row in enumerate(rows):
        alone = model.generate(torch.tensor([row]), row_indices=[i], **settings)
        assert alone.sequences[0, : len(row)].tolist() == row
        assert MASK not in alone.sequences
        assert alone.commit_step[0, : len(row)].tolist() == [-1] * len(row)
        expected.append(own(alone, 0, 0, len(row) + number))
    for side in ("left", "right"):
        ids, mask = pad(rows, side, extra=data.draw(st.integers(0, 2), "extra padding"))
        batch = model.generate(ids, attention_mask=mask, **settings)
        for i, row in enumerate(rows):
            start = ids.shape[1] - len(row) if side == "left" else 0
            assert own(batch, i, start, len(row) + number) == expected[i], (side, i)
        assert MASK not in batch.sequences


@pytest.mark.parametrize("decoding", ALL_RULES)
@given(data=st.data())
@settings(max_examples=7)
def test_a_row_is_infilled_the_same_in_any_batch(model: torch.nn.Module, decoding: str, data: st.DataObject) -> None:
    """Masks at random places, another number in every row, none in some."""
    rows = data.draw(st.lists(st.one_of(templates, texts), min_size=2, max_size=3), "rows")
    assume(any(MASK in row for row in rows))
    settings = knobs(data, decoding, model)
    expected = []
    for i, row in enumerate(rows):
        if MASK not in row:
            nothing = {"commit_step": [-1] * len(row), "entropy": [None] * len(row), "forwards": 0}
            nan = pytest.approx(math.nan, nan_ok=True)
            nothing |= {"leftmost_share": nan, "leftmost_distance": nan}
            if settings["latent_refinement"]:
                nothing |= {"belief_kl": [], "num_refinement_passes": 0}
            if settings.get("verification_threshold") is not None:
                nothing |= {"num_remasked": 0}
            expected.append({"ids": row} | nothing)
            continue
        alone = model.infill(torch.tensor([row]), row_indices=[i], **settings)
        for token, written, step in zip(row, alone.sequences[0].tolist(), alone.commit_step[0].tolist(), strict=True):
            assert (written != MASK and step >= 0) if token == MASK else (written == token and step == -1)
        expected.append(own(alone, 0, 0, len(row)))
    for side in ("left", "right"):
        ids, mask = pad(rows, side)
        batch = model.infill(ids, attention_mask=mask, **settings)
        for i, row in enumerate(rows):
            start = ids.shape[1] - len(row) if side == "left" else 0
            assert own(batch, i, start, len(row)) == expected[i], (side, i)
