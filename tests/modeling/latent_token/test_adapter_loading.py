"""What transformers' own loading of adapters leaves out of one is named, by every model with latent tokens."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from hf_latent import LatentTokenForCausalLM, LatentTokenForMaskedDiffusion

SIZES = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("family", [LatentTokenForCausalLM, LatentTokenForMaskedDiffusion])
def test_dora_loads_with_peft_and_is_refused_where_its_magnitudes_are_left_out(family, tmp_path: Path) -> None:
    """peft's file has a parameter where memory has a module: stock loading drops it, and other text is written."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SIZES, pad_token_id=0, bos_token_id=1, eos_token_id=2))
    family.from_backbone(base, mask_token_id=39).eval().save_pretrained(tmp_path / "base")
    config = LoraConfig(r=2, target_modules=["q_proj", "o_proj"], use_dora=True, task_type="CAUSAL_LM")
    adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), config).eval()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    ids = torch.arange(5, 12)[None]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    before = plain(ids).logits
    with pytest.raises(ValueError, match=r"DoRA.*PeftModel.from_pretrained"):
        plain.load_adapter(str(tmp_path / "adapter"))
    assert torch.equal(plain(ids).logits, before)
    found = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    torch.testing.assert_close(found(ids).logits, adapted(ids).logits)
