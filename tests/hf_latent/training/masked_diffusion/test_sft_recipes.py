"""The recipes for published models, run for two steps on tiny checkpoints of the same layout."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from hf_latent import (
    DreamConfig,
    DreamForMaskedDiffusion,
    LatentTokenForMaskedDiffusion,
    LladaConfig,
    LladaForMaskedDiffusion,
    SdarConfig,
    SdarForMaskedDiffusion,
)
from hf_latent.training.run import main, parse

RECIPES = Path(__file__).resolve().parents[4] / "recipes"
VOCABULARY, EOS, MASK = 512, 510, 511
CHAT = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}<unused510>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
SHORT = (
    "--max_steps 2 --per_device_train_batch_size 2 --gradient_accumulation_steps 1 --eval_steps 1 --logging_steps 1 "
    "--dtype float32 --save_steps 2 --use_cpu true --disable_tqdm true --warmup_steps 0"
)
# Recipe to the fixture that it is tried on.
FIXTURES = {
    "masked_diffusion/llada_gsm8k_lora.yaml": "llada-tiny",
    "masked_diffusion/dream_gsm8k_lora.yaml": "dream-tiny",
}


def byte_tokenizer(end: int, **special: str) -> PreTrainedTokenizerFast:
    """A token a byte, then unused tokens up to the vocabulary's size."""
    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    unused = {f"<unused{i}>": i for i in range(256, VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocab=letters | unused, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ends = f"<unused{end}>"
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=ends, pad_token=ends, **special)
    fast.chat_template = CHAT.replace("<unused510>", ends)
    return fast


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Where the checkpoint is to lie that a recipe starts from; its weights are the same in every run."""
    torch.manual_seed(0)
    return tmp_path / "base"


@pytest.fixture
def questions(tmp_path: Path) -> list[str]:
    rows = [{"question": f"What is {i} + {i}?", "answer": f"It is {2 * i}.\n#### {2 * i}"} for i in range(12)]
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--train_file", str(path), "--eval_file", str(path)]


def run(recipe: str, folder: Path, *arguments: str) -> dict[str, Any]:
    values = ["--config", str(RECIPES / recipe), *SHORT.split(), "--output_dir", str(folder), *arguments]
    results = main(*parse(values))
    assert results["steps"] == 2 and math.isfinite(results["held_out"]["eval_nll"])
    return results


def random_base(recipe: str, folder: Path) -> None:
    special = {"vocab_size": VOCABULARY, "mask_token_id": MASK, "eos_token_id": EOS, "pad_token_id": EOS}
    if recipe.startswith("llada"):
        LladaForMaskedDiffusion(LladaConfig(**special, **SIZES)).save_pretrained(folder)
    else:
        config = DreamConfig(**special, **SIZES, num_key_value_heads=2)
        DreamForMaskedDiffusion(config).save_pretrained(folder)


@pytest.mark.parametrize("source", ["random weights", "fixture"])
@pytest.mark.parametrize("recipe", list(FIXTURES))
def test_one_recipe_trains_an_adapter_on_either_layout(
    recipe: str, source: str, base: Path, tmp_path: Path, questions: list[str], request: pytest.FixtureRequest
) -> None:
    if source == "fixture":
        shutil.copytree(request.getfixturevalue("fixtures_dir") / FIXTURES[recipe], base)
    else:
        random_base(recipe, base)
    fields = json.loads((base / "config.json").read_text())
    byte_tokenizer(fields["eos_token_id"], mask_token=f"<unused{MASK}>").save_pretrained(base)
    run(recipe, tmp_path / "out", "--model_name_or_path", str(base), *questions)
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.tensor([[5, 6, MASK, 7, MASK]])
    before = plain(ids).logits
    adapted = PeftModel.from_pretrained(plain, tmp_path / "out").eval()
    assert (adapted(ids).logits - before).abs().max() > 1e-6
    assert adapted.generate(ids[:, :2], max_new_tokens=4).shape == (1, 6)


@pytest.mark.parametrize("recipe", ["masked_diffusion/smollm2_gsm8k.yaml", "masked_diffusion/smollm2_gsm8k_lora.yaml"])
def test_an_autoregressive_model_becomes_a_masked_diffusion_model(
    recipe: str, base: Path, tmp_path: Path, questions: list[str]
) -> None:
    """All weights: a checkpoint of its own. LoRA: an adapter for the backbone, the mask token's row with it."""
    out = tmp_path / "out"
    tied = {"tie_word_embeddings": True, "eos_token_id": EOS, "bos_token_id": None, "pad_token_id": EOS}
    LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **SIZES, **tied)).save_pretrained(base)
    byte_tokenizer(EOS).save_pretrained(base)
    run(recipe, out, "--backbone", str(base), "--eval_on_start", "false", *questions)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out)
    assert tokenizer.mask_token == "<|mask|>" and tokenizer.mask_token_id == VOCABULARY
    if recipe.endswith("lora.yaml"):
        plain = LatentTokenForMaskedDiffusion.from_backbone(base, byte_tokenizer(EOS))
        model = PeftModel.from_pretrained(plain, out).eval()
        rows = model.merge_and_unload().get_input_embeddings().weight
        original = LlamaForCausalLM.from_pretrained(base).get_input_embeddings().weight
        assert torch.equal(rows[:VOCABULARY], original) and not torch.equal(rows[VOCABULARY], original.mean(0))
    else:
        model = AutoModelForCausalLM.from_pretrained(out)
        assert type(model) is LatentTokenForMaskedDiffusion and model.config.shift_logits
        assert model.lm_head.weight is model.get_input_embeddings().weight
        assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=4).shape == (1, 6)


@pytest.mark.parametrize("recipe", ["sdar_gsm8k_lora", "qwen2_gsm8k"])
def test_block_diffusion_recipes_train_a_checkpoint_of_the_family_or_a_decoder(
    recipe: str, base: Path, tmp_path: Path, questions: list[str]
) -> None:
    """LoRA on a model whose attention is block-causal already, and an autoregressive one that becomes such."""
    out = tmp_path / "out"
    special = {"vocab_size": VOCABULARY, "eos_token_id": EOS, "pad_token_id": EOS, "num_key_value_heads": 2}
    if recipe.startswith("sdar"):
        config = SdarConfig(mask_token_id=MASK, head_dim=8, **special, **SIZES)
        SdarForMaskedDiffusion(config).save_pretrained(base)
        byte_tokenizer(EOS, mask_token=f"<unused{MASK}>").save_pretrained(base)
        run(f"block_diffusion/{recipe}.yaml", out, "--model_name_or_path", str(base), *questions)
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out).get_base_model()
        assert model.config.block_size == 4
    else:
        Qwen2ForCausalLM(Qwen2Config(**special, **SIZES)).save_pretrained(base)
        byte_tokenizer(EOS).save_pretrained(base)
        run(f"block_diffusion/{recipe}.yaml", out, "--backbone", str(base), *questions)
        model = AutoModelForCausalLM.from_pretrained(out)
        assert (model.config.attention, model.config.block_size) == ("block_causal", 32)
    assert model.generate(torch.tensor([[5, 6]]), max_new_tokens=4).shape == (1, 6)


def test_columns_that_are_not_there_are_named(base: Path, tmp_path: Path, questions: list[str]) -> None:
    random_base("llada", base)
    byte_tokenizer(EOS, mask_token=f"<unused{MASK}>").save_pretrained(base)
    arguments = ["--model_name_or_path", str(base), *questions, "--completion_column", "solution"]
    with pytest.raises(ValueError, match=r"no column \['solution'\]; it has \['question', 'answer'\]"):
        run("masked_diffusion/llada_gsm8k_lora.yaml", tmp_path / "out", *arguments)


@pytest.mark.parametrize("path", sorted((RECIPES / "accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_its_configurations(path: Path) -> None:
    config = load_config_from_file(str(path))
    expected = {
        "one_process": ("NO", 1),
        "cpu": ("MULTI_GPU", 2),
        "ddp": ("MULTI_GPU", 8),
        "fsdp2": ("FSDP", 8),
        "deepspeed_zero3": ("DEEPSPEED", 8),
    }
    kind = str(getattr(config.distributed_type, "value", config.distributed_type))
    assert (kind, config.num_processes) == expected[path.stem]
