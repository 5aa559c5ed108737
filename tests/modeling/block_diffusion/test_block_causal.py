"""Block-causal attention of any decoder: who reaches whom, at both ends of the block size, in both kinds of call."""

from typing import Any

import pytest
import torch
from transformers.masking_utils import create_causal_mask

from hf_latent import LatentTokenConfig, LatentTokenForMaskedDiffusion

LENGTH, MASK, PAD = 11, 63, 62
BACKENDS = pytest.mark.parametrize("attention", ["sdpa", "eager"])


@pytest.fixture(scope="module")
def build(make_decoder) -> Any:
    """`build(family, block_size)`: the block-causal model of a decoder of 64 tokens; 63 masks."""

    def make(family: str = "llama", block_size: int = 4, attention: str | None = None, **arguments: Any) -> Any:
        decoder = make_decoder(family, attention)
        kind = {"attention": "block_causal", "block_size": block_size} | arguments
        return LatentTokenForMaskedDiffusion.from_backbone(decoder, mask_token_id=MASK, **kind)

    return make


def logits_of(model: Any, ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, **kwargs).logits


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows of tokens, some of them masks."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, PAD - 1, (2, LENGTH), generator=generator)
    return ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.3, MASK)


def reach(model: Any, ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Bool `(L, L)`: whether a change of token j changes the logits of i, in the first row."""
    before, seen = logits_of(model, ids, **kwargs), []
    for j in range(ids.shape[1]):
        changed = ids.clone()
        changed[:, j] = (changed[:, j] + 11) % 60
        seen.append((logits_of(model, changed, **kwargs) - before)[0].abs().amax(-1) > 0)
    return torch.stack(seen, 1)


@BACKENDS
@pytest.mark.parametrize("block_size", [1, 3, 4])
def test_a_token_reaches_its_own_block_and_all_behind_it(build, ids, attention, block_size):
    model = build("llama", block_size, attention, shift_logits=False)
    block = torch.arange(LENGTH) // block_size
    assert torch.equal(reach(model, ids), block[None] <= block[:, None])


def test_documents_of_a_packed_row_count_their_own_blocks_and_see_none_of_another(build, ids):
    model = build("llama", 2, shift_logits=False)
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2]])
    document = (positions == 0).cumsum(-1)[0]
    block = positions[0] // 2
    expected = (document[None] == document[:, None]) & (block[None] <= block[:, None])
    assert torch.equal(reach(model, ids, position_ids=positions), expected)
    together = logits_of(model, ids, position_ids=positions.expand(2, -1))
    torch.testing.assert_close(together[:, 5:8], logits_of(model, ids[:, 5:8]), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
def test_a_block_of_one_is_the_causal_backbone(build, make_decoder, ids, family):
    """Windows among them: the two masks then agree on both sides."""
    with torch.no_grad():
        expected = make_decoder(family)(ids).logits
    model = build(family, 1, shift_logits=False)
    torch.testing.assert_close(logits_of(model, ids), expected, atol=5e-5, rtol=1e-4)
    shifted = logits_of(build(family, 1), ids)
    torch.testing.assert_close(shifted[:, 1:], expected[:, :-1], atol=5e-5, rtol=1e-4)


@BACKENDS
def test_a_block_of_the_whole_row_is_the_bidirectional_model(build, make_decoder, ids, attention):
    bidirectional = LatentTokenForMaskedDiffusion.from_backbone(make_decoder("qwen3", attention), mask_token_id=MASK)
    model = build("qwen3", LENGTH, attention)
    torch.testing.assert_close(logits_of(model, ids), logits_of(bidirectional, ids), atol=5e-5, rtol=1e-4)


def test_the_mask_is_that_of_transformers_own_block_ids(build, ids):
    model = build("llama", 4)
    exists = torch.ones_like(ids, dtype=torch.bool)
    positions = torch.arange(LENGTH).expand_as(ids)
    ours = model._prepare_masks(positions, exists, has_clean_copy=False, block_size=None)
    config = model.model.config
    config.is_causal = True
    theirs = create_causal_mask(
        config,
        inputs_embeds=torch.zeros(2, LENGTH, 32),
        attention_mask=None,
        block_sequence_ids=positions // 4,
        **{model.cache_name: None},
    )
    assert torch.equal(ours, theirs.expand_as(ours))


@BACKENDS
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt2"])
@pytest.mark.parametrize("shift_logits", [False, True])
def test_padding_on_either_side_changes_nothing(build, ids, family, attention, shift_logits):
    """On the left it moves absolute positions, the blocks, and the state that predicts a row's first token."""
    model = build(family, 4, attention, shift_logits=shift_logits)
    alone = logits_of(model, ids)
    for side, columns in {"left": slice(3, 3 + LENGTH), "right": slice(0, LENGTH)}.items():
        padded, mask = torch.full((2, LENGTH + 3), PAD), torch.zeros(2, LENGTH + 3, dtype=torch.long)
        padded[:, columns], mask[:, columns] = ids, 1
        for kwargs in ({}, {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}):
            logits = logits_of(model, padded, attention_mask=mask, **kwargs)[:, columns]
            torch.testing.assert_close(logits, alone, atol=5e-5, rtol=1e-4, msg=lambda m, s=side: f"{s}: {m}")


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_eager_and_sdpa_agree_with_unequal_rows(build, ids, family):
    mask = torch.ones_like(ids)
    mask[0, :3] = mask[1, 8:] = 0
    found = [logits_of(build(family, 4, each), ids, attention_mask=mask)[mask == 1] for each in ("sdpa", "eager")]
    torch.testing.assert_close(found[0], found[1], atol=5e-5, rtol=1e-4)


def test_flex_attention_is_told_the_same(build, ids):
    """Its masks are functions of row, head, query and key; evaluated here for all, as its kernel takes a minute."""
    model = build("gemma3_text", 4)
    exists = torch.ones_like(ids, dtype=torch.bool)
    exists[0, :3] = exists[1, 8:] = False
    positions = (exists.long().cumsum(-1) - 1).clamp(min=0)
    for has_clean_copy in (False, True):
        dense = model._prepare_masks(positions, exists, has_clean_copy, None)
        model.model.config._attn_implementation = "flex_attention"
        sparse = model._prepare_masks(positions, exists, has_clean_copy, None)
        model.model.config._attn_implementation = "sdpa"
        for kind, mask in dense.items():
            b, q, k = (torch.arange(size) for size in (len(mask), *mask.shape[2:]))
            found = sparse[kind].mask_mod(b[:, None, None], torch.tensor(0), q[:, None], k)
            assert torch.equal(found, mask[:, 0])


@pytest.mark.parametrize("family", ["llama", "mistral"])
@pytest.mark.parametrize("shift_logits", [False, True])
def test_the_noisy_copy_gives_what_decoding_block_by_block_would(build, ids, family, shift_logits):
    """Every noisy block is compared with a row of its own: clean before it, noisy in it, nothing behind."""
    model = build(family, 4, shift_logits=shift_logits)
    clean = torch.where(ids == MASK, 5, ids)
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    logits = logits_of(model, ids, attention_mask=mask, clean_ids=clean)
    assert logits.shape == (2, LENGTH, 64)
    for row, start in ((0, 0), (1, 2)):
        for first in range(start, LENGTH, 4):
            end = min(first + 4, LENGTH)
            alone = torch.cat([clean[row, start:first], ids[row, first:end]])[None]
            expected = logits_of(model, alone)[0, first - start :]
            found = logits[row, first:end]
            if shift_logits and first > start:  # its first token is predicted by the noisy block before
                expected, found = expected[1:], found[1:]
            torch.testing.assert_close(found, expected, atol=5e-5, rtol=1e-4)


def test_selected_logits_labels_and_states_are_those_of_the_noisy_copy(build, ids):
    model = build("llama", 4, "eager")
    clean = torch.where(ids == MASK, 5, ids)
    every = logits_of(model, ids, clean_ids=clean)
    chosen = ids == MASK
    for keep, expected in (
        (chosen, every[chosen]),
        (2, every[:, -2:]),
        (chosen.nonzero(as_tuple=True), every[chosen]),
    ):
        found = logits_of(model, ids, clean_ids=clean, logits_to_keep=keep)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    with torch.no_grad():
        scored = model(ids, clean_ids=clean, logits_to_keep=chosen, targets=clean[chosen])
        out = model(
            None,
            inputs_embeds=model.get_input_embeddings()(ids),
            clean_ids=clean,
            labels=clean.masked_fill(~chosen, -100),
            output_hidden_states=True,
            output_attentions=True,
        )
    torch.testing.assert_close(scored.nll.mean(), out.loss)
    torch.testing.assert_close(out.logits, every, atol=2e-6, rtol=1e-5)
    assert all(states.shape == (2, LENGTH, 32) for states in out.hidden_states)
    assert all(weights.shape == (2, 4, LENGTH, 2 * LENGTH) for weights in out.attentions)


def test_another_block_size_may_be_asked_for(build, ids):
    found = logits_of(build("llama", 4), ids, block_size=3)
    assert torch.equal(found, logits_of(build("llama", 3), ids))


def test_a_prepared_mask_is_used_as_it_is(build, ids):
    model = build("llama", 4)
    ones = torch.ones(2, LENGTH, LENGTH, dtype=torch.bool)
    causal = ones.tril()[:, None]
    torch.testing.assert_close(logits_of(model, ids, attention_mask=causal), logits_of(model, ids, block_size=1))


def test_the_forward_compiles_into_one_graph(build, ids):
    torch.compiler.reset()
    model = build("llama", 4)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    for kwargs in ({"attention_mask": mask}, {"attention_mask": mask, "clean_ids": ids.clamp(max=60)}):
        torch.testing.assert_close(compiled(ids, **kwargs).logits, model(ids, **kwargs).logits)


def test_what_it_was_made_with_is_saved_and_loaded(build, ids, tmp_path):
    model = build("llama", 4)
    model.save_pretrained(tmp_path)
    loaded = LatentTokenForMaskedDiffusion.from_pretrained(tmp_path)
    assert (loaded.config.attention, loaded.config.block_size, loaded.is_block_causal) == ("block_causal", 4, True)
    assert torch.equal(logits_of(loaded, ids), logits_of(model, ids))


# Refusals


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"attention": "block_causal"}, "`block_size` must be at least 1 with `attention`='block_causal', got None"),
        ({"attention": "block_causal", "block_size": 0}, "`block_size` must be at least 1 .* got 0"),
        ({"block_size": 4}, "`block_size` must be left out with `attention`='bidirectional', got 4"),
        ({"attention": "block_causal", "block_size": 4, "num_latent_tokens": 2}, "`num_latent_tokens` must be 0 .*2"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        LatentTokenConfig(**fields)


def test_arguments_that_mean_nothing_are_refused_by_name(build, make_decoder, ids):
    model = build("llama", 4)
    ones = torch.ones(2, 1, LENGTH, LENGTH)
    for kwargs, message in (
        ({"block_size": 0}, "`block_size` must be at least 1, got 0"),
        ({"block_size": 2, "attention_mask": ones}, r"`block_size` needs an `attention_mask` of \(B, L\)"),
        ({"clean_ids": ids[:, :-1]}, r"`clean_ids` must have the shape of the noisy rows, \(2, 11\), got \(2, 10\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model(ids, **kwargs)
    other = LatentTokenForMaskedDiffusion.from_backbone(make_decoder(), mask_token_id=MASK)
    for kwargs in ({"block_size": 2}, {"clean_ids": ids}):
        with pytest.raises(
            ValueError, match="for block-causal attention, got either with `attention`='bidirectional'"
        ):
            other(ids, **kwargs)


def test_a_backbone_that_cannot_be_opened_is_refused(make_decoder):
    decoder = make_decoder("llama")
    for layer in decoder.model.layers:
        layer.self_attn.forward = _without_masks(layer.self_attn)
    with pytest.raises(ValueError, match="must take any attention mask and `position_ids`"):
        LatentTokenForMaskedDiffusion.from_backbone(
            decoder, mask_token_id=MASK, attention="block_causal", block_size=4
        )


def _without_masks(attention: Any) -> Any:
    plain = attention.forward
    return lambda *args, attention_mask=None, **kwargs: plain(*args, attention_mask=None, **kwargs)
