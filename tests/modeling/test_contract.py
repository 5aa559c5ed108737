"""What transformers' users expect of every model, on every row of the table in conftest.py."""

import json
import re

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoModelForCausalLM
from transformers.modeling_outputs import MaskedLMOutput

# What this family does differently from the stock decoder does not depend on these rows of the table.
TYPICAL = pytest.mark.parametrize("case", ["llada-gqa", "llada-tied-bias", "dream", "dream-tied"], indirect=True)
FAMILIES = ("llada", "dream", "sdar", "sdar-moe", "fast-dllm", "llada2", "llada-moe", "illada")
ONE_OF_EACH = pytest.mark.parametrize("case", FAMILIES, indirect=True)


def logits_of(model, ids, **kwargs):
    with torch.no_grad():
        return model(ids, **kwargs).logits


def gradients(model, ids, labels):
    model.zero_grad()
    model(ids, labels=labels).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def equal_states(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Saving and loading


@pytest.mark.parametrize("max_shard_size", ["1GB", "5KB"])
def test_a_saved_model_loads_as_it_was(case, model, ids, tmp_path, max_shard_size):
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (max_shard_size == "5KB")
    loaded, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    assert type(loaded) is type(model)
    assert equal_states(loaded, model)
    assert torch.equal(logits_of(loaded, ids), logits_of(model, ids))
    assert case.is_tied == (loaded.lm_head.weight is loaded.model.embed_tokens.weight)


def test_a_config_survives_its_own_json(case, tmp_path):
    """A field that is renamed on the way out and not on the way in silently becomes its default."""
    config = case.config()
    config.save_pretrained(tmp_path / "first")
    type(config).from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in ("first", "second"))
    assert first == second
    # Where several values mean one model, the one it was built with is written.
    resolved = {"n_kv_heads": config.num_key_value_heads, "mlp_hidden_size": config.intermediate_size}
    resolved["vocab_size"] = config.vocab_size
    for name, value in case.fields.items():
        assert first[name] == (resolved.get(name, value)), name


@TYPICAL
def test_a_half_precision_model_is_saved_and_loaded_in_half_precision(model, ids, tmp_path):
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    assert loaded.dtype == torch.bfloat16
    assert equal_states(loaded, model)
    logits = logits_of(loaded, ids)
    assert logits.dtype == torch.bfloat16
    assert torch.isfinite(logits).all()
    assert torch.isfinite(model(ids, labels=ids).loss)


def test_the_base_model_loads_from_a_checkpoint_with_head(case, model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    base, info = type(model.model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        states = base(ids).last_hidden_state
        assert torch.equal(states, model.model(ids).last_hidden_state)
    base.save_pretrained(tmp_path / "base")
    again, info = type(base).from_pretrained(tmp_path / "base", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert equal_states(again, base)


@ONE_OF_EACH
@pytest.mark.parametrize("device_map", ["cpu", "auto"])
def test_a_device_map_changes_nothing_on_one_device(model, ids, tmp_path, device_map):
    model.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path, device_map=device_map)
    assert torch.equal(logits_of(loaded, ids), logits_of(model, ids))


@pytest.mark.parametrize("size", [57, 70])
@pytest.mark.parametrize("case", ["llada-bias", "llada-tied", "llada-wide-embedding", *FAMILIES], indirect=True)
def test_resized_embeddings_survive_saving(case, model, ids, tmp_path, size):
    before = logits_of(model, ids)
    model.resize_token_embeddings(size)
    logits = logits_of(model, ids)
    assert logits.shape[-1] == size
    kept = min(size, before.shape[-1])
    torch.testing.assert_close(logits[..., :kept], before[..., :kept])
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    assert fields["vocab_size"] == size
    if case.family == "llada":
        assert fields["embedding_size"] == size
    loaded = AutoModel.from_pretrained(tmp_path)
    assert torch.equal(logits_of(loaded, ids), logits)


# Attention and padding


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", ["no mask", "ones", "left", "right", "4-D"])
@TYPICAL
def test_the_first_token_sees_the_last_one_and_no_padding(case, ids, attention, padding):
    """Stock Llama layers are silently causal on sdpa without padding, where the mask is None."""
    model = case.model(attn_implementation=attention)
    assert model.model.config._attn_implementation == attention
    mask = torch.ones_like(ids)
    first, last, pad = {"left": (3, 11, 0), "right": (0, 8, 11)}.get(padding, (0, 11, None))
    mask[:, :first] = 0
    mask[:, last + 1 :] = 0
    kwargs = {"attention_mask": mask}
    if padding == "no mask":
        kwargs = {}
    elif padding == "4-D":
        kwargs = {"attention_mask": torch.zeros(2, 1, 12, 12)}
    before = logits_of(model, ids, **kwargs)[:, first]
    changed = ids.clone()
    changed[:, last] = (changed[:, last] + 1) % 50
    assert (logits_of(model, changed, **kwargs)[:, first] - before).abs().amax(-1).min() > 1e-3
    if pad is not None:
        changed = ids.clone()
        changed[:, pad] = (changed[:, pad] + 1) % 50
        assert torch.equal(logits_of(model, changed, **kwargs)[:, first : last + 1][:, 0], before)


def attend_with(case, ids, attention):
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    mask[1, 9:] = 0
    return logits_of(case.model(attn_implementation=attention), ids, attention_mask=mask)[mask == 1]


def test_eager_and_sdpa_agree(case, ids):
    eager, sdpa = attend_with(case, ids, "eager"), attend_with(case, ids, "sdpa")
    torch.testing.assert_close(eager, sdpa, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("case", ["llada", "dream"], indirect=True)  # seconds each; masks of blocks have a test
def test_flex_attention_agrees(case, ids):
    flex, sdpa = attend_with(case, ids, "flex_attention"), attend_with(case, ids, "sdpa")
    torch.testing.assert_close(flex, sdpa, atol=5e-5, rtol=1e-4)


@ONE_OF_EACH
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_row_of_padding_alone_spoils_nothing(case, ids, attention):
    """Its attention has nothing to attend to; one nan would reach every gradient."""
    model = case.model(attn_implementation=attention)
    mask = torch.ones_like(ids)
    mask[0] = 0
    model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    logits = logits_of(model, ids, attention_mask=mask)
    torch.testing.assert_close(logits[1:], logits_of(model, ids[1:]), atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_row_is_the_same_alone_padded_and_in_a_batch(case, ids, attention):
    model = case.model(attn_implementation=attention)
    row = ids[:1, :8]
    alone = logits_of(model, row)
    mask = torch.ones_like(ids)
    for side, columns in {"left": slice(4, 12), "right": slice(0, 8)}.items():
        batch, mask = ids.clone(), torch.ones_like(ids)
        batch[0], mask[0] = model.config.pad_token_id, 0
        batch[0, columns], mask[0, columns] = row[0], 1
        for kwargs in ({}, {"position_ids": torch.arange(12).expand(2, 12)}):
            logits = logits_of(model, batch, attention_mask=mask, **kwargs)
            torch.testing.assert_close(logits[:1, columns], alone, atol=5e-5, rtol=1e-4, msg=lambda m, s=side: s + m)
            torch.testing.assert_close(logits[1:], logits_of(model, ids[1:]), atol=5e-5, rtol=1e-4)


def test_embeddings_in_place_of_ids(model, ids):
    embeds = model.get_input_embeddings()(ids)
    assert torch.equal(logits_of(model, None, inputs_embeds=embeds), logits_of(model, ids))


# Logits, loss and outputs


def test_selected_logits_are_slices_of_all(model, ids):
    every = logits_of(model, ids)
    chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(1)) < 0.4
    per_row = torch.tensor([[3, 0, 11], [5, 5, 1]])
    columns = torch.tensor([7, 2])
    rows_and_columns = torch.tensor([1, 0, 1]), torch.tensor([2, 11, 0])
    for keep, expected in [
        (0, every),
        (1, every[:, -1:]),
        (5, every[:, -5:]),
        (columns, every[:, columns]),
        (per_row, torch.stack([every[0, per_row[0]], every[1, per_row[1]]])),
        (chosen, every[chosen]),
        (torch.zeros_like(chosen), every[:0, 0]),
        (rows_and_columns, every[rows_and_columns]),
    ]:
        logits = logits_of(model, ids, logits_to_keep=keep)
        assert logits.shape == expected.shape
        torch.testing.assert_close(logits, expected, atol=2e-6, rtol=1e-5)


def test_the_loss_is_that_of_the_token_itself(model, ids):
    """transformers chooses a loss that shifts the labels for any class name that it does not know."""
    labels = torch.randint(0, 50, ids.shape, generator=torch.Generator().manual_seed(2))
    labels[:, ::3] = -100
    every = logits_of(model, ids)
    expected = F.cross_entropy(every[labels != -100], labels[labels != -100])
    loss = model(ids, labels=labels).loss
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    for keep in (labels != -100, 7, (labels != -100).nonzero(as_tuple=True)):
        selected = labels[keep] if not isinstance(keep, int) else labels[:, -keep:]
        logits = every[keep] if not isinstance(keep, int) else every[:, -keep:]
        expected = F.cross_entropy(logits.flatten(0, -2), selected.flatten(), ignore_index=-100)
        torch.testing.assert_close(model(ids, labels=labels, logits_to_keep=keep).loss, expected, atol=1e-6, rtol=1e-5)
    total = F.cross_entropy(every[labels != -100], labels[labels != -100], reduction="sum")
    loss = model(ids, labels=labels, num_items_in_batch=torch.tensor(10)).loss
    torch.testing.assert_close(loss, total / 10, atol=1e-6, rtol=1e-6)


@ONE_OF_EACH
def test_outputs_asked_for_are_given(case, ids):
    model = case.model(attn_implementation="eager")
    assert set(model(ids)) == {"logits"}
    with torch.no_grad():
        out = model(ids, output_hidden_states=True, output_attentions=True, labels=ids)
    assert isinstance(out, MaskedLMOutput)
    assert len(out.hidden_states) == 3 and len(out.attentions) == 2
    assert torch.equal(out.hidden_states[0], model.model.embed_tokens(ids))
    if not getattr(model, "is_block_causal", False):  # where the head makes the masks
        assert torch.equal(out.hidden_states[-1], model.model(ids).last_hidden_state)
    torch.testing.assert_close(out.attentions[0].sum(-1), torch.ones(2, 4, 12))
    assert torch.equal(model(ids, return_dict=False)[0], out.logits)


@ONE_OF_EACH
@pytest.mark.parametrize("use_cache", [True, False])
def test_use_cache_changes_nothing(model, ids, use_cache):
    """Trainers and pipelines pass it unasked."""
    out = model(ids, use_cache=use_cache)
    assert set(out) == {"logits"}
    assert torch.equal(out.logits, logits_of(model, ids))


# Training


def test_checkpointing_gives_the_same_gradients(model, ids):
    model.train()
    plain = gradients(model, ids, ids)
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing
    checkpointed = gradients(model, ids, ids)
    for name, gradient in plain.items():
        assert torch.equal(gradient, checkpointed[name]), name
        assert gradient.abs().sum() > 0 or name.endswith("k_proj.bias"), f"{name} gets no gradient"


@ONE_OF_EACH
def test_the_padding_token_is_a_token(case, ids):
    """Padding and end-of-text share an id in the published checkpoints: `padding_idx` would freeze its row at zero."""
    torch.manual_seed(0)
    model = type(case.model())(case.config())
    pad = model.config.pad_token_id
    embeddings = model.model.embed_tokens
    assert embeddings.padding_idx is None
    assert embeddings.weight[pad].abs().sum() > 0
    ids = ids.clone()
    ids[0, 3] = pad
    assert gradients(model, ids, torch.full_like(ids, 5))["model.embed_tokens.weight"][pad].abs().sum() > 0
    model.resize_token_embeddings(70)
    assert model.model.embed_tokens.padding_idx is None


def test_a_fresh_model_is_initialised_everywhere(case):
    """Biases and norms that we put in place of stock modules are easily missed by the initialisation."""
    torch.manual_seed(0)
    model = type(case.model())(case.config())
    base = type(model.model)(case.config())
    for name, parameter in [*model.named_parameters(), *base.named_parameters()]:
        if name.endswith("bias"):
            assert (parameter == 0).all(), name
        elif "norm" in name:
            assert (parameter == 1).all(), name
        else:
            # 1,500 or more draws: 15 % off is 8 standard deviations.
            assert abs(parameter.std() / 0.02 - 1) < 0.15, name


# Compilation


@pytest.mark.parametrize("case", ["sdar-moe", "llada2", "llada-moe"], indirect=True)
def test_experts_are_computed_all_at_once(case, model, ids):
    """transformers falls back to a loop over experts, without a word, for classes that are not in their file."""
    assert model.config._experts_implementation == "grouped_mm"
    grouped = logits_of(model, ids)
    model.set_experts_implementation("eager")
    assert model.model.config._experts_implementation == "eager"
    torch.testing.assert_close(logits_of(model, ids), grouped, atol=5e-5, rtol=1e-4)


@pytest.mark.parametrize("case", ["llada", "dream", "sdar", "sdar-moe"], indirect=True)
def test_the_forward_compiles_into_one_graph(case, ids):
    torch.compiler.reset()
    model = case.model(num_hidden_layers=1)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    positions = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    for kwargs in (
        {},
        {"labels": ids, "logits_to_keep": torch.tensor([[3, 1], [0, 9]])},
        {"logits_to_keep": (torch.tensor([1, 0, 1]), torch.tensor([2, 11, 0])), **positions},
        {"logits_to_keep": mask == 0},
    ):
        out, expected = compiled(ids, **kwargs), model(ids, **kwargs)
        assert out.logits.shape == expected.logits.shape
        torch.testing.assert_close(out.logits, expected.logits)


@pytest.mark.parametrize("case", ["dream"], indirect=True)
def test_the_default_compiler_computes_the_same(case, ids):
    torch.compiler.reset()
    model = case.model(num_hidden_layers=1)
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    with torch.no_grad():
        out = torch.compile(model, fullgraph=True)(ids, attention_mask=mask)
    torch.testing.assert_close(out.logits, logits_of(model, ids, attention_mask=mask), atol=1e-5, rtol=1e-4)


# Refusals that both families share


@ONE_OF_EACH
@pytest.mark.parametrize(
    ("name", "value"),
    [("mask_token_id", "<mask>"), ("vocab_size", "many"), ("pad_token_id", 0.5), ("rms_norm_eps", "small")],
)
def test_a_mistyped_field_is_refused_by_name(case, name, value):
    with pytest.raises(Exception, match=f"(?s){name}.*{re.escape(repr(value))}"):
        case.config(**{name: value})
