"""LLaDA against a second, plain implementation of it, and its key names on disk."""

import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers.trainer_utils import load_sharded_checkpoint

from hf_latent import LladaConfig, LladaForMaskedDiffusion

LLADA_CASES = pytest.mark.parametrize(
    "case",
    [
        "llada",
        "llada-gqa",
        "llada-multi-query",
        "llada-bias",
        "llada-bias-everywhere",
        "llada-bias-not-in-norms",
        "llada-bias-in-norms-only",
        "llada-qkv-bias",
        "llada-tied",
        "llada-tied-bias",
        "llada-scaled",
        "llada-wide-embedding",
        "llada-mlp-ratio",
        "llada-gelu",
    ],
    indirect=True,
)


def plain_llada(weights: dict[str, torch.Tensor], fields: dict, ids: torch.Tensor) -> torch.Tensor:
    """
    Logits `(B, L, V)` in float64 from the weights and the fields of a published checkpoint, by their names there.

    A weight that is not there is not used: which ones have to be there is the business of `expected_names`.
    """
    weights = {name.removeprefix("model.transformer."): w.double() for name, w in weights.items()}
    batch_size, length = ids.shape
    head_dim = fields["d_model"] // fields["n_heads"]

    def linear(x, name):
        return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x, name):
        x = x / (x.pow(2).mean(-1, keepdim=True) + fields["rms_norm_eps"]).sqrt()
        return x * weights[f"{name}.weight"] + weights.get(f"{name}.bias", 0)

    frequencies = fields["rope_theta"] ** -(torch.arange(0, head_dim, 2).double() / head_dim)
    angles = torch.arange(length).double()[:, None] * torch.cat([frequencies, frequencies])

    def rotate(x):
        first, second = x.chunk(2, dim=-1)
        return x * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()

    def heads(x):
        return x.view(batch_size, length, -1, head_dim).transpose(1, 2)

    act = {"silu": lambda x: x * torch.sigmoid(x), "gelu": lambda x: x * (1 + torch.erf(x / math.sqrt(2))) / 2}
    x = weights["wte.weight"][ids]
    for i in range(fields["n_layers"]):
        block = f"blocks.{i}"
        normed = norm(x, f"{block}.attn_norm")
        q, k, v = (heads(linear(normed, f"{block}.{name}_proj")) for name in "qkv")
        groups = q.shape[1] // k.shape[1]
        k, v = (y.repeat_interleave(groups, dim=1) for y in (rotate(k), v))
        attention = (rotate(q) @ k.mT / math.sqrt(head_dim)).softmax(-1) @ v
        x = x + linear(attention.transpose(1, 2).flatten(2), f"{block}.attn_out")
        normed = norm(x, f"{block}.ff_norm")
        gate = act[fields["activation_type"]](linear(normed, f"{block}.ff_proj"))
        x = x + linear(gate * linear(normed, f"{block}.up_proj"), f"{block}.ff_out")
    x = norm(x, "ln_f")
    logits = F.linear(x, weights["wte.weight"]) if fields["weight_tying"] else linear(x, "ff_out")
    return logits / math.sqrt(fields["d_model"]) if fields["scale_logits"] else logits


def expected_names(fields: dict) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the weights that the original code makes of a configuration."""
    d, bias = fields["d_model"], fields["include_bias"]
    norm_bias = bias if fields["bias_for_layer_norm"] is None else fields["bias_for_layer_norm"]
    kv_heads = fields["n_kv_heads"] or (1 if fields["multi_query_attention"] else fields["n_heads"])
    kv = kv_heads * d // fields["n_heads"]
    hidden = fields["mlp_hidden_size"] or fields["mlp_ratio"] * d
    shapes = {"wte": ((fields["embedding_size"], d), False), "ln_f": ((d,), norm_bias)}
    if not fields["weight_tying"]:
        shapes["ff_out"] = (fields["embedding_size"], d), bias
    qkv_bias = bias or fields["include_qkv_bias"]
    for i in range(fields["n_layers"]):
        block = {
            "attn_norm": ((d,), norm_bias),
            "ff_norm": ((d,), norm_bias),
            "q_proj": ((d, d), qkv_bias),
            "k_proj": ((kv, d), qkv_bias),
            "v_proj": ((kv, d), qkv_bias),
            "attn_out": ((d, d), bias),
            "ff_proj": ((hidden, d), bias),
            "up_proj": ((hidden, d), bias),
            "ff_out": ((d, hidden), bias),
        }
        shapes |= {f"blocks.{i}.{name}": value for name, value in block.items()}
    names = {f"model.transformer.{name}.weight": shape for name, (shape, _) in shapes.items()}
    return names | {f"model.transformer.{name}.bias": shape[:1] for name, (shape, bias) in shapes.items() if bias}


@LLADA_CASES
def test_weights_are_saved_under_their_original_names(case, model, tmp_path, read_weights):
    """The original code must read what we write: `attn_norm` once became `attn_transformer.ln_f` on the way out."""
    model.save_pretrained(tmp_path)
    assert {name: tuple(w.shape) for name, w in read_weights(tmp_path).items()} == expected_names(case.fields)


@LLADA_CASES
def test_logits_are_those_of_a_plain_implementation(case, model, ids, tmp_path, read_weights):
    """A bias, a tie or a scale that is read and not used, or used in the wrong place, changes logits by about 1."""
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    expected = plain_llada(read_weights(tmp_path), case.fields, ids)
    with torch.no_grad():
        logits = model(ids).logits
    assert expected.std() > 0.2
    torch.testing.assert_close(logits.double(), expected, atol=5e-4, rtol=0)


@LLADA_CASES
def test_every_weight_changes_the_logits(case, model, ids):
    """A parameter that is loaded and never used makes a comparison of state dicts meaningless."""
    with torch.no_grad():
        before = model(ids).logits
        for name, parameter in model.named_parameters():
            kept = parameter.clone()
            parameter += torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
            assert (model(ids).logits - before).abs().max() > 1e-3, name
            parameter.copy_(kept)


@pytest.mark.parametrize("case", ["llada", "llada-bias", "llada-multi-query"], indirect=True)
def test_plain_load_state_dict_reads_original_names(case, model, tmp_path, read_weights):
    """`Trainer` resumes with it, not strictly: without the hook every key is missing and training starts anew."""
    model.save_pretrained(tmp_path)
    weights = read_weights(tmp_path)
    names = list(weights)
    for prefix, wrap in {"": lambda m: m, "module.": lambda m: nn.ModuleDict({"module": m})}.items():
        other = case.model(seed=1)
        wrap(other).load_state_dict({prefix + name: w for name, w in weights.items()}, strict=True)
        for name, parameter in model.named_parameters():
            assert torch.equal(other.get_parameter(name), parameter), name
    assert list(weights) == names
    # Our own names still load, and an unknown name is still an error.
    case.model(seed=1).load_state_dict(model.state_dict(), strict=True)
    with pytest.raises(RuntimeError, match=r"blocks\.0\.q_norm"):
        other.load_state_dict({**weights, "model.transformer.blocks.0.q_norm.weight": torch.ones(1)})
    incomplete = {name: w for name, w in weights.items() if "blocks.1.ff_proj" not in name}
    with pytest.raises(RuntimeError, match=r"layers\.1\.mlp\.gate_proj"):
        other.load_state_dict(incomplete)


@pytest.mark.parametrize("case", ["llada"], indirect=True)
def test_copies_and_shards_resume_too(case, model, tmp_path):
    """What `Trainer` does with a sharded checkpoint; the hook of a copied model must rename into the copy."""
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    original = case.model(seed=1)
    copied = copy.deepcopy(original)
    load_sharded_checkpoint(copied, tmp_path, strict=False)
    for name, parameter in model.named_parameters():
        assert torch.equal(copied.get_parameter(name), parameter), name
    assert not torch.equal(original.lm_head.weight, model.lm_head.weight)


@pytest.mark.parametrize("case", ["llada-tied"], indirect=True)
def test_plain_load_of_a_tied_checkpoint_leaves_the_head_tied(case, model, ids, tmp_path, read_weights):
    model.save_pretrained(tmp_path)
    other = case.model(seed=1)
    result = other.load_state_dict(read_weights(tmp_path), strict=False)
    assert result.missing_keys == ["lm_head.weight"] and not result.unexpected_keys
    assert torch.equal(other(ids).logits, model(ids).logits)


def test_a_layer_count_of_two_digits_keeps_its_order(tmp_path, read_weights):
    """`blocks.1` is a prefix of `blocks.10`."""
    sizes = {"d_model": 8, "n_heads": 2, "mlp_hidden_size": 8, "vocab_size": 16}
    model = LladaForMaskedDiffusion(LladaConfig(**sizes, n_layers=11))
    with torch.no_grad():
        for i, layer in enumerate(model.model.layers):
            layer.mlp.up_proj.weight.fill_(i)
    model.save_pretrained(tmp_path)
    for name, weight in read_weights(tmp_path).items():
        if found := re.fullmatch(r"model\.transformer\.blocks\.(\d+)\.up_proj\.weight", name):
            assert (weight == int(found[1])).all(), name
    loaded = LladaForMaskedDiffusion.from_pretrained(tmp_path)
    assert [int(layer.mlp.up_proj.weight[0, 0]) for layer in loaded.model.layers] == list(range(11))
