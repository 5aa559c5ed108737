"""Semi-causal models in any order: their forward, what becomes of a checkpoint, and which decoders can be one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM

from hf_latent import LatentTokenConfig, LatentTokenForCausalLM, LatentTokenForMaskedDiffusion
from hf_latent.hub import bundle

MASK, PAD = 63, 62
IDS = torch.tensor([[5, MASK, 9, MASK, 2, MASK], [PAD, PAD, 4, MASK, MASK, 8]])
ATTENDED = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1]])
ORDERS = ["any", "left_to_right"]
CLASSES = {"any": LatentTokenForMaskedDiffusion, "left_to_right": LatentTokenForCausalLM}


@pytest.fixture(scope="module")
def model(make_latent_token: Callable[..., Any]) -> Any:
    return make_latent_token("any")


# Attention


@pytest.mark.parametrize(("family", "attention"), [("llama", "sdpa"), ("llama", "eager"), ("gemma3_text", "eager")])
def test_nothing_is_seen_that_was_written_later_or_is_of_another_group(
    family: str, attention: str, make_latent_token: Callable[..., Any]
) -> None:
    """The gradient with respect to what must not be seen is exactly zero, to what is seen it is not."""
    model = make_latent_token("any", family, attention, sliding_window=None if family == "llama" else 6)
    order, group = torch.tensor([[2, 0, 0, 0, 1, 0]]), torch.tensor([[-1, 0, -1, 1, -1, 0]])
    sees = {0: {0, 2, 4}, 1: {0, 1, 2, 4, 5}, 2: {2}, 3: {0, 2, 3, 4}, 4: {2, 4}, 5: {0, 1, 2, 4, 5}}
    embeddings = model.get_input_embeddings()(IDS[:1]).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, reveal_order=order, query_group=group).logits
    for column, seen in sees.items():
        (gradient,) = torch.autograd.grad(logits[0, column].square().sum(), embeddings, retain_graph=True)
        assert set((gradient[0].abs().amax(-1) > 0).nonzero().flatten().tolist()) == seen, column


@torch.no_grad()
def test_one_group_of_all_masks_is_joint_prediction(model: Any) -> None:
    """Bidirectional among the masks, as a masked diffusion model reads them; the text alone stays causal."""
    ids = IDS[:1]
    masked = ids[0] == MASK
    mask = torch.full((6, 6), torch.finfo(torch.float32).min).triu(1)
    mask[:, masked] = torch.finfo(torch.float32).min
    mask[masked] = 0
    expected = model(ids, attention_mask=mask[None, None]).logits
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        model(ids, query_group=torch.where(masked, 7, -1)[None]).logits, expected, atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_text_alone_is_read_as_the_causal_decoder_reads_it(model: Any, make_decoder: Callable[..., Any]) -> None:
    ids = torch.tensor([[5, 9, 2, 30]])
    torch.testing.assert_close(model(ids).logits, make_decoder()(ids).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_padding_and_the_order_of_columns_change_nothing(family: str, make_latent_token: Callable[..., Any]) -> None:
    model = make_latent_token("any", family)
    alone = model(IDS[1:, 2:]).logits[0]
    torch.testing.assert_close(model(IDS, attention_mask=ATTENDED).logits[1, 2:], alone, atol=1e-5, rtol=1e-5)
    right = torch.cat([IDS[1:, 2:], IDS[1:, :2]], -1)
    found = model(right, attention_mask=torch.tensor([[1, 1, 1, 1, 0, 0]])).logits[0, :4]
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)
    columns = torch.tensor([3, 1, 0, 2])
    shuffled = model(IDS[1:, 2:][:, columns], position_ids=columns[None], reveal_order=columns[None]).logits[0]
    torch.testing.assert_close(shuffled, alone[columns], atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padding_makes_no_nan(attention: str, make_latent_token: Callable[..., Any]) -> None:
    model = make_latent_token("any", attention=attention)
    for row in ([0] * 6, [0, 0, 0, 0, 0, 1]):
        assert model(IDS, attention_mask=torch.tensor([row, [1] * 6])).logits.isfinite().all()


def test_labels_are_not_shifted(model: Any) -> None:
    labels = torch.where((IDS == MASK) & (ATTENDED == 1), 7, -100)
    out = model(IDS, attention_mask=ATTENDED, labels=labels)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits[labels != -100], labels[labels != -100]))


def test_the_forward_compiles_into_one_graph(model: Any) -> None:
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    for kwargs in (
        {"attention_mask": ATTENDED},
        {"attention_mask": torch.ones(2, 1, 6, 6, dtype=torch.bool), "position_ids": torch.arange(6).expand(2, 6)},
    ):
        torch.testing.assert_close(compiled(IDS, **kwargs).logits, model(IDS, **kwargs).logits)


def test_what_only_semi_causal_models_know_is_refused_by_others(model: Any, make_decoder: Callable[..., Any]) -> None:
    bidirectional = LatentTokenForMaskedDiffusion.from_backbone(make_decoder(), mask_token_id=MASK)
    with pytest.raises(ValueError, match="`reveal_order` and `query_group` are for `attention`='semi_causal'"):
        bidirectional(IDS, reveal_order=torch.zeros_like(IDS))
    with pytest.raises(ValueError, match="`num_latent_tokens` is for semi-causal models"):
        bidirectional.generate(torch.tensor([[1, 2]]), max_new_tokens=2, num_latent_tokens=1)
    with pytest.raises(ValueError, match="`inputs_embeds` needs `query_group`"):
        model(inputs_embeds=torch.zeros(1, 2, 32))
    with pytest.raises(ValueError, match="make a LatentTokenForCausalLM, got LatentTokenForMaskedDiffusion"):
        LatentTokenForMaskedDiffusion(
            LatentTokenConfig(attention="semi_causal", order="left_to_right", shift_logits=True)
        )
    with pytest.raises(ValueError, match="`num_latent_tokens` must be 0 with `attention`='bidirectional'"):
        LatentTokenConfig(num_latent_tokens=1)


# Checkpoints


def texts(model: Any, order: str) -> list[list[list[int]]]:
    prompt = torch.tensor([[5, 6, 7], [9, 1, 33]])
    knobs: dict[str, Any] = {"max_new_tokens": 5, "eos_token_id": None, "pad_token_id": PAD}
    calls: list[dict[str, Any]] = [{"num_latent_tokens": k} for k in (0, 1, 3)]
    calls.append({"num_latent_tokens": 2, "self_speculative": True} if order != "any" else {"num_candidates": 2})
    return [model.generate(prompt, **knobs, **call).tolist() for call in calls]


STRANGER = """
import json, sys
import torch
from transformers import AutoModel, AutoModelForCausalLM
result = {}
for order, folder in json.loads(sys.argv[1]).items():
    models = [auto.from_pretrained(folder, trust_remote_code=True) for auto in (AutoModel, AutoModelForCausalLM)]
    result[order] = [type(model).__name__ for model in models], texts(models[1], order)
print(json.dumps(result))
"""


def test_a_stranger_generates_with_every_number(
    make_latent_token: Callable[..., Any], run_stranger: Callable, tmp_path: Path
) -> None:
    """Both classes, saved as users save, in a process that cannot import hf_latent."""
    import inspect

    models = {order: make_latent_token(order) for order in ORDERS}
    for order, model in models.items():
        model.save_pretrained(tmp_path / order)
    source = "from typing import Any\nPAD = 62\n" + inspect.getsource(texts)
    program = STRANGER.replace("result = {}", "import torch\n" + source + "result = {}")
    done = run_stranger(program, tmp_path, json.dumps({order: str(tmp_path / order) for order in ORDERS}))
    result = json.loads(done.stdout.splitlines()[-1])
    for order, model in models.items():
        names, ids = result[order]
        assert names == [CLASSES[order].__name__] * 2
        assert ids == texts(model, order)


@pytest.mark.slow
@pytest.mark.parametrize("order", ORDERS)
def test_a_bundle_loads_without_us(order: str, make_latent_token: Callable[..., Any], tmp_path: Path) -> None:
    """`bundle` checks it in a process that cannot import hf_latent."""
    folder = bundle(make_latent_token(order), None, tmp_path / "bundle")
    assert {"generation_semi_causal_masks.py", "generation_speculative.py"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt2"])
def test_a_saved_model_loads_as_it_was(
    order: str, family: str, make_latent_token: Callable[..., Any], tmp_path: Path
) -> None:
    """The order says which of two classes it is; heads tied to the embeddings stay so."""
    model = make_latent_token(order, family)
    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path)
    for auto_class in (AutoModel, AutoModelForCausalLM):
        loaded, info = auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        assert type(loaded) is CLASSES[order] and loaded.config.vocab_size == 70
        assert loaded.config.use_cache == (order == "left_to_right")
        tied = loaded.lm_head.weight is loaded.get_input_embeddings().weight
        assert tied == model.config.tie_word_embeddings
        assert texts(loaded, order) == texts(model, order)


@pytest.mark.parametrize("order", ORDERS)
def test_a_configuration_makes_the_class_of_its_order(order: str) -> None:
    sizes = {"model_type": "llama", "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 64}
    config = LatentTokenConfig(
        text_config=sizes, mask_token_id=MASK, attention="semi_causal", order=order, shift_logits=order != "any"
    )
    for auto_class in (AutoModel, AutoModelForCausalLM):
        model = auto_class.from_config(config)
        assert type(model) is CLASSES[order]
    # Random weights may well end the text after one token.
    knobs = {"min_new_tokens": 2, "max_new_tokens": 2, "num_latent_tokens": 1}
    assert model.generate(torch.tensor([[1, 2]]), **knobs).shape == (1, 4)


def test_adapters_train_and_load(make_latent_token: Callable[..., Any], tmp_path: Path) -> None:
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(make_latent_token("any"), config)
    adapted(IDS, attention_mask=ATTENDED, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(make_latent_token("any"), tmp_path).eval()
    assert texts(again, "any") == texts(adapted.eval(), "any")


# Which decoders can be one

WIDE = {"vocab_size": 64, "hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 2}
REFUSED: dict[str, dict[str, Any]] = {
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_head": 4, "n_layer": 2},
    "mpt": {"vocab_size": 64, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64},
    "falcon": WIDE | {"alibi": True},
    "mamba": {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8},
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("family", list(REFUSED))
def test_distances_between_columns_and_recurrence_are_refused_by_name(order: str, family: str) -> None:
    """ALiBi counts columns, whatever the positions; a recurrent state has seen everything before it."""
    decoder = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**REFUSED[family]))
    message = "must have attention layers only" if family == "mamba" else f"{type(decoder).__name__} does not"
    kwargs: dict[str, Any] = {"attention": "semi_causal"} if order == "any" else {}
    with pytest.raises(ValueError, match=message):
        CLASSES[order].from_backbone(decoder, mask_token_id=MASK, **kwargs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_experts_and_half_precision_are_taken(dtype: torch.dtype) -> None:
    """Whose sums differ in their last bits with what else is in the batch."""
    sizes = WIDE | {"intermediate_size": 48, "num_key_value_heads": 2, "num_local_experts": 4}
    torch.manual_seed(0)
    decoder = AutoModelForCausalLM.from_config(CONFIG_MAPPING["mixtral"](**sizes), dtype=dtype)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    assert LatentTokenForCausalLM.from_backbone(decoder, mask_token_id=MASK).config.mask_token_id == MASK
