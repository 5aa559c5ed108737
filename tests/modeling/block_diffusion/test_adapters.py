"""Adapters of families whose checkpoints hold other matrices than the model: fused projections, experts one by one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

IDS = torch.tensor([[5, 6, 51, 7, 51, 51, 9, 51, 3]])


def logits_of(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS).logits


@pytest.mark.parametrize("name", ["sdar", "sdar-moe", "fast-dllm", "llada2", "llada-moe"])
def test_an_adapter_reloads_and_a_merged_model_saves_original_names(build, read_weights, tmp_path, name):
    torch.manual_seed(0)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(build(name), config).eval()
    expected = logits_of(model)
    assert (expected - logits_of(build(name))).abs().max() > 1e-2
    model.save_pretrained(tmp_path / "adapter")
    assert torch.equal(logits_of(PeftModel.from_pretrained(build(name), tmp_path / "adapter")), expected)
    base = build(name)
    base.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(logits_of(base), expected)
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits_of(loaded), expected, atol=5e-4, rtol=1e-4)
    build(name).save_pretrained(tmp_path / "base")
    assert read_weights(tmp_path / "merged").keys() == read_weights(tmp_path / "base").keys()


@pytest.mark.parametrize("targets", [["query_key_value", "dense"], ["q_proj", "k_proj", "v_proj", "o_proj"]])
@pytest.mark.parametrize("how", ["peft", "load_adapter"])
def test_an_adapter_of_fused_projections_is_refused(build, tmp_path: Path, targets: list[str], how: str) -> None:
    """Made for the original code of LLaDA2; here are three layers in the place of one. None of it is dropped."""
    fields = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 2, "target_modules": targets}
    (tmp_path / "adapter_config.json").write_text(json.dumps(fields))
    weights = {}
    for i in range(2):
        name = f"base_model.model.model.layers.{i}.attention"
        weights |= {f"{name}.query_key_value.lora_A.weight": torch.ones(2, 32)}
        weights |= {f"{name}.query_key_value.lora_B.weight": torch.ones(128, 2)}
        weights |= {f"{name}.dense.lora_A.weight": torch.ones(2, 64), f"{name}.dense.lora_B.weight": torch.ones(32, 2)}
    save_file(weights, tmp_path / "adapter_model.safetensors")
    model = build("llada2")
    with pytest.raises(ValueError, match="query_key_value"):
        if how == "peft":
            PeftModel.from_pretrained(model, tmp_path)
        else:
            model.load_adapter(str(tmp_path))
