"""One tiny repository of every kind that is shared: all families of models, and what is no model."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BartForConditionalGeneration, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from hf_latent import (
    DreamConfig,
    DreamForMaskedDiffusion,
    LatentDiffusionForConditionalGeneration,
    LatentTokenForCausalLM,
    LatentTokenForMaskedDiffusion,
    LladaConfig,
    LladaForMaskedDiffusion,
)
from hf_latent.hub import bundle, bundle_decoder
from hf_latent.tasks import SudokuTask, sudoku_tokenizer
from hf_latent.training import MaskedDiffusionConfig, MaskedDiffusionTrainer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
PICTURE = b"\x89PNG\r\n\x1a\n\0\0"  # as much of one as the Hub looks at
FOLDERS: dict[str, Callable[[Path], Path]] = {}


def llada(seed: int, tokenizer: Any) -> PreTrainedModel:
    torch.manual_seed(seed)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("mask", "pad", "eos")}
    return LladaForMaskedDiffusion(LladaConfig(vocab_size=len(tokenizer), init_std=0.5, **SIZES, **special)).eval()


def dream(tokenizer: Any) -> PreTrainedModel:
    torch.manual_seed(1)
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("mask", "pad", "eos")}
    config = DreamConfig(vocab_size=len(tokenizer), num_key_value_heads=2, initializer_range=0.5, **SIZES, **special)
    return DreamForMaskedDiffusion(config).eval()


def latent_token(tokenizer: Any, folder: Path) -> PreTrainedModel:
    """Writes an autoregressive backbone to `folder` first."""
    torch.manual_seed(2)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.5, **SIZES)).save_pretrained(folder)
    return LatentTokenForMaskedDiffusion.from_backbone(str(folder), tokenizer).eval()


def latent_token_causal(tokenizer: Any, folder: Path) -> PreTrainedModel:
    """From the backbone that `latent_token` has written to `folder`."""
    return LatentTokenForCausalLM.from_backbone(str(folder), tokenizer, num_latent_tokens=2).eval()


def latent_diffusion(vocab_size: int) -> PreTrainedModel:
    torch.manual_seed(3)
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_position_embeddings": 32}
    special = {"vocab_size": vocab_size, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    backbone = BartForConditionalGeneration(BartConfig(**sizes, **special))
    sizes = {"denoiser_hidden_size": 16, "denoiser_num_layers": 2, "denoiser_num_heads": 2, "latent_length": 4}
    sizes |= {"denoiser_intermediate_size": 24, "num_train_timesteps": 12, "latent_dim": 6}
    model = LatentDiffusionForConditionalGeneration.from_encoder_decoder(backbone, **sizes)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # those that start at zero too
            if "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape) * (0.02 if "variance_projection" in name else 0.3))
    return model.eval()


def make_trainer(tokenizer: Any, folder: Path, **arguments: Any) -> MaskedDiffusionTrainer:
    """Of two steps."""
    defaults = {"max_steps": 2, "save_steps": 1, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    defaults |= {"report_to": "none", "use_cpu": True, "disable_tqdm": True}
    return MaskedDiffusionTrainer(
        llada(4, tokenizer),
        MaskedDiffusionConfig(str(folder), **(defaults | arguments)),
        train_dataset=SudokuTask(4).dataset(8, 0, num_givens=(8, 10)),
        processing_class=tokenizer,
    )


def adapter(tokenizer: Any) -> Any:
    """On `llada(10, tokenizer)`; of random weights, so that it does something."""
    torch.manual_seed(5)
    lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    return get_peft_model(llada(10, tokenizer), lora).eval()


def traces(start: int = 0) -> Dataset:
    return Dataset.from_list([{"question": f"{n}+1", "trace": [n, n + 1], "score": n / 2} for n in range(start, 5)])


def folder_of(kind: str) -> Callable[[Callable[[Path], Path]], Callable[[Path], Path]]:
    def register(function: Callable[[Path], Path]) -> Callable[[Path], Path]:
        FOLDERS[kind] = function
        return function

    return register


@folder_of("llada")
def _llada(root: Path) -> Path:
    return bundle(llada(0, sudoku_tokenizer(4)), sudoku_tokenizer(4), root / "mine", verify=False)


@folder_of("dream")
def _dream(root: Path) -> Path:
    """In several files."""
    tokenizer = sudoku_tokenizer(4)
    folder = bundle(dream(tokenizer), tokenizer, root / "mine", max_shard_size="20KB", verify=False)
    assert len(list(folder.glob("*.safetensors"))) > 1
    return folder


@folder_of("latent-token")
def _latent_token(root: Path) -> Path:
    tokenizer = sudoku_tokenizer(4)
    return bundle(latent_token(tokenizer, root / "llama"), tokenizer, root / "mine", verify=False)


@folder_of("latent-token-causal")
def _latent_token_causal(root: Path) -> Path:
    tokenizer = sudoku_tokenizer(4)
    latent_token(tokenizer, root / "llama")
    return bundle(latent_token_causal(tokenizer, root / "llama"), tokenizer, root / "mine", verify=False)


@folder_of("latent-diffusion")
def _latent_diffusion(root: Path) -> Path:
    return bundle(latent_diffusion(15), None, root / "mine", verify=False)


@folder_of("trained")
def _trained(root: Path) -> Path:
    """With a training curve."""
    trainer = make_trainer(sudoku_tokenizer(4), root / "run")
    trainer.train()
    folder = bundle(trainer.model, sudoku_tokenizer(4), root / "mine", verify=False)
    (folder / "training_curve.png").write_bytes(PICTURE)
    return folder


@folder_of("adapter")
def _adapter(root: Path) -> Path:
    model = adapter(sudoku_tokenizer(4))
    model.peft_config["default"].base_model_name_or_path = "user/llada"
    model.save_pretrained(root / "mine")
    sudoku_tokenizer(4).save_pretrained(root / "mine")
    return root / "mine"


@folder_of("decoder")
def _decoder(root: Path) -> Path:
    """With a picture, which is what a decoder has of large files."""
    folder = bundle_decoder("med", root / "mine", verify=False, entropy_threshold=2.0)
    (folder / "accuracy_over_forwards.png").write_bytes(PICTURE)
    return folder


@folder_of("traces")
def _traces(root: Path) -> Path:
    """Of two splits, of which the second version has one."""
    from hf_latent.hub.transfer.dataset import write_dataset

    return write_dataset(DatasetDict({"train": traces(), "test": traces(3)}), root / "mine", "mine")


@folder_of("saved-traces")
def _saved_traces(root: Path) -> Path:
    """As `save_to_disk` writes it: what is pushed is another folder, made from it."""
    traces().save_to_disk(root / "mine")
    return root / "mine"


def change(kind: str, folder: Path, changed: Path) -> Path:
    """A copy with other large files and another card, as after some more work."""
    if kind == "saved-traces":
        traces(1).save_to_disk(changed)
        return changed
    shutil.copytree(folder, changed)
    for path in changed.rglob("*"):
        if path.suffix == ".safetensors":
            save_file({name: weight + 1 for name, weight in load_file(path).items()}, path, {"format": "pt"})
        elif path.suffix == ".png":
            path.write_bytes(PICTURE + b"another")
        elif path.suffix == ".parquet":
            path.unlink()
    if kind == "traces":
        traces(1).to_parquet(changed / "data" / "train-00000-of-00001.parquet")
    card = changed / "README.md"
    card.write_text(card.read_text() + "\nWorked on some more.\n")
    return changed
