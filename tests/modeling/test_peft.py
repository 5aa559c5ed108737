"""LoRA through plain peft: adapters wrap, train, travel and merge, and none is lost in silence."""

import json
from pathlib import Path

import pytest
import torch
from peft import (
    AutoPeftModelForCausalLM,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model,
)
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

CASES = pytest.mark.parametrize("case", ["llada", "llada-tied-bias", "llada-multi-query", "dream"], indirect=True)
LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
# A layer's name here to its name in the original code.
ORIGINAL = {
    "self_attn.q_proj": "q_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.down_proj": "ff_out",
}


def logits_of(model, ids):
    with torch.no_grad():
        return model(ids).logits


@pytest.fixture
def trained(case, ids):
    """A LoRA model after one step that moved both factors, its base's logits and its own."""
    base = case.model()
    before = logits_of(base, ids)
    config = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(base, config)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    first = model(ids, labels=ids).loss
    first.backward()
    optimizer.step()
    assert model(ids, labels=ids).loss < first
    return model.eval(), before, logits_of(model, ids)


@CASES
def test_all_linear_adapts_every_layer_and_not_the_head(case, trained):
    model, _, _ = trained
    adapted = {name.split(".lora_A")[0].rsplit(".", 1)[-1] for name, _ in model.named_modules() if ".lora_A" in name}
    assert adapted == LAYERS
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable and all(".lora_" in name for name in trainable)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.requires_grad)


@CASES
def test_an_adapter_reloads_onto_its_base(case, trained, ids, tmp_path):
    model, before, after = trained
    assert (after - before).abs().max() > 1e-2
    model.save_pretrained(tmp_path / "adapter")
    fields = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert fields["task_type"] == "CAUSAL_LM"
    assert "auto_mapping" not in fields or fields["auto_mapping"] is None, "an import path of ours in the adapter"
    base = case.model()
    assert torch.equal(logits_of(base, ids), before)
    assert torch.equal(logits_of(PeftModel.from_pretrained(base, tmp_path / "adapter"), ids), after)
    base = case.model()
    base.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits_of(base, ids), after)


@CASES
def test_a_merged_model_is_a_model_like_any_other(case, trained, ids, tmp_path, read_weights):
    model, _, after = trained
    merged = model.merge_and_unload()
    torch.testing.assert_close(logits_of(merged, ids), after, atol=1e-4, rtol=1e-4)
    merged.save_pretrained(tmp_path / "merged")
    case.model().save_pretrained(tmp_path / "plain")
    plain = read_weights(tmp_path / "plain")
    assert {name: w.shape for name, w in read_weights(tmp_path / "merged").items()} == {
        name: w.shape for name, w in plain.items()
    }
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.equal(logits_of(loaded, ids), logits_of(merged, ids))


@pytest.mark.parametrize("case", ["llada", "dream"], indirect=True)
def test_an_adapter_finds_its_base_by_itself(case, ids, tmp_path):
    case.model().save_pretrained(tmp_path / "base")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    config = LoraConfig(target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(base, config).eval()
    model.save_pretrained(tmp_path / "adapter")
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.equal(logits_of(loaded, ids), logits_of(model, ids))


@pytest.mark.parametrize("case", ["llada", "dream"], indirect=True)
def test_an_adapted_model_generates(case, trained):
    model, _, _ = trained
    prompt = torch.tensor([[5, 6, 7]])
    wrapped = model.generate(input_ids=prompt, max_new_tokens=6, eos_token_id=None)
    assert torch.equal(wrapped, model.merge_and_unload().generate(prompt, max_new_tokens=6, eos_token_id=None))


def write_original_adapter(case, folder: Path, layers: list[str], ids, method: str = "lora") -> torch.Tensor:
    """Save an adapter as the original code would: its names in weights and `target_modules`. Returns its logits."""
    names = {"target_modules": [name.split(".")[1] for name in layers], "task_type": "CAUSAL_LM"}
    config = {
        "lora": lambda: LoraConfig(r=4, init_lora_weights=False, **names),
        "loha": lambda: LoHaConfig(r=4, init_weights=False, **names),
        "ia3": lambda: IA3Config(feedforward_modules=[], init_ia3_weights=False, **names),
    }[method]()
    torch.manual_seed(0)
    model = get_peft_model(case.model(), config).eval()
    model.save_pretrained(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    for ours in layers:
        weights = {name.replace(f".{ours}.", f".{ORIGINAL[ours]}."): weight for name, weight in weights.items()}
    weights = {
        name.replace(".model.layers.", ".model.transformer.blocks."): weight for name, weight in weights.items()
    }
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    fields = json.loads(path.read_text()) | {"target_modules": [ORIGINAL[name] for name in layers]}
    path.write_text(json.dumps(fields))
    return logits_of(model, ids)


@pytest.mark.parametrize("case", ["llada"], indirect=True)
class TestAdaptersOfTheOriginalCode:
    def test_names_that_both_share_load_as_they_are(self, case, ids, tmp_path):
        expected = write_original_adapter(case, tmp_path, ["self_attn.q_proj"], ids)
        loaded = PeftModel.from_pretrained(case.model(), tmp_path)
        assert torch.equal(logits_of(loaded, ids), expected)

    @pytest.mark.parametrize("layers", [["mlp.gate_proj", "self_attn.o_proj"], ["self_attn.q_proj", *ORIGINAL]])
    def test_other_names_are_refused_and_load_when_translated(self, case, ids, tmp_path, layers):
        """peft takes the layers it finds and drops the weights of the rest: the logits were off by 3."""
        layers = list(dict.fromkeys(layers))
        expected = write_original_adapter(case, tmp_path, layers, ids)
        some_are_shared = "self_attn.q_proj" in layers
        message = (
            "'down_proj', 'gate_proj', 'o_proj'.*target_modules" if some_are_shared else "Target modules .*ff_proj"
        )
        with pytest.raises(ValueError, match=message):
            PeftModel.from_pretrained(case.model(), tmp_path)
        config = PeftConfig.from_pretrained(tmp_path)
        config.target_modules = [name.split(".")[1] for name in layers]
        loaded = PeftModel.from_pretrained(case.model(), tmp_path, config=config)
        assert torch.equal(logits_of(loaded, ids), expected)

    @pytest.mark.parametrize("method", ["lora", "loha", "ia3"])
    @pytest.mark.parametrize("road", ["PeftModel", "load_adapter", "Auto", "AutoPeft"])
    def test_by_every_road_all_of_an_adapter_arrives_or_none(self, case, ids, tmp_path, method, road):
        """`load_adapter`, and the Auto classes through it, kept `q_proj` alone; peft lost IA3 and LoHa altogether."""
        case.model().save_pretrained(tmp_path / "base")

        def load(folder: Path):
            config = json.loads((folder / "adapter_config.json").read_text())
            config["base_model_name_or_path"] = str(tmp_path / "base")
            (folder / "adapter_config.json").write_text(json.dumps(config))
            base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
            if road == "PeftModel":
                return PeftModel.from_pretrained(base, folder)
            if road == "load_adapter":
                base.load_adapter(str(folder))
                return base
            return (AutoModelForCausalLM if road == "Auto" else AutoPeftModelForCausalLM).from_pretrained(folder)

        layers = ["self_attn.q_proj", "mlp.gate_proj", "self_attn.o_proj"]
        expected = write_original_adapter(case, tmp_path / "shared", layers[:1], ids, method)
        assert torch.equal(logits_of(load(tmp_path / "shared").eval(), ids), expected)
        write_original_adapter(case, tmp_path / "partly", layers, ids, method)
        with pytest.raises(ValueError, match=r"The adapter has weights for .*gate_proj.*target_modules"):
            load(tmp_path / "partly")

    def test_a_refused_adapter_leaves_the_model_as_it_was(self, case, ids, tmp_path):
        write_original_adapter(case, tmp_path / "first", ["self_attn.q_proj"], ids)
        write_original_adapter(case, tmp_path / "partly", ["self_attn.q_proj", "mlp.gate_proj"], ids)
        model = case.model()
        before = logits_of(model, ids)
        with pytest.raises(ValueError, match="gate_proj"):
            model.load_adapter(str(tmp_path / "partly"))
        assert torch.equal(logits_of(model, ids), before)
        model = case.model()
        model.load_adapter(str(tmp_path / "first"))
        before = logits_of(model, ids)
        with pytest.raises(ValueError, match="gate_proj"):
            model.load_adapter(str(tmp_path / "partly"), adapter_name="second")
        assert torch.equal(logits_of(model, ids), before)
