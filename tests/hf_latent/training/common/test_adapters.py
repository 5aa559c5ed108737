"""LoRA: the base stays as it was, the adapter loads in plain peft, and what peft ignores in silence raises."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from hf_latent import LatentTokenForMaskedDiffusion
from hf_latent.tasks import sudoku_tokenizer


def lora(**overrides: Any) -> LoraConfig:
    return LoraConfig(**{"r": 2, "target_modules": "all-linear", "init_lora_weights": False, **overrides})


def test_training_an_adapter_leaves_every_bit_of_the_base(make_trainer: Any, make_model: Any) -> None:
    before = {name: value.clone() for name, value in make_model().state_dict().items()}
    trainer = make_trainer(peft_config=lora(), max_steps=2, learning_rate=0.1)
    adapter = {name: p.detach().clone() for name, p in trainer.model.named_parameters() if p.requires_grad}
    trainer.train()
    assert all("lora" in name for name in adapter)
    parameters = dict(trainer.model.named_parameters())
    assert all(not torch.equal(parameters[name], value) for name, value in adapter.items())
    base = trainer.model.unload().state_dict()
    assert before.keys() == base.keys()
    assert all(torch.equal(value, base[name]) for name, value in before.items())


def test_a_saved_adapter_loads_in_plain_peft_and_without_our_import_path(
    make_trainer: Any, make_model: Any, tmp_path: Path
) -> None:
    """Without a task type peft would write `hf_latent...` into the adapter, which then loads only where that is."""
    config = lora(modules_to_save=["lm_head"])
    trainer = make_trainer(peft_config=config, max_steps=1, learning_rate=0.1)
    trainer.train()
    trainer.save_model()
    assert config.task_type is None  # the caller's object is his own
    written = (tmp_path / "adapter_config.json").read_text()
    assert "hf_latent" not in written
    assert json.loads(written)["task_type"] == "CAUSAL_LM"
    ids = torch.arange(3, 12)[None]
    loaded = PeftModel.from_pretrained(make_model(), str(tmp_path)).eval()
    trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded(input_ids=ids).logits, trainer.model(input_ids=ids).logits)
        assert not torch.equal(loaded(input_ids=ids).logits, make_model()(input_ids=ids).logits)


def test_an_adapter_resumes_with_the_same_losses(make_trainer: Any, tmp_path: Path) -> None:
    arguments = {"max_steps": 4, "logging_steps": 1, "learning_rate": 0.05, "save_strategy": "steps", "save_steps": 2}
    whole = make_trainer(peft_config=lora(), **arguments)
    whole.train()
    resumed = make_trainer(peft_config=lora(), **arguments)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    losses = [[e["loss"] for e in t.state.log_history if "loss" in e] for t in (whole, resumed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


def test_modules_to_save_that_do_not_exist_raise(make_trainer: Any) -> None:
    """`wte` is the original LLaDA name; peft ignores what it does not find."""
    with pytest.raises(ValueError, match=r"`modules_to_save` has 'lm_haed', .*close: .*'lm_head'"):
        make_trainer(peft_config=lora(modules_to_save=["lm_haed"]))
    with pytest.raises(ValueError, match="`modules_to_save` has 'wte'"):
        make_trainer(peft_config=lora(modules_to_save=["lm_head", "wte"]))


def test_an_adapter_evaluates_like_its_merged_model(make_trainer: Any, ragged_dataset: Dataset) -> None:
    trainer = make_trainer(peft_config=lora(), eval_dataset=ragged_dataset)
    loss = trainer.evaluate()["eval_loss"]
    merged = make_trainer(trainer.model.merge_and_unload(), eval_dataset=ragged_dataset)
    assert merged.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-4)


def test_a_model_that_is_an_adapter_already_is_trained_as_it_is(make_trainer: Any, make_model: Any) -> None:
    torch.manual_seed(0)
    wrapped = get_peft_model(make_model(), lora(task_type="CAUSAL_LM"))
    before = {name: p.detach().clone() for name, p in wrapped.named_parameters()}
    trainer = make_trainer(wrapped, max_steps=1, learning_rate=0.1)
    trainer.train()
    moved = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if "lora" in name}


def test_a_new_mask_token_is_trained_with_the_adapter(tmp_path: Any, make_trainer: Any) -> None:
    """Its embedding is the mean of all others: LoRA on the layers alone would leave it there for ever."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    tokenizer = sudoku_tokenizer(4)

    def build() -> LatentTokenForMaskedDiffusion:
        torch.manual_seed(0)
        llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **sizes))
        model = LatentTokenForMaskedDiffusion.from_backbone(llama, tokenizer)
        model.mask_token_is_new = True  # as if the tokenizer had had none
        return model

    trainer = make_trainer(
        model=build(),
        peft_config=LoraConfig(r=2, target_modules="all-linear"),
        max_steps=3,
        learning_rate=0.1,
        prompt_dropout=0.5,
    )
    trainer.train()
    mask = tokenizer.mask_token_id
    assert trainer.model.peft_config["default"].trainable_token_indices == [mask]
    trainer.save_model(str(tmp_path / "adapter"))
    ids = torch.tensor([[5, mask, 7, mask]])
    model = trainer.model.eval()
    again = PeftModel.from_pretrained(build(), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.equal(again(ids).logits, model(ids).logits)
        merged = again.merge_and_unload()
        rows = merged.get_input_embeddings().weight, build().get_input_embeddings().weight
        torch.testing.assert_close(merged(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-4)
    changed = (rows[0] - rows[1]).abs().amax(-1) > 0
    assert changed.nonzero().flatten().tolist() == [mask]


def test_targets_that_match_nothing_are_refused(make_trainer: Any) -> None:
    with pytest.raises(ValueError, match="`target_modules` has 'qkv_projection', which no module"):
        make_trainer(peft_config=LoraConfig(target_modules=["qkv_projection"]))
