"""What users expect of a model, of block-causal ones that were made of decoders of transformers."""

import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModel, AutoModelForCausalLM

from hf_latent import LatentTokenForMaskedDiffusion

# Among them windows in all or some layers, absolute positions, capped and scaled logits, experts, fused projections.
FAMILIES = (
    *("llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text"),
    *("gpt2", "olmo2", "phi3", "cohere", "granite", "qwen3_moe"),
)
WINDOWS = ("qwen2", "mistral", "gemma2", "gemma3_text")
TYPICAL = pytest.mark.parametrize("family", ["mistral", "gemma3_text", "gpt2", "qwen3_moe"])
LENGTH, BLOCK, MASK = 11, 4, 63


@pytest.fixture(scope="module")
def build(make_decoder) -> Any:
    """`build(family)`: the block-causal model of a decoder of 64 tokens, in blocks of 4; 63 masks."""

    def make(family: str, attention: str | None = None, shift_logits: bool = True) -> Any:
        kind = {"attention": "block_causal", "block_size": BLOCK, "shift_logits": shift_logits}
        return LatentTokenForMaskedDiffusion.from_backbone(make_decoder(family, attention), mask_token_id=MASK, **kind)

    return make


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows of tokens, some of them masks."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, 60, (2, LENGTH), generator=generator)
    return ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.3, MASK)


def logits_of(model: Any, ids: torch.Tensor | None, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, **kwargs).logits


def close(found: torch.Tensor, expected: torch.Tensor, message: str = "") -> None:
    torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-4, msg=lambda m: f"{message}: {m}")


def test_a_token_is_reached_from_its_own_block_and_those_before(build, ids, family):
    """With windows of 4 through two layers at most seven positions away, where every layer has one."""
    model = build(family, shift_logits=False)
    before = logits_of(model, ids)
    blocks = torch.arange(LENGTH) // BLOCK
    for j in range(LENGTH):
        changed = ids.clone()
        changed[:, j] = (changed[:, j] + 11) % 60
        reached = (logits_of(model, changed) - before).abs().amax(-1) > 1e-5
        assert not reached[:, blocks < blocks[j]].any(), j
        assert reached[:, blocks == blocks[j]].all(), j
        assert family == "mistral" or reached[:, blocks > blocks[j]].all(), j


def test_eager_and_sdpa_agree(build, ids, family):
    if family == "gemma2":
        pytest.skip("gemma2 has no sdpa in transformers")
    mask = torch.ones_like(ids)
    mask[0, :3] = mask[1, 8:] = 0
    eager, sdpa = (
        logits_of(build(family, attention), ids, attention_mask=mask)[mask == 1] for attention in ("eager", "sdpa")
    )
    close(eager, sdpa)


def test_a_row_is_the_same_alone_padded_and_in_a_batch(build, ids, family):
    model = build(family)
    alone = logits_of(model, ids[:1])
    for side, columns in {"left": slice(3, 3 + LENGTH), "right": slice(0, LENGTH)}.items():
        padded, mask = torch.full((2, LENGTH + 3), 62), torch.zeros(2, LENGTH + 3, dtype=torch.long)
        padded[:, columns], mask[:, columns] = ids, 1
        close(logits_of(model, padded, attention_mask=mask)[:1, columns], alone, side)


def test_one_call_for_all_noisy_blocks_is_one_call_for_each(build, ids, family):
    model = build(family, shift_logits=False)
    clean = torch.where(ids == MASK, 5, ids)
    together = logits_of(model, ids, clean_ids=clean)
    for first in range(0, LENGTH, BLOCK):
        end = min(first + BLOCK, LENGTH)
        alone = logits_of(model, torch.cat([clean[:, :first], ids[:, first:end]], 1))
        close(together[:, first:end], alone[:, first:], f"block at {first}")


def test_blocks_of_one_are_the_causal_decoder(build, make_decoder, ids, family):
    with torch.no_grad():
        expected = make_decoder(family)(ids).logits
    close(logits_of(build(family, shift_logits=False), ids, block_size=1), expected)


def test_a_saved_model_loads_as_it_was(build, ids, family, tmp_path):
    model = build(family)
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert (fields["attention"], fields["block_size"], fields["shift_logits"]) == ("block_causal", BLOCK, True)
    for auto_class in (AutoModel, AutoModelForCausalLM):
        loaded = auto_class.from_pretrained(tmp_path)
        assert type(loaded) is LatentTokenForMaskedDiffusion and loaded.is_block_causal
        close(logits_of(loaded, ids), logits_of(model, ids))


@TYPICAL
def test_the_loss_is_that_of_the_masked_tokens(build, ids, family):
    model = build(family)
    clean = torch.where(ids == MASK, 5, ids)
    labels = clean.masked_fill(ids != MASK, -100)
    every = logits_of(model, ids, clean_ids=clean)
    expected = F.cross_entropy(every[labels != -100], labels[labels != -100])
    for keep in (labels != -100, (labels != -100).nonzero(as_tuple=True), 0):
        with torch.no_grad():
            loss = model(ids, clean_ids=clean, labels=labels, logits_to_keep=keep).loss
        torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


@TYPICAL
def test_checkpointing_gives_the_same_gradients(build, ids, family):
    clean = torch.where(ids == MASK, 5, ids)
    model, found = build(family).train(), []
    for _ in range(2):
        model.zero_grad()
        torch.manual_seed(0)  # GPT-2 has dropout
        model(ids, clean_ids=clean, labels=clean).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
        model.gradient_checkpointing_enable()
    assert found[0].keys() == found[1].keys() and len(found[0]) > 5
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@TYPICAL
def test_embeddings_grow_and_may_be_given(build, ids, family, tmp_path):
    model = build(family)
    before = logits_of(model, ids)
    embedded = {"inputs_embeds": model.get_input_embeddings()(ids)}
    if not model.config.text_config.model_type.startswith("gemma"):  # which scale what they are given
        close(logits_of(model, None, **embedded), before)
    model.resize_token_embeddings(70)
    close(logits_of(model, ids)[..., :64], before)
    model.save_pretrained(tmp_path)
    close(logits_of(AutoModel.from_pretrained(tmp_path), ids), logits_of(model, ids))


@TYPICAL
def test_half_precision_is_finite(build, ids, family):
    model = build(family).to(torch.bfloat16)
    mask = torch.ones_like(ids)
    mask[0] = 0  # nothing to attend to but itself
    clean = ids.clamp(max=60)
    out = model(ids, attention_mask=mask, clean_ids=clean, labels=clean)
    assert out.logits.dtype == torch.bfloat16 and out.logits.isfinite().all() and out.loss.isfinite()


@TYPICAL
def test_lora_trains_reloads_and_merges(build, ids, family, tmp_path):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(build(family), config)
    clean = ids.clamp(max=60)
    model(ids, clean_ids=clean, labels=clean).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    expected = logits_of(model, ids)
    model.save_pretrained(tmp_path)
    close(logits_of(PeftModel.from_pretrained(build(family), tmp_path), ids), expected)
    torch.testing.assert_close(logits_of(model.merge_and_unload(), ids), expected, atol=1e-3, rtol=1e-3)
