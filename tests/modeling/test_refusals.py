"""What a checkpoint says and a model here would not do is refused by name, in every family, before anything runs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

import hf_latent
from hf_latent import LatentTokenConfig, LatentTokenForMaskedDiffusion

# Family to values that its configurations could have: what stock blocks do not do, and what says another architecture.
COMMON: list[tuple[str, Any]] = [("is_causal", True), ("hidden_act", "swiglu")]
DENSE = [*COMMON, ("num_experts", 8), ("partial_rotary_factor", 0.5)]
BLOCKS: list[tuple[str, Any]] = [("block_size", 0), ("use_sliding_window", True)]
REFUSED: dict[str, list[tuple[str, Any]]] = {
    "llada": [
        ("num_experts", 8),
        ("expert_intermediate_size", 16),
        ("attention_bias", True),
        ("mlp_bias", True),
        ("partial_rotary_factor", 0.5),
    ],
    "dream": DENSE,
    "sdar": [*DENSE, *BLOCKS],
    "sdar-moe": [*COMMON, *BLOCKS, ("output_router_logits", True)],
    "fast-dllm": [
        *DENSE,
        ("use_sliding_window", True),
        ("bd_size", 0),
        ("layer_types", ["full_attention", "sliding_attention"]),
    ],
    "llada2": [
        *COMMON,
        *BLOCKS,
        ("embedding_dropout", 0.1),
        ("output_dropout", 0.1),
        ("moe_router_enable_expert_bias", False),
        ("n_group", 3),
        ("norm_head", True),
        ("norm_softmax", True),
        ("norm_topk_prob", False),
        ("num_experts_per_tok", 1),
        ("num_shared_experts", 0),
        ("output_router_logits", True),
        ("rotary_dim", 16),
        ("router_dtype", "bf16"),
        ("score_function", "softmax"),
        ("use_bias", True),
        ("use_rmsnorm", False),
        ("using_split_qkv_in_self_attention", True),
    ],
    "llada-moe": [
        *COMMON,
        ("attention_bias", True),
        ("clip_qkv", 8.0),
        ("moe_layer_freq", [1]),
        ("moe_layer_freq", [1, 2]),
        ("moe_router_enable_expert_bias", True),
        ("moe_router_score_function", "sigmoid"),
        ("norm_topk_prob", True),
        ("output_router_logits", True),
        ("partial_rotary_factor", 0.5),
        ("qk_layernorm", False),
        ("routed_scaling_factor", 2.5),
        ("router_num_group", 4),
        ("router_topk_group", 2),
        ("shared_expert_intermediate_size", 16),
    ],
    "illada": [*DENSE, ("layer_norm_eps", 1e-5), ("resid_pdrop", 0.1), ("hidden_size", 33)],
}
# The name that an error gives a field: ours, where both are the same thing.
ALSO_CALLED = {"bd_size": "block_size", "hidden_size": "hidden size"}


@pytest.mark.parametrize(
    ("case", "name", "value"),
    [(family, *field) for family, fields in REFUSED.items() for field in fields],
    indirect=["case"],
)
def test_a_value_that_is_not_honoured_is_refused_by_name(case, name, value):
    """Silently ignoring one of them gives a model that loads and talks nonsense."""
    with pytest.raises(ValueError, match=f"(?s){ALSO_CALLED.get(name, name)}.*{re.escape(str(value))}"):
        case.config(**{name: value})


@pytest.mark.parametrize("case", ["llada", "llada2", "fast-dllm", "llada-moe"], indirect=True)
def test_a_value_in_a_file_is_refused_as_well(case, model, tmp_path):
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    name, value = REFUSED[case.family][-1]
    (tmp_path / "config.json").write_text(json.dumps(fields | {name: value}))
    with pytest.raises(ValueError, match=ALSO_CALLED.get(name, name)):
        AutoConfig.from_pretrained(tmp_path)


def test_a_decoder_whose_loss_we_would_cut_is_refused():
    fields = {"model_type": "mixtral", "num_local_experts": 2, "output_router_logits": True}
    with pytest.raises(ValueError, match="`output_router_logits` of `text_config` must be False"):
        LatentTokenConfig(text_config=fields)


@pytest.mark.parametrize("family", ["sdar", "llada2_moe", "Fast_dLLM_Qwen", "illada", "llada_moe"])
def test_a_diffusion_model_is_no_backbone(family):
    with pytest.raises(ValueError, match=f"autoregressive decoder, got '{family}'"):
        LatentTokenConfig(text_config={"model_type": family})


# Loading


@pytest.mark.parametrize("case", ["sdar", "illada", "llada2"], indirect=True)
@pytest.mark.parametrize("name", ["Llada", "Dream", "LatentToken"])
def test_a_folder_of_another_family_is_refused_by_every_class(case, model, tmp_path, name):
    """SDAR's folder loaded as LLaDA, without its norms; only a report told."""
    model.save_pretrained(tmp_path)
    for kind in ("Config", "ForMaskedDiffusion"):
        with pytest.raises(ValueError, match=f"`model_type` must be .* got '{model.config.model_type}'"):
            getattr(hf_latent, name + kind).from_pretrained(tmp_path)


@pytest.mark.parametrize("case", ["llada-moe"], indirect=True)
def test_a_folder_of_llada_moe_is_never_read_as_dense_llada(case, model, ids, tmp_path):
    """Both say `model_type` "llada": the experts' fields were ignored, and nine tensors were random."""
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "llada"
    assert type(AutoConfig.from_pretrained(tmp_path)) is hf_latent.LladaMoeConfig
    for auto_class in (AutoModel, AutoModelForCausalLM):
        assert torch.equal(auto_class.from_pretrained(tmp_path)(ids).logits, model(ids).logits)
    assert torch.equal(type(model).from_pretrained(tmp_path)(ids).logits, model(ids).logits)
    for name in ("LladaConfig", "LladaForMaskedDiffusion"):
        with pytest.raises(ValueError, match=r"`num_experts`=8.* is LLaDA-MoE"):
            getattr(hf_latent, name).from_pretrained(tmp_path)


def rewrite(folder: Path, **changes: torch.Tensor | None) -> None:
    """Add weights to a folder, or take away those that are None."""
    weights = load_file(folder / "model.safetensors") | changes
    save_file(
        {name: weight for name, weight in weights.items() if weight is not None},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )


@pytest.mark.parametrize("case", ["llada", "dream", "sdar", "llada2", "llada-moe"], indirect=True)
def test_missing_and_unexpected_weights_are_named_in_an_error(case, model, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    missing = next(name for name in load_file(tmp_path / "model.safetensors") if "norm" in name)
    rewrite(tmp_path, **{missing: None, "model.layers.0.extra.weight": torch.ones(1)})
    with pytest.raises(ValueError, match=r"(?s)has not `.*norm.*has also `model\.layers\.0\.extra\.weight`"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    assert "LOAD REPORT" not in caplog.text


@pytest.mark.parametrize("order", ["any", "left_to_right"])
def test_a_latent_token_model_without_a_weight_is_refused(make_latent_token, tmp_path, order):
    make_latent_token(order).save_pretrained(tmp_path)
    rewrite(tmp_path, **{"lm_head.weight": None})
    with pytest.raises(ValueError, match=r"has not `lm_head\.weight`"):
        AutoModelForCausalLM.from_pretrained(tmp_path)


def test_an_expert_that_is_missing_is_missed(build, tmp_path):
    build("llada-moe").save_pretrained(tmp_path)
    rewrite(tmp_path, **{"model.layers.1.mlp.experts.7.up_proj.weight": None})
    with pytest.raises(RuntimeError, match="conversion of the weights"):  # transformers' own
        AutoModelForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize("case", ["illada", "fast-dllm-tied"], indirect=True)
def test_a_head_that_shares_the_embeddings_is_not_missed(case, model, ids, tmp_path):
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_a_stock_model_reads_what_it_always_did(tmp_path):
    """Only our own classes are strict."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    stock = LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=16))
    stock.save_pretrained(tmp_path)
    rewrite(tmp_path, **{"model.norm.weight": None})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is LlamaForCausalLM
    converted = LatentTokenForMaskedDiffusion.from_backbone(loaded, mask_token_id=15)
    assert converted.config.text_config.model_type == "llama"


# The mask token


@pytest.mark.parametrize(
    ("case", "published"),
    [
        ("sdar", 151669),
        ("sdar-moe", 151669),
        ("fast-dllm", 151665),
        ("llada2", 156895),
        ("llada-moe", 156895),
        ("illada", 5),
    ],
    indirect=["case"],
)
def test_the_mask_token_is_the_familys_where_its_file_has_none(case, published):
    assert case.config(mask_token_id=None, vocab_size=published + 1).mask_token_id == published
    assert case.config(mask_token_id=None, vocab_size=published).mask_token_id is None
    assert case.config(mask_token_id=3, vocab_size=published + 1).mask_token_id == 3


@pytest.mark.parametrize("case", ["sdar-moe"], indirect=True)
def test_without_a_mask_token_generation_is_refused_by_name(case, ids):
    model = case.model(mask_token_id=None)
    with pytest.raises(ValueError, match="`mask_token_id` is not set"):
        model.generate(ids.clamp(max=40), max_new_tokens=4)
