"""Any decoder becomes a masked diffusion model: nothing causal is left, nothing else has changed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    BartConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5ForConditionalGeneration,
)

from hf_latent import LatentTokenConfig, LatentTokenForCausalLM, LatentTokenForMaskedDiffusion, LladaConfig
from hf_latent.hub import bundle
from hf_latent.tasks import sudoku_tokenizer

VOCABULARY, MASK = 64, 64
SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SIZES |= {"num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
SIZES |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
OWN_HEADS = {k: v for k, v in SIZES.items() if k not in ("num_key_value_heads", "head_dim")}
GPT: dict[str, Any] = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
# Family to its fields. Among them: absolute positions, windows, capped and scaled logits, biases, parallel blocks.
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SIZES,
    "qwen2": SIZES,
    "qwen3": SIZES,
    "mistral": SIZES | {"sliding_window": None},
    "mixtral": SIZES,
    "gemma": SIZES,
    "gemma2": SIZES,
    "gemma3_text": SIZES,
    "gpt2": GPT | {"bos_token_id": 1, "eos_token_id": 2},
    "gpt_neox": OWN_HEADS,
    "phi": OWN_HEADS,
    "phi3": SIZES,
    "olmo2": SIZES,
    "cohere": SIZES,
    "granite": SIZES | {"logits_scaling": 3.0},
    "smollm3": SIZES,
    "falcon": OWN_HEADS,
}
ATTENTIONS = [(family, "sdpa") for family in FAMILIES if family != "gemma2"]  # which has none in transformers
ATTENTIONS += [(family, "eager") for family in FAMILIES]
TYPICAL = pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3_text", "gpt2"])


def backbone(family: str, attention: str = "sdpa", **fields: Any) -> PreTrainedModel:
    """Random weights that all matter."""
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](**FAMILIES[family] | fields)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = 0.25 * torch.randn(parameter.shape, generator=generator)
            parameter.copy_(1 + noise if parameter.dim() == 1 else noise)
    return model


def build(family: str, attention: str = "sdpa", shift_logits: bool = False, **fields: Any) -> Any:
    model = backbone(family, attention, **fields)
    return LatentTokenForMaskedDiffusion.from_backbone(model, mask_token_id=MASK, shift_logits=shift_logits)


def logits_of(model: Any, ids: torch.Tensor | None, **kwargs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(ids, **kwargs).logits


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows of ten tokens, a third of them masks."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(3, VOCABULARY, (2, 10), generator=generator)
    return ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.3, MASK)


# Attention


@pytest.mark.parametrize(("family", "attention"), ATTENTIONS)
def test_every_token_sees_every_other(family: str, attention: str, ids: torch.Tensor) -> None:
    """Stock layers are silently causal where the mask is None and nobody tells the kernel."""
    model = build(family, attention)
    assert model.model.config._attn_implementation == attention
    before = logits_of(model, ids)
    for i in range(ids.shape[1]):
        changed = ids.clone()
        changed[:, i] = (changed[:, i] + 11) % VOCABULARY
        assert ((logits_of(model, changed) - before).abs().amax(-1) > 1e-5).all(), i


@pytest.mark.parametrize(("family", "attention"), ATTENTIONS)
@pytest.mark.parametrize("shift_logits", [False, True])
def test_padding_changes_nothing(family: str, attention: str, shift_logits: bool, ids: torch.Tensor) -> None:
    """On the left it moves absolute positions, and the state that predicts a row's first token."""
    model = build(family, attention, shift_logits)
    alone = logits_of(model, ids)
    for side, columns in {"left": slice(3, 13), "right": slice(0, 10)}.items():
        padded, mask = torch.full((2, 13), 5), torch.zeros(2, 13, dtype=torch.long)
        padded[:, columns], mask[:, columns] = ids, 1
        logits = logits_of(model, padded, attention_mask=mask)[:, columns]
        torch.testing.assert_close(logits, alone, atol=5e-5, rtol=1e-4, msg=lambda m, s=side: f"{s}: {m}")


@pytest.mark.parametrize(("family", "attention"), ATTENTIONS)
def test_a_4d_mask_keeps_documents_apart(family: str, attention: str, ids: torch.Tensor) -> None:
    model = build(family, attention)
    mask = torch.full((2, 1, 10, 10), torch.finfo(torch.float32).min)
    mask[..., :4, :4] = mask[..., 4:, 4:] = 0
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]] * 2)
    together = logits_of(model, ids, attention_mask=mask, position_ids=positions)
    apart = torch.cat([logits_of(model, ids[:, :4]), logits_of(model, ids[:, 4:])], 1)
    torch.testing.assert_close(together, apart, atol=5e-5, rtol=1e-4)


def test_a_window_becomes_one_on_both_sides(ids: torch.Tensor) -> None:
    model = build("mistral", sliding_window=3, num_hidden_layers=1)
    before = logits_of(model, ids)
    changed = ids.clone()
    changed[:, 5] = (changed[:, 5] + 11) % VOCABULARY
    moved = ((logits_of(model, changed) - before).abs().amax(-1) > 1e-5)[0].nonzero().flatten().tolist()
    assert moved == [2, 3, 4, 5, 6, 7, 8]  # transformers' own: the window's size on either side


# What is taken over


@pytest.mark.parametrize("family", list(FAMILIES))
def test_under_a_causal_mask_the_logits_are_those_of_the_backbone(family: str) -> None:
    """Heads that cap, scale or add are part of a family; a plain linear layer in their place would pass every test of
    attention."""
    attention = "eager" if family == "gemma2" else "sdpa"
    ids = torch.randint(3, VOCABULARY, (2, 10), generator=torch.Generator().manual_seed(1))
    expected = logits_of(backbone(family, attention), ids)
    model = build(family, attention)
    causal = torch.full((10, 10), torch.finfo(torch.float32).min).triu(1).expand(2, 1, 10, 10)
    logits = logits_of(model, ids, attention_mask=causal)
    torch.testing.assert_close(logits[..., :VOCABULARY], expected, atol=5e-5, rtol=1e-4)


@TYPICAL
def test_the_mask_token_starts_as_the_mean_of_all_others(family: str) -> None:
    model = build(family)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    assert len(table) == head.out_features == model.config.vocab_size == VOCABULARY + 1
    torch.testing.assert_close(table[MASK], table[:MASK].mean(0))
    torch.testing.assert_close(head.weight[MASK], head.weight[:MASK].mean(0))
    tied = backbone(family).config.tie_word_embeddings
    assert (head.weight is table) == tied == model.config.tie_word_embeddings


def test_a_bias_of_the_head_is_kept(ids: torch.Tensor, tmp_path: Path) -> None:
    model = build("phi")
    assert model.lm_head.bias is not None
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(AutoModel.from_pretrained(tmp_path), ids), logits_of(model, ids))


def test_a_spare_row_is_used_before_the_table_grows() -> None:
    """Qwen2's table has some hundred rows more than its tokenizer has tokens."""
    tokenizer = sudoku_tokenizer(4)
    fresh = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    model = LatentTokenForMaskedDiffusion.from_backbone(backbone("llama"), fresh, mask_token="<gap>")
    assert fresh.mask_token == "<gap>" and fresh.mask_token_id == len(fresh) - 1
    assert model.config.mask_token_id == fresh.mask_token_id < VOCABULARY == model.config.vocab_size
    table = model.get_input_embeddings().weight
    assert model.mask_token_is_new
    torch.testing.assert_close(table[fresh.mask_token_id], backbone("llama").get_input_embeddings().weight.mean(0))


def test_a_mask_token_that_is_known_keeps_its_row() -> None:
    tokenizer = sudoku_tokenizer(4)
    model = LatentTokenForMaskedDiffusion.from_backbone(backbone("llama"), tokenizer)
    assert model.config.mask_token_id == tokenizer.mask_token_id and not model.mask_token_is_new
    assert torch.equal(model.get_input_embeddings().weight, backbone("llama").get_input_embeddings().weight)


def test_shifted_logits_are_predicted_by_the_state_before(ids: torch.Tensor) -> None:
    plain, shifted = logits_of(build("llama"), ids), logits_of(build("llama", shift_logits=True), ids)
    torch.testing.assert_close(shifted[:, 1:], plain[:, :-1])
    torch.testing.assert_close(shifted[:, 0], plain[:, 0])


def test_the_end_of_text_is_that_of_the_backbone() -> None:
    """Instruct models name theirs in generation_config.json only."""
    source = backbone("llama")
    source.generation_config.eos_token_id = [2, 7]
    model = LatentTokenForMaskedDiffusion.from_backbone(source, mask_token_id=MASK)
    assert model.generation_config.eos_token_id == [2, 7] == model.config.eos_token_id


def test_one_backbone_does_not_serve_two_attentions(ids: torch.Tensor) -> None:
    """Its modules are shared, and its configuration says whether they are causal: the first model would change."""
    source = backbone("llama")
    model = LatentTokenForMaskedDiffusion.from_backbone(source, mask_token_id=MASK)
    before = logits_of(model, ids)
    with pytest.raises(ValueError, match="`backbone` has been turned into a LatentTokenForMaskedDiffusion"):
        LatentTokenForCausalLM.from_backbone(source, mask_token_id=MASK)
    assert torch.equal(logits_of(model, ids), before)
    del model
    assert LatentTokenForCausalLM.from_backbone(source, mask_token_id=MASK).config.text_config.is_causal


# What transformers' users expect


@TYPICAL
def test_a_saved_model_loads_as_it_was(family: str, ids: torch.Tensor, tmp_path: Path) -> None:
    model = build(family, shift_logits=True)
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForCausalLM):
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert type(loaded) is LatentTokenForMaskedDiffusion
        assert torch.equal(logits_of(loaded, ids), logits_of(model, ids))
        tied = loaded.lm_head.weight is loaded.get_input_embeddings().weight
        assert tied == model.config.tie_word_embeddings
        assert loaded.generation_config.eos_token_id == 2
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["text_config"]["model_type"] == family and fields["mask_token_id"] == MASK


@TYPICAL
def test_generate_writes_every_mask_with_all_that_decoders_do(family: str, ids: torch.Tensor) -> None:
    model = build(family, shift_logits=True)
    prompts = ids.masked_fill(ids == MASK, 4)
    for kwargs in ({}, {"block_cache": "dual"}, {"latent_refinement": True, "decoding": "med"}, {"cfg_scale": 1.0}):
        out = model.generate(prompts, max_new_tokens=8, block_length=4, eos_token_id=None, **kwargs)
        assert out.shape == (2, 18) and torch.equal(out[:, :10], prompts) and (out != MASK).all()


@TYPICAL
def test_a_dual_cache_of_one_block_is_exact_at_its_first_forward(family: str, ids: torch.Tensor) -> None:
    """The cache is filled by a forward of everything, with positions that the decoder has to take as they are."""
    model = build(family)
    prompts = ids.masked_fill(ids == MASK, 4)
    settings = {"max_new_tokens": 4, "block_length": 4, "eos_token_id": None, "cache_refresh_interval": 1}
    cached = model.generate(prompts, block_cache="dual", **settings)
    assert torch.equal(cached, model.generate(prompts, **{**settings, "cache_refresh_interval": None}))


@TYPICAL
def test_lora_trains_reloads_and_merges(family: str, ids: torch.Tensor, tmp_path: Path) -> None:
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(build(family), config)
    model(ids, labels=ids.clamp(max=60)).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    model.eval()
    expected = logits_of(model, ids)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(build(family), tmp_path).eval()
    assert torch.equal(logits_of(again, ids), expected)
    torch.testing.assert_close(logits_of(again.merge_and_unload(), ids), expected, atol=1e-4, rtol=1e-4)


@TYPICAL
def test_checkpointing_gives_the_same_gradients(family: str, ids: torch.Tensor) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = build(family, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0).train()
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        model(ids, labels=ids.clamp(max=60)).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_forward_compiles_into_one_graph(family: str, ids: torch.Tensor) -> None:
    torch.compiler.reset()
    model = build(family, shift_logits=True)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    for kwargs in ({}, {"attention_mask": mask}, {"logits_to_keep": (torch.tensor([1, 0]), torch.tensor([2, 9]))}):
        torch.testing.assert_close(compiled(ids, **kwargs).logits, model(ids, **kwargs).logits)


def test_embeddings_can_be_resized(ids: torch.Tensor, tmp_path: Path) -> None:
    model = build("llama")
    before = logits_of(model, ids)
    model.resize_token_embeddings(80)
    assert model.config.vocab_size == 80
    torch.testing.assert_close(logits_of(model, ids)[..., : VOCABULARY + 1], before)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits_of(AutoModel.from_pretrained(tmp_path), ids), logits_of(model, ids))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_bundle_loads_without_us(family: str, tmp_path: Path) -> None:
    """`bundle` checks it in a process that cannot import hf_latent."""
    folder = bundle(build(family, shift_logits=True), None, tmp_path / "bundle")
    assert {"modeling_latent_token.py", "configuration_latent_token.py"} <= {path.name for path in folder.iterdir()}


def test_a_config_from_fields_names_its_decoder() -> None:
    config = LatentTokenConfig(text_config={"model_type": "qwen2", "hidden_size": 48}, mask_token_id=3)
    assert config.text_config.model_type == "qwen2" and config.hidden_size == 48
    assert config.text_config.is_causal is False


# Refusals


def test_models_that_cannot_be_one_are_refused() -> None:
    from transformers import T5Config

    small = T5ForConditionalGeneration(T5Config(vocab_size=64, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2))
    with pytest.raises(ValueError, match="decoder-only"):
        LatentTokenForMaskedDiffusion.from_backbone(small, mask_token_id=5)
    with pytest.raises(ValueError, match="decoder-only model, got the encoder-decoder 'bart'"):
        LatentTokenConfig(text_config=BartConfig())
    with pytest.raises(ValueError, match="got 'llada', which is a masked diffusion model already"):
        LatentTokenConfig(text_config=LladaConfig())


def test_attention_that_stays_causal_is_refused() -> None:
    """StableLM's forward does not hand the configuration's `is_causal` on; it would train as a causal model."""
    config = CONFIG_MAPPING["stablelm"](**OWN_HEADS | {"num_key_value_heads": 4})
    with pytest.raises(ValueError, match="StableLmForCausalLM stays causal"):
        LatentTokenForMaskedDiffusion.from_backbone(AutoModelForCausalLM.from_config(config), mask_token_id=64)


def test_a_head_that_does_more_is_refused() -> None:
    model = backbone("llama")
    forward = model.forward

    def doubled(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        out.logits = 2 * out.logits
        return out

    model.forward = doubled
    with pytest.raises(ValueError, match="linear head, scaled or capped at most; that of LlamaForCausalLM does more"):
        LatentTokenForMaskedDiffusion.from_backbone(model, mask_token_id=MASK)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "give `tokenizer` or `mask_token_id` with a model object, got neither"),
        ({"mask_token_id": 65}, r"`mask_token_id` must be in \[0, 64\].*got 65"),
        ({"mask_token_id": -1}, r"`mask_token_id` must be in \[0, 64\].*got -1"),
    ],
)
def test_bad_mask_tokens_are_refused(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LatentTokenForMaskedDiffusion.from_backbone(backbone("llama"), **kwargs)


def test_an_attention_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`attention` must be one of .*got 'sideways'"):
        LatentTokenConfig(attention="sideways")
