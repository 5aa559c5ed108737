"""Dream: stock Qwen2 with full attention, its logits moved by one, and its configuration."""

import json
import re

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from hf_latent import DreamConfig

pytestmark = pytest.mark.parametrize("case", ["dream"], indirect=True)


@pytest.fixture
def raw_logits(model):
    """Logits of stock Qwen2 with the same weights and a mask of zeros: everything sees everything, nothing moved."""
    stock = Qwen2Config(**{name: value for name, value in model.config.to_dict().items() if name != "model_type"})
    stock.is_causal = False
    qwen = Qwen2ForCausalLM(stock).eval()
    qwen.load_state_dict(model.state_dict())

    def compute(ids, position_ids=None, allowed=None):
        batch_size, length = ids.shape
        mask = torch.zeros(batch_size, 1, length, length)
        if allowed is not None:
            mask.masked_fill_(~allowed[:, None], torch.finfo(torch.float32).min)
        with torch.no_grad():
            return qwen(ids, attention_mask=mask, position_ids=position_ids, use_cache=False).logits

    return compute


def test_a_token_is_predicted_by_the_state_before_it(model, ids, raw_logits):
    raw = raw_logits(ids)
    expected = torch.cat([raw[:, :1], raw[:, :-1]], dim=1)
    torch.testing.assert_close(model(ids).logits, expected, atol=2e-5, rtol=1e-4)
    keep = torch.zeros(ids.shape, dtype=torch.bool)
    keep[0, 0] = keep[1, 5] = True
    torch.testing.assert_close(model(ids, logits_to_keep=keep).logits, expected[keep], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("positions", ["none", "of the tokens", "of the columns"])
def test_the_first_token_behind_left_padding_is_predicted_by_itself(model, ids, raw_logits, positions):
    """The state before it is padding. With column positions and a mask it used to be that of the padding."""
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    position_ids = {
        "none": None,
        "of the tokens": (mask.cumsum(-1) - 1).clamp(min=0),
        "of the columns": torch.arange(12).expand(2, 12),
    }[positions]
    alone = raw_logits(ids[:1, 5:])
    expected = torch.cat([alone[:, :1], alone[:, :-1]], dim=1)
    for kind in (torch.long, torch.bool):
        logits = model(ids, attention_mask=mask.to(kind), position_ids=position_ids).logits
        torch.testing.assert_close(logits[:1, 5:], expected, atol=3e-5, rtol=1e-4)


def test_packed_documents_are_each_predicted_as_alone(model, ids, raw_logits):
    """Positions that start again and a 4-D mask: no document is predicted by the end of the one before."""
    lengths = (5, 7)
    document = torch.repeat_interleave(torch.arange(2), torch.tensor(lengths)).expand(2, 12)
    position_ids = torch.cat([torch.arange(n) for n in lengths]).expand(2, 12)
    allowed = document[:, :, None] == document[:, None, :]
    mask = torch.zeros(2, 1, 12, 12).masked_fill_(~allowed[:, None], torch.finfo(torch.float32).min)
    logits = model(ids, attention_mask=mask, position_ids=position_ids).logits
    for begin, end in ((0, 5), (5, 12)):
        alone = raw_logits(ids[:, begin:end])
        expected = torch.cat([alone[:, :1], alone[:, :-1]], dim=1)
        torch.testing.assert_close(logits[:, begin:end], expected, atol=3e-5, rtol=1e-4)


def test_weights_keep_the_names_of_qwen2(model, tmp_path, read_weights):
    model.save_pretrained(tmp_path)
    block = {f"self_attn.{x}_proj.{y}" for x in "qkv" for y in ("weight", "bias")} | {"self_attn.o_proj.weight"}
    block |= {f"mlp.{x}_proj.weight" for x in ("gate", "up", "down")}
    block |= {"input_layernorm.weight", "post_attention_layernorm.weight"}
    expected = {f"model.layers.{i}.{name}" for i in range(2) for name in block}
    assert set(read_weights(tmp_path)) == expected | {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
    }


REFUSED = {
    "full_attn_mask": False,
    "is_causal": True,
    "use_mrope": True,
    "use_sliding_window": True,
    "layer_types": ["full_attention", "sliding_attention"],
    "hidden_act": "swiglu",
    "num_attention_heads": 5,
    "num_key_value_heads": 3,
}


@pytest.mark.parametrize(("name", "value"), REFUSED.items())
def test_an_unsupported_value_is_refused_by_name(case, tmp_path, name, value):
    with pytest.raises(ValueError, match=f"(?s)`{name}`.*{re.escape(str(value))}"):
        case.config(**{name: value})
    (tmp_path / "config.json").write_text(json.dumps(case.fields | {name: value, "model_type": "Dream"}))
    with pytest.raises(ValueError, match=f"`{name}`"):
        DreamConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 4.0}])
def test_the_rotation_is_written_as_it_was_read(case, tmp_path, scaling):
    case.config(rope_scaling=scaling and dict(scaling)).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["rope_theta"], written["rope_scaling"]) == (1000.0, scaling)
    assert "rope_parameters" not in written
    expected = {"rope_theta": 1000.0, "rope_type": "default"} | (scaling or {})
    assert DreamConfig.from_pretrained(tmp_path).rope_parameters == expected


def test_the_window_of_the_published_configuration_is_not_used(case, ids):
    """The published file names a window (131072) beside `use_sliding_window`: false."""
    windowed = case.model(sliding_window=2, max_window_layers=0)
    assert torch.equal(windowed(ids).logits, case.model()(ids).logits)


def test_decoders_published_by_0_1_know_our_models(model):
    """They look for `align`, and shift the logits of a Dream without it: here a second time."""
    states = torch.randn(2, 5, model.config.hidden_size)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    shifted = model.shift_hidden_states(states, mask, None)
    assert torch.equal(model.align(states, mask, None), shifted) and torch.equal(shifted[:, 2:], states[:, 1:-1])
    assert model.reads_previous_state
