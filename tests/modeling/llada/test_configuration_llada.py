"""What a LLaDA configuration can say is honoured or refused by name, and written in the names it was read in."""

import json
import re

import pytest
from transformers import AutoConfig

from hf_latent import LladaConfig

SIZES = {"d_model": 32, "n_heads": 4, "n_layers": 2, "n_kv_heads": 4, "mlp_hidden_size": 48, "vocab_size": 64}
REFUSED = [
    ("alibi", True),
    ("attention_layer_norm", True),
    ("block_group_size", 2),
    ("block_type", "sequential"),
    ("clip_qkv", 8.0),
    ("embedding_dropout", 0.1),
    ("input_emb_norm", True),
    ("is_causal", True),
    ("layer_norm_type", "default"),
    ("layer_norm_type", "gemma_rms"),
    ("layer_norm_with_affine", False),
    ("residual_dropout", 0.1),
    ("rope", False),
    ("activation_type", "swiglu"),
    ("d_model", 0),
    ("embedding_size", 63),
    ("mlp_hidden_size", 0),
    ("n_heads", 0),
    ("n_heads", 5),
    ("n_kv_heads", -4),
    ("n_kv_heads", 0),
    ("n_kv_heads", 3),
    ("n_layers", 0),
]


@pytest.mark.parametrize(("name", "value"), REFUSED)
@pytest.mark.parametrize("read_from_file", [False, True])
def test_an_unsupported_value_is_refused_by_name(tmp_path, name, value, read_from_file):
    """Silently ignoring one of them gives a model that loads and talks nonsense."""
    fields = SIZES | {name: value, "model_type": "llada"}
    with pytest.raises(ValueError, match=f"(?s)`{name}`.*{re.escape(str(value))}"):
        if read_from_file:
            (tmp_path / "config.json").write_text(json.dumps(fields))
            AutoConfig.from_pretrained(tmp_path)
        else:
            LladaConfig(**fields)


@pytest.mark.parametrize(("multi_query", "kv_heads"), [(True, 4), (True, 2), (False, 2), (False, 1)])
def test_contradicting_numbers_of_heads_are_refused(multi_query, kv_heads):
    with pytest.raises(ValueError, match=f"`multi_query_attention`={multi_query} .*`n_kv_heads` is {kv_heads}"):
        LladaConfig(**(SIZES | {"multi_query_attention": multi_query, "n_kv_heads": kv_heads}))


@pytest.mark.parametrize(
    ("multi_query", "kv_heads", "expected"),
    [(None, None, 4), (None, 2, 2), (True, None, 1), (True, 1, 1), (False, None, 4), (False, 4, 4)],
)
def test_the_number_of_key_value_heads_is_that_of_the_original(multi_query, kv_heads, expected):
    config = LladaConfig(**(SIZES | {"multi_query_attention": multi_query, "n_kv_heads": kv_heads}))
    assert config.num_key_value_heads == config.n_kv_heads == expected


def test_both_spellings_name_one_field(tmp_path):
    hub = LladaConfig(**SIZES, max_sequence_length=99, weight_tying=True, init_std=0.5, activation_type="relu")
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 4}
    sizes |= {"intermediate_size": 48, "vocab_size": 64, "max_position_embeddings": 99}
    ours = LladaConfig(**sizes, tie_word_embeddings=True, initializer_range=0.5, hidden_act="relu")
    assert hub.to_dict() == ours.to_dict()
    assert hub.to_json_string() == ours.to_json_string()
    assert (hub.d_model, hub.hidden_size, ours.d_model, ours.n_layers) == (32, 32, 32, 2)
    hub.d_model = 64
    assert hub.hidden_size == 64
    written = json.loads(ours.to_json_string())
    theirs = {"hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "hidden_act"}
    theirs |= {"num_key_value_heads", "max_position_embeddings", "tie_word_embeddings", "initializer_range"}
    assert not theirs & set(written)
    assert written["d_model"] == 32 and written["weight_tying"] is True and written["embedding_size"] == 64


def test_a_field_we_do_not_know_is_kept_for_the_original_code(tmp_path):
    LladaConfig(**SIZES, init_fn="mitchell", precision="amp_bf16", flash_attention=True).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["init_fn"], written["precision"], written["flash_attention"]) == ("mitchell", "amp_bf16", True)


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 2.0}])
def test_the_rotation_survives_saving(tmp_path, scaling):
    fields = {"rope_theta": 1234.0} | ({"rope_scaling": scaling} if scaling else {})
    LladaConfig(**SIZES, **fields).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["rope_theta"] == 1234.0
    loaded = LladaConfig.from_pretrained(tmp_path)
    expected = {"rope_theta": 1234.0, "rope_type": "default"} | (scaling or {})
    assert loaded.rope_parameters == expected


def test_the_defaults_are_those_of_the_published_8b_model():
    """GSAI-ML/LLaDA-8B-Instruct, from its model card and paper (arXiv 2502.09992, table 5): 8.02 B parameters."""
    config = LladaConfig(mlp_hidden_size=12288)
    d, v, n, f = config.d_model, config.vocab_size, config.n_layers, config.intermediate_size
    parameters = 2 * v * d + n * (4 * d * d + 3 * d * f + 2 * d) + d
    assert (d, n, config.n_heads, config.n_kv_heads, v) == (4096, 32, 32, 32, 126464)
    assert 8.01e9 < parameters < 8.03e9
