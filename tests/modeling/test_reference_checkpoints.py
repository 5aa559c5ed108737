"""Checkpoint folders as they are published, and the logits that the reference code computes with them."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

import hf_latent

CLASSES = {"llada-tiny": "Llada", "llada-tiny-gqa": "Llada", "dream-tiny": "Dream"}
CLASSES |= {"llada-moe-tiny": "LladaMoe", "illada-tiny": "Illada"}
# Block-causal ones, whose logits tests/modeling/block_diffusion compares.
BLOCK_CAUSAL = ("sdar-tiny", "sdar-moe-tiny", "fast-dllm-v2-tiny", "llada2-tiny")
# What we write differently from the published file: who made it, and the names of today's transformers.
DECLARED = {"architectures", "auto_map", "transformers_version", "torch_dtype", "dtype", "bos_token_id"}
# How SDAR's code is to compute attention, which is for whoever loads the model to say.
DECLARED |= {"attn_implementation"}
# What some published files leave out, and ours say.
ADDED = {"block_size", "mask_token_id", "eos_token_id", "pad_token_id"}
# The fixtures' READMEs: the reference's own float32 noise is 4e-5.
ATOL = 5e-4


@pytest.fixture(params=list(CLASSES))
def folder(request: pytest.FixtureRequest, fixtures_dir: Path) -> Path:
    return fixtures_dir / request.param


@pytest.mark.parametrize("auto_class", [AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM])
def test_a_published_folder_loads_without_its_code(folder, auto_class):
    """Its `auto_map` names files that are not there: ours is taken, and nobody is asked to trust anything."""
    name = CLASSES[folder.name]
    assert type(AutoConfig.from_pretrained(folder)) is getattr(hf_latent, f"{name}Config")
    model, info = auto_class.from_pretrained(folder, output_loading_info=True)
    assert type(model) is getattr(hf_latent, f"{name}ForMaskedDiffusion")
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_and_hidden_states_are_the_references(folder, expected, attention):
    model = AutoModel.from_pretrained(folder, attn_implementation=attention)
    with torch.no_grad():
        out = model(expected["input_ids"], output_hidden_states=True)
    logits = expected["shifted_logits" if "shifted_logits" in expected else "logits"]
    torch.testing.assert_close(out.logits, logits, atol=ATOL, rtol=0)
    for i, states in enumerate(out.hidden_states):
        torch.testing.assert_close(states, expected[f"hidden_states.{i}"], atol=ATOL, rtol=0)
    assert f"hidden_states.{len(out.hidden_states)}" not in expected


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("folder", "side"),
    [(name, "left") for name in CLASSES] + [(name, "right") for name in ("llada-tiny", "llada-tiny-gqa")],
    indirect=["folder"],
)
def test_padded_logits_are_the_references(folder, expected, attention, side):
    """Dream's reference leaves the shift to its sampler: its column j - 1 is ours at j, within a row's tokens."""
    group = {name.split(".")[1]: value for name, value in expected.items() if name.startswith(f"{side}_padded.")}
    model = AutoModel.from_pretrained(folder, attn_implementation=attention)
    inputs = {name: group[name] for name in ("input_ids", "attention_mask", "position_ids") if name in group}
    with torch.no_grad():
        logits = model(**inputs).logits
    for row, valid in enumerate(group["attention_mask"].bool()):
        reference = group["logits"][row, valid]
        if folder.name == "dream-tiny":
            reference = torch.cat([reference[:1], reference[:-1]])
        torch.testing.assert_close(logits[row, valid], reference, atol=ATOL, rtol=0)


@pytest.mark.parametrize("folder", [*CLASSES, *BLOCK_CAUSAL], indirect=True)
def test_saving_gives_the_published_names_back(folder, tmp_path):
    """So that what is trained here also loads in the original code."""
    AutoModel.from_pretrained(folder).save_pretrained(tmp_path)
    theirs, ours = (json.loads((path / "config.json").read_text()) for path in (folder, tmp_path))
    for name in theirs.keys() - DECLARED:
        assert ours[name] == theirs[name], name
    assert ours.keys() - theirs.keys() - DECLARED <= ADDED
    before, after = (load_file(path / "model.safetensors") for path in (folder, tmp_path))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    again = AutoModel.from_pretrained(tmp_path)
    # `Trainer` resumes with a plain `load_state_dict`: from the original names, split and stacked as they need.
    fresh = type(again)(again.config)
    missing, unexpected = fresh.load_state_dict(after, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if again.config.tie_word_embeddings else set())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in fresh.state_dict().items())


def test_the_generation_config_beside_it_is_read(fixtures_dir):
    config = AutoModel.from_pretrained(fixtures_dir / "dream-tiny").generation_config
    assert (config.mask_token_id, config.pad_token_id, config.eos_token_id) == (511, 509, 509)
    assert (config.decoding, config.denoising_schedule) == ("entropy", "dream")
