"""A base that was converted in this process, or read from GGUF, is found, trained and saved like any other."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from hf_latent import LatentTokenForCausalLM, LatentTokenForMaskedDiffusion
from hf_latent.checkpoints.loading import load
from hf_latent.tasks import sudoku_tokenizer
from hf_latent.training import (
    LatentTokenTrainer,
    LatentTokenTrainingConfig,
    MaskedDiffusionConfig,
    MaskedDiffusionTrainer,
)
from hf_latent.training.run import make_trainer, parse

ROWS = Dataset.from_list([{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}] * 8)
IDS = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
KINDS = [LatentTokenForMaskedDiffusion, LatentTokenForCausalLM]
LORA = {"r": 2, "target_modules": "all-linear"}


def backbone() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(sudoku_tokenizer(4)), initializer_range=0.3, **sizes))


def train(model: Any, tokenizer: Any, folder: Path, **arguments: Any) -> Any:
    is_causal = (
        isinstance(getattr(model, "base_model", model), LatentTokenForCausalLM) or "Causal" in type(model).__name__
    )
    trainer_class, config = MaskedDiffusionTrainer, MaskedDiffusionConfig
    if is_causal and model.config.is_left_to_right:
        trainer_class, config = LatentTokenTrainer, LatentTokenTrainingConfig
    args = config(
        str(folder), max_steps=2, learning_rate=0.1, report_to="none", disable_tqdm=True, save_strategy="no",
        bf16=False, use_cpu=True,
    )  # fmt: skip
    trainer = trainer_class(model, args, train_dataset=ROWS, processing_class=tokenizer, **arguments)
    trainer.train()
    trainer.save_model()
    return trainer


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_a_converted_model_finds_its_base(kind: Any, wrap: bool, tmp_path: Path) -> None:
    """Its base was "None", or the autoregressive model, on which it loads in silence and says something else."""
    tokenizer = sudoku_tokenizer(4)
    model = kind.from_backbone(backbone(), tokenizer)
    config = peft.LoraConfig(**LORA, modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    arguments: dict[str, Any] = {"peft_config": config}
    if wrap:
        model, arguments = peft.get_peft_model(model, config), {}
    trainer = train(model, tokenizer, tmp_path / "run", **arguments)
    with torch.no_grad():
        expected = trainer.model.eval()(IDS).logits
        loaded = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run").eval()
        assert torch.equal(loaded(IDS).logits, expected)
        for arguments in (
            {"name": str(tmp_path / "run")},
            {"name": str(tmp_path / "run" / "base"), "adapter": str(tmp_path / "run")},
        ):
            merged, _ = load(**arguments, autoregressive=True)
            torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-4, rtol=1e-4)
        fresh = kind.from_backbone(backbone(), sudoku_tokenizer(4))
        assert torch.equal(
            AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "base")(IDS).logits, fresh(IDS).logits
        )
    fields = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
    assert fields["base_model_name_or_path"] == str((tmp_path / "run" / "base").resolve())
    trainer.create_model_card()
    assert "None" not in (tmp_path / "run" / "README.md").read_text()
    bundle = [sys.executable, "-m", "hf_latent.cli", "bundle", str(tmp_path / "run"), str(tmp_path / "bundle")]
    if kind is KINDS[0] and not wrap:
        subprocess.run(bundle, check=True, capture_output=True)
        with torch.no_grad():
            found = AutoModelForCausalLM.from_pretrained(tmp_path / "bundle")(IDS).logits
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_moved_run_takes_its_base_along(tmp_path: Path) -> None:
    tokenizer = sudoku_tokenizer(4)
    model = LatentTokenForMaskedDiffusion.from_backbone(backbone(), tokenizer)
    trainer = train(model, tokenizer, tmp_path / "run", peft_config=peft.LoraConfig(**LORA))
    (tmp_path / "run").rename(tmp_path / "moved")
    merged, _ = load(str(tmp_path / "moved"))
    with torch.no_grad():
        torch.testing.assert_close(merged(IDS).logits, trainer.model.eval()(IDS).logits, atol=1e-4, rtol=1e-4)


def test_a_folder_without_a_tokenizer_is_told_what_is_missing(tmp_path: Path) -> None:
    backbone().save_pretrained(tmp_path)
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"no tokenizer can be read from .*pass `tokenizer` or `mask_token_id`"):
            kind.from_backbone(tmp_path)
        assert kind.from_backbone(tmp_path, mask_token_id=3).config.mask_token_id == 3


def write_gguf(path: Path, vocab: int = 64, width: int = 32, layers: int = 2, heads: int = 4, inner: int = 64) -> None:
    """A Llama of random weights as llama.cpp would write it, half of them in 8 bits."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> np.ndarray:
        return (torch.randn(*shape, generator=generator) * 0.2).numpy()

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(width // heads)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<unk>", "<s>", "</s>", *(chr(97 + i) for i in range(26)), "ab"]
    writer.add_token_list([*tokens, *(f"x{i}" for i in range(vocab - len(tokens)))])
    writer.add_token_types([3] * 3 + [1] * (vocab - 3))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    kind = gguf.GGMLQuantizationType.Q8_0
    shapes = {"attn_q": (width, width), "attn_k": (width, width), "attn_v": (width, width)}
    shapes |= {"attn_output": (width, width), "ffn_gate": (inner, width), "ffn_up": (inner, width)}
    shapes |= {"ffn_down": (width, inner)}
    for name in ("token_embd", "output"):
        writer.add_tensor(f"{name}.weight", random(vocab, width))
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(layers):
        for name, shape in shapes.items():
            writer.add_tensor(f"blk.{layer}.{name}.weight", gguf.quantize(random(*shape), kind), raw_dtype=kind)
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(width, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("as_object", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_from_gguf_is_a_model_like_any_other(kind: Any, as_object: bool, lora: bool, tmp_path: Path) -> None:
    """The trainer called its plain weights "purely quantized"; casts and saves refused them, too."""
    write_gguf(tmp_path / "tiny.gguf")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tiny.gguf")

    def make() -> Any:
        if as_object:
            return kind.from_backbone(AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf"), tokenizer)
        return kind.from_backbone(tmp_path, tokenizer, gguf_file="tiny.gguf")

    model = make()
    assert not getattr(model, "is_quantized", False)
    assert model.to(torch.bfloat16).float().dtype == torch.float32
    model = make()  # the angles of rotary positions lose their last digits in bfloat16
    trainer = train(model, tokenizer, tmp_path / "run", peft_config=peft.LoraConfig(**LORA) if lora else None)
    auto = peft.AutoPeftModelForCausalLM if lora else AutoModelForCausalLM
    with torch.no_grad():
        loaded = auto.from_pretrained(tmp_path / "run").eval()
        assert torch.equal(loaded(IDS).logits, trainer.model.eval()(IDS).logits)


def train_from(backbone: Path, folder: Path, *more: str) -> Any:
    """`hf-latent train` as far as its trainer."""
    (folder / "rows.jsonl").write_text(json.dumps({"prompt": "1", "completion": "2"}) + "\n")
    words = ["--train_file", str(folder / "rows.jsonl"), "--output_dir", str(folder / "run"), "--use_cpu", "true"]
    return make_trainer(*parse([*words, "--bf16", "false", "--backbone", str(backbone), *more]))[0]


def test_a_run_from_gguf_takes_the_tokenizer_out_of_the_file(tmp_path: Path) -> None:
    """By the file itself, or by its folder and `gguf_file`; a folder of several is asked which."""
    (tmp_path / "models").mkdir()
    write_gguf(tmp_path / "models" / "tiny.gguf")
    named = ["--model_init_kwargs", json.dumps({"gguf_file": "tiny.gguf"})]
    for backbone, more in ((tmp_path / "models" / "tiny.gguf", []), (tmp_path / "models", named)):
        trainer = train_from(backbone, tmp_path, *more)
        mask = trainer.processing_class.mask_token_id
        assert mask == trainer.model.config.mask_token_id and len(trainer.processing_class) == mask + 1
    with pytest.raises(
        ValueError, match=r"`backbone` must be one of the GGUF files in .*\(tiny.gguf\), got the folder"
    ):
        train_from(tmp_path / "models", tmp_path)


def test_a_backbone_without_tokenizer_says_that_one_is_needed(tmp_path: Path) -> None:
    backbone().save_pretrained(tmp_path / "bare")
    with pytest.raises(
        ValueError, match="`tokenizer_name` is needed with this `backbone`, got None: no tokenizer can"
    ):
        train_from(tmp_path / "bare", tmp_path)
    sudoku_tokenizer(4).save_pretrained(tmp_path / "tokenizer")
    trainer = train_from(tmp_path / "bare", tmp_path, "--tokenizer_name", str(tmp_path / "tokenizer"))
    assert trainer.model.config.mask_token_id == trainer.processing_class.mask_token_id
