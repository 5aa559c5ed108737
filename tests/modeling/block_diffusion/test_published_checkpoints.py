"""Folders of SDAR, SDAR-MoE, Fast-dLLM v2 and LLaDA2 as they are published, and the reference's logits of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

import hf_latent
from hf_latent.generation.model_calls.block_causal_masks import noisy_and_clean_visibility
from hf_latent.generation.model_calls.semi_causal_masks import is_visible

# Folder to the names of its classes and the block size that its states and its noisy copies were recorded with.
FAMILIES = {
    "sdar-tiny": ("Sdar", 4),
    "sdar-moe-tiny": ("SdarMoe", 4),
    "fast-dllm-v2-tiny": ("FastDllm", 8),
    "llada2-tiny": ("Llada2", 8),
}
# The fixtures' READMEs: the reference's own float32 noise is below 1e-4.
ATOL = 5e-4
ATTENTIONS = pytest.mark.parametrize("attention", ["sdpa", "eager"])


@pytest.fixture(params=list(FAMILIES))
def folder(request: pytest.FixtureRequest, fixtures_dir: Path) -> Path:
    return fixtures_dir / request.param


def load(folder: Path, attention: str = "sdpa") -> Any:
    return AutoModel.from_pretrained(folder, attn_implementation=attention)


def raw_logits(model: Any, ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Logits at the states they are made of: those of Fast-dLLM v2's reference, which shifts outside of its model."""
    with torch.no_grad():
        states = model(ids, output_hidden_states=True, logits_to_keep=1, **kwargs).hidden_states[-1]
        return model.lm_head(states)


def as_predictions(model: Any, reference: torch.Tensor) -> torch.Tensor:
    """A reference's logits where ours are: moved one to the right in a family that predicts the next token."""
    if not model.reads_previous_state:
        return reference
    return torch.cat([reference[:, :1], reference[:, :-1]], 1)


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM])
def test_a_published_folder_loads_without_its_code(folder, auto_class):
    """Its `auto_map` names files that are not there: ours is taken, and nobody is asked to trust anything."""
    name = FAMILIES[folder.name][0]
    assert type(AutoConfig.from_pretrained(folder)) is getattr(hf_latent, f"{name}Config")
    model, info = auto_class.from_pretrained(folder, output_loading_info=True)
    assert type(model) is getattr(hf_latent, f"{name}ForMaskedDiffusion") and model.is_block_causal
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert model.config._attn_implementation == "sdpa"  # SDAR's file asks for flex attention, of its own code


@ATTENTIONS
def test_logits_are_the_references_with_every_block_size(folder, expected, attention):
    model = load(folder, attention)
    groups = [name.split(".")[0] for name in expected if name.startswith("block") and name.endswith(".logits")]
    assert len(groups) >= 2
    for group in groups:
        reference = expected[f"{group}.logits"]
        with torch.no_grad():
            logits = model(expected["input_ids"][: len(reference)], block_size=int(group.removeprefix("block"))).logits
        torch.testing.assert_close(logits, as_predictions(model, reference), atol=ATOL, rtol=0)


@ATTENTIONS
@pytest.mark.parametrize("folder", ["sdar-tiny", "sdar-moe-tiny", "llada2-tiny"], indirect=True)
def test_hidden_states_are_the_references(folder, expected, attention):
    with torch.no_grad():
        model = load(folder, attention)
        out = model(expected["input_ids"][:1], block_size=FAMILIES[folder.name][1], output_hidden_states=True)
    for i, states in enumerate(out.hidden_states):
        torch.testing.assert_close(states, expected[f"hidden_states.{i}"], atol=ATOL, rtol=0)
    assert f"hidden_states.{len(out.hidden_states)}" not in expected


@pytest.mark.parametrize("folder", ["sdar-tiny"], indirect=True)
def test_a_last_block_that_is_cut_off_is_the_references(folder, expected):
    model = load(folder)
    logits = raw_logits(model, expected["partial.input_ids"])
    torch.testing.assert_close(logits, expected["partial.logits"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("folder", ["fast-dllm-v2-tiny"], indirect=True)
def test_the_published_block_of_32_is_the_references(folder, expected):
    logits = raw_logits(load(folder), expected["long.input_ids"], block_size=32)
    torch.testing.assert_close(logits, expected["long.block32.logits"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("folder", ["llada2-tiny"], indirect=True)
def test_a_block_of_everything_is_the_references_full_attention(folder, expected):
    logits = raw_logits(load(folder), expected["input_ids"][:1], block_size=24)
    torch.testing.assert_close(logits, expected["full.logits"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("folder", ["sdar-tiny", "sdar-moe-tiny", "fast-dllm-v2-tiny"], indirect=True)
def test_a_block_behind_its_prefix_is_the_references_block_with_a_cache(folder, expected):
    prefix, block = expected["cached.prefix_ids"], expected["cached.block_ids"]
    logits = raw_logits(load(folder), torch.cat([prefix, block], 1), block_size=block.shape[1])
    torch.testing.assert_close(logits[:, prefix.shape[1] :], expected["cached.block_logits"], atol=ATOL, rtol=0)


@pytest.mark.parametrize("folder", ["llada2-tiny"], indirect=True)
def test_tokens_go_to_the_references_experts(folder, expected):
    model, routed = load(folder), {}
    for i, layer in enumerate(model.model.layers):
        if hasattr(layer.mlp, "gate"):
            layer.mlp.gate.register_forward_hook(lambda *args, i=i: routed.update({i: args[2]}))
    raw_logits(model, expected["input_ids"][:1], block_size=8)
    for i, (logits, _, experts) in routed.items():
        torch.testing.assert_close(logits[None], expected[f"router.{i}.logits"], atol=ATOL, rtol=0)
        assert torch.equal(experts.sort(-1).values[None], expected[f"router.{i}.topk_idx"].sort(-1).values)
    assert set(routed) == {1, 2}


@pytest.mark.parametrize("folder", ["sdar-tiny", "fast-dllm-v2-tiny", "llada2-tiny"], indirect=True)
def test_noisy_and_clean_copies_are_read_as_by_the_reference(folder, expected):
    size = FAMILIES[folder.name][1]
    mask = expected["training.attention_mask"].bool()
    noisy = [value for name, value in sorted(expected.items()) if name.startswith("training.noisy_ids")]
    noisy, clean = torch.cat(noisy), expected["training.clean_ids"]
    positions = torch.arange(clean.shape[1])[None]
    seen = noisy_and_clean_visibility(positions, torch.ones_like(positions, dtype=torch.bool), size)
    assert torch.equal(is_visible(seen, seen)[0], mask.view(mask.shape[-2:]))
    model = load(folder)
    clean = clean.expand_as(noisy)
    logits = raw_logits(model, noisy, clean_ids=clean, block_size=size)
    torch.testing.assert_close(logits, expected["training.noisy_logits"], atol=ATOL, rtol=0)
    with torch.no_grad():
        logits = model(noisy, clean_ids=clean, block_size=size).logits
    reference = as_predictions(model, expected["training.noisy_logits"])
    torch.testing.assert_close(logits, reference, atol=ATOL, rtol=0)


@pytest.mark.parametrize("folder", ["fast-dllm-v2-tiny"], indirect=True)
def test_the_loss_of_a_mask_and_its_complement_is_the_references(folder, expected):
    recorded = json.loads((folder / "expected.json").read_text())["logits_info"]["training_loss"]
    noisy = torch.cat([expected["training.noisy_ids_0"], expected["training.noisy_ids_1"]])
    clean = expected["training.clean_ids"].expand_as(noisy)
    with torch.no_grad():
        loss = load(folder)(noisy, clean_ids=clean, labels=expected["training.labels"]).loss
    assert float(loss) == pytest.approx(recorded, abs=ATOL)


@ATTENTIONS
def test_left_padding_moves_no_block(folder, expected, attention):
    """Blocks are counted from a row's first token; the references take one row at a time."""
    model, ids = load(folder, attention), expected["input_ids"][:1]
    alone = raw_logits(model, ids)
    padded = torch.cat([torch.full((1, 3), 5), ids], 1)
    mask = (torch.arange(padded.shape[1]) >= 3).long()[None]
    torch.testing.assert_close(raw_logits(model, padded, attention_mask=mask)[:, 3:], alone, atol=ATOL, rtol=0)
    with torch.no_grad():
        logits = model(padded, attention_mask=mask).logits[:, 3:]
    torch.testing.assert_close(logits, as_predictions(model, alone), atol=ATOL, rtol=0)
