"""The table of tiny models that every contract of `tests/modeling` is checked on."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedConfig, PreTrainedModel

import hf_latent

VOCAB_SIZE, PAD, MASK = 64, 50, 51

# In the names and with all the fields of the published configurations.
LLADA: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 32,
    "embedding_dropout": 0.0,
    "embedding_size": VOCAB_SIZE,
    "eos_token_id": PAD,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": MASK,
    "max_sequence_length": 64,
    "mlp_hidden_size": 48,
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "n_heads": 4,
    "n_kv_heads": 4,
    "n_layers": 2,
    "pad_token_id": PAD,
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-5,
    "rope": True,
    "rope_theta": 5000.0,
    "scale_logits": False,
    "use_cache": False,
    "vocab_size": VOCAB_SIZE,
    "weight_tying": False,
}
# What all families on Qwen2 and Qwen3 say.
QWEN_SHARED: dict[str, Any] = {
    "bos_token_id": PAD,
    "eos_token_id": PAD,
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "mask_token_id": MASK,
    "max_position_embeddings": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "pad_token_id": PAD,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000.0,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": VOCAB_SIZE,
}
DREAM = QWEN_SHARED | {"full_attn_mask": True, "use_mrope": False}
QWEN = QWEN_SHARED | {"attention_dropout": 0.0, "initializer_range": 0.02, "rope_scaling": None}
SDAR = QWEN | {"attention_bias": False, "block_size": 4, "head_dim": 16}
EXPERTS: dict[str, Any] = {"num_experts": 8, "num_experts_per_tok": 3, "output_router_logits": False}
SDAR_MOE = SDAR | EXPERTS | {"decoder_sparse_step": 1, "mlp_only_layers": [], "moe_intermediate_size": 8}
FAST_DLLM = QWEN | {"bd_size": 4, "conplemenrary_mask": True}
LLADA2 = QWEN | EXPERTS
LLADA2 |= {
    "embedding_dropout": 0.0,
    "first_k_dense_replace": 1,
    "head_dim": 16,
    "moe_intermediate_size": 8,
    "moe_router_enable_expert_bias": True,
    "n_group": 4,
    "norm_head": False,
    "norm_softmax": False,
    "norm_topk_prob": True,
    "num_shared_experts": 1,
    "output_dropout": 0.0,
    "partial_rotary_factor": 0.5,
    "rotary_dim": 8,
    "routed_scaling_factor": 2.5,
    "router_dtype": "fp32",
    "score_function": "sigmoid",
    "topk_group": 2,
    "use_bias": False,
    "use_qk_norm": True,
    "use_qkv_bias": False,
    "use_rmsnorm": True,
    "using_split_qkv_in_self_attention": False,
    "block_size": 4,
}
LLADA_MOE = {name: value for name, value in QWEN.items() if name not in ("intermediate_size", "use_sliding_window")}
LLADA_MOE |= EXPERTS
LLADA_MOE |= {
    "attention_bias": False,
    "clip_qkv": None,
    "dense_intermediate_size": 48,
    "expert_intermediate_size": 8,
    "moe_layer_freq": [0, 1],
    "moe_router_enable_expert_bias": False,
    "moe_router_score_function": "softmax",
    "norm_topk_prob": None,
    "partial_rotary_factor": 1,
    "qk_layernorm": True,
    "routed_scaling_factor": 1,
    "router_num_group": None,
    "router_topk_group": None,
    "shared_expert_intermediate_size": None,
}
ILLADA = {name: value for name, value in QWEN.items() if name != "use_sliding_window"}
ILLADA |= {"attention_bias": False, "layer_norm_eps": None, "mlp_bias": False, "resid_pdrop": 0.0}

# Name of the case to what its configuration says differently.
LLADA_CASES: dict[str, dict[str, Any]] = {
    "llada": {},
    "llada-gqa": {"n_kv_heads": 2},
    "llada-multi-query": {"multi_query_attention": True, "n_kv_heads": None},
    "llada-bias": {"include_bias": True, "bias_for_layer_norm": None},
    "llada-bias-everywhere": {"include_bias": True, "bias_for_layer_norm": True, "include_qkv_bias": True},
    "llada-bias-not-in-norms": {"include_bias": True, "bias_for_layer_norm": False},
    "llada-bias-in-norms-only": {"bias_for_layer_norm": True},
    "llada-qkv-bias": {"include_qkv_bias": True, "bias_for_layer_norm": None, "n_kv_heads": 2},
    "llada-tied": {"weight_tying": True},
    "llada-tied-bias": {"weight_tying": True, "include_bias": True, "bias_for_layer_norm": None},
    "llada-scaled": {"scale_logits": True},
    "llada-wide-embedding": {"vocab_size": VOCAB_SIZE, "embedding_size": VOCAB_SIZE + 3},
    "llada-mlp-ratio": {"mlp_hidden_size": None, "mlp_ratio": 3},
    "llada-gelu": {"activation_type": "gelu"},
}
# Family to what begins the names of its classes, its fields and its cases.
FAMILIES: dict[str, tuple[str, dict[str, Any], dict[str, dict[str, Any]]]] = {
    "llada": ("Llada", LLADA, LLADA_CASES),
    "dream": ("Dream", DREAM, {"dream": {}, "dream-tied": {"tie_word_embeddings": True}}),
    "sdar": ("Sdar", SDAR, {"sdar": {}}),
    "sdar-moe": ("SdarMoe", SDAR_MOE, {"sdar-moe": {}}),
    "fast-dllm": ("FastDllm", FAST_DLLM, {"fast-dllm": {}, "fast-dllm-tied": {"tie_word_embeddings": True}}),
    "llada2": ("Llada2", LLADA2, {"llada2": {}, "llada2-qkv-bias": {"use_qkv_bias": True, "use_qk_norm": False}}),
    "llada-moe": ("LladaMoe", LLADA_MOE, {"llada-moe": {}}),
    "illada": ("Illada", ILLADA, {"illada": {"tie_word_embeddings": True}}),
}


@dataclass(frozen=True)
class Case:
    """One row of the table: `fields` is what the published `config.json` would say."""

    name: str
    family: str
    fields: dict[str, Any]

    @property
    def is_dream(self) -> bool:
        return self.family == "dream"

    @property
    def is_tied(self) -> bool:
        return bool(self.fields.get("weight_tying") or self.fields.get("tie_word_embeddings"))

    def config(self, **overrides: Any) -> PreTrainedConfig:
        return getattr(hf_latent, f"{FAMILIES[self.family][0]}Config")(**(self.fields | overrides))

    def model(self, seed: int = 0, **overrides: Any) -> PreTrainedModel:
        """A model in which every parameter, biases and norms too, is random and matters."""
        torch.manual_seed(seed)
        model_class = getattr(hf_latent, f"{FAMILIES[self.family][0]}ForMaskedDiffusion")
        model = model_class(self.config(**overrides)).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(1 + 0.2 * noise if "norm.weight" in name else 0.25 * noise)
        return model


CASES = [
    Case(name, family, fields | differing)
    for family, (_, fields, cases) in FAMILIES.items()
    for name, differing in cases.items()
]
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """These models are so small that a second thread only waits: on a busy machine for seconds."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=list(BY_NAME))
def case(request: pytest.FixtureRequest) -> Case:
    """Every row of the table, or those named by `parametrize("case", [...], indirect=True)`."""
    return BY_NAME[request.param]


@pytest.fixture(scope="session")
def build() -> Callable[[str], PreTrainedModel]:
    """Model of a row by its name."""
    return lambda name: BY_NAME[name].model()


@pytest.fixture
def model(case: Case) -> PreTrainedModel:
    return case.model()


@pytest.fixture
def expected(folder: Path) -> dict[str, torch.Tensor]:
    """What the reference computes with the published checkpoint in `folder`, which a file of tests says itself."""
    return load_file(folder / "expected_logits.safetensors")


@pytest.fixture
def ids() -> torch.Tensor:
    """Two rows of twelve tokens, a third of them masks."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, PAD, (2, 12), generator=generator)
    return ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.3, MASK)


@pytest.fixture
def read_weights() -> Callable[[Path], dict[str, torch.Tensor]]:
    """All tensors of a saved folder, sharded or not, under the names they have on disk."""

    def read(folder: Path) -> dict[str, torch.Tensor]:
        return {name: w for path in sorted(folder.glob("*.safetensors")) for name, w in load_file(path).items()}

    return read
