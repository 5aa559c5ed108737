"""`--adapter`: what peft loads is merged exactly, with the tokens it was trained with, or refused in one line."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from hf_latent import LladaConfig, LladaForMaskedDiffusion
from hf_latent.checkpoints.loading import load
from hf_latent.data import sample_posterior_traces
from hf_latent.data.template import ReasoningTemplate
from hf_latent.evaluation import evaluate_likelihood
from hf_latent.tasks import sudoku_tokenizer

IDS = torch.arange(3, 12)[None]
TARGETS = ["q_proj", "v_proj"]


@pytest.fixture
def base(tmp_path: Path) -> Any:
    """Saves a base model with its tokenizer, and makes it again."""

    def make(tied: bool = False) -> LladaForMaskedDiffusion:
        tokenizer = sudoku_tokenizer(4)
        special = {name: getattr(tokenizer, name) for name in ("mask_token_id", "pad_token_id", "eos_token_id")}
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        torch.manual_seed(0)
        config = LladaConfig(vocab_size=len(tokenizer), init_std=0.3, weight_tying=tied, **sizes, **special)
        model = LladaForMaskedDiffusion(config).eval()
        model.save_pretrained(tmp_path / "base")
        tokenizer.save_pretrained(tmp_path / "base")
        return LladaForMaskedDiffusion.from_pretrained(tmp_path / "base").eval()

    return make


def save(model: Any, config: Any, folder: Path, **arguments: Any) -> torch.Tensor:
    """Save an adapter whose weights are random; the logits of its model."""
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
        wrapped.save_pretrained(folder, **arguments)
        return wrapped(IDS).logits


@pytest.mark.parametrize("pad", [None, 8])
@pytest.mark.parametrize(
    "fields", [{}, {"modules_to_save": ["embed_tokens", "lm_head"]}, {"trainable_token_indices": [2, 17]}]
)
def test_added_tokens_come_with_the_adapter(
    base: Any, fields: dict[str, Any], pad: int | None, tmp_path: Path
) -> None:
    """peft resizes the base by the tokenizer beside the adapter; the command line raised a size mismatch."""
    model, tokenizer = base(), sudoku_tokenizer(4)
    tokenizer.add_tokens(["<think>", "</think>", "<a>"])
    model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=pad)
    config = peft.LoraConfig(target_modules=TARGETS, task_type="CAUSAL_LM", **fields)
    expected = save(model, config, tmp_path / "adapter", save_embedding_layers=True)
    tokenizer.save_pretrained(tmp_path / "adapter")
    for arguments in (
        {"name": str(tmp_path / "base"), "adapter": str(tmp_path / "adapter")},
        {"name": str(tmp_path / "adapter")},
    ):
        merged, found = load(**arguments)
        torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-4, rtol=1e-4)
        assert len(found) == len(tokenizer)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["embed_tokens", "q_proj"]},
        {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
        {"target_modules": ["lm_head", "q_proj"]},
        {"target_modules": TARGETS, "modules_to_save": ["embed_tokens"]},
        {"target_modules": TARGETS, "trainable_token_indices": [2, 5]},
    ],
)
def test_tied_embeddings_are_merged_once(base: Any, fields: dict[str, Any], tmp_path: Path) -> None:
    """peft merges the change of one into the weight of both, and a change of both twice."""
    config = peft.LoraConfig(task_type="CAUSAL_LM", **fields)
    expected = save(base(tied=True), config, tmp_path / "adapter")
    merged, _ = load(str(tmp_path / "base"), adapter=str(tmp_path / "adapter"))
    torch.testing.assert_close(merged(IDS).logits, expected, atol=1e-3, rtol=1e-3)
    merged.save_pretrained(tmp_path / "merged")
    again = LladaForMaskedDiffusion.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(again(IDS).logits, expected, atol=1e-3, rtol=1e-3)


def test_what_cannot_be_merged_is_refused_by_name(base: Any, tmp_path: Path) -> None:
    save(base(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3), tmp_path / "prompt")
    save(base(), peft.LilyConfig(task_type="CAUSAL_LM", r=2, target_modules=TARGETS), tmp_path / "lily")
    (tmp_path / "empty").mkdir()
    for name, message in {
        "prompt": "is PROMPT_TUNING.* cannot be merged",
        "lily": "is LILY, which peft cannot merge",
        "empty": "has no adapter_config.json",
    }.items():
        with pytest.raises(ValueError, match=message):
            load(str(tmp_path / "base"), adapter=str(tmp_path / name))


def test_a_tokenizer_larger_than_the_embeddings_is_named_before_any_forward(base: Any, tmp_path: Path) -> None:
    model, tokenizer = base(), sudoku_tokenizer(4)
    tokenizer.add_tokens(["<think>"])
    with pytest.raises(ValueError, match=r"for 15: there is none for '<think>'.*resize_token_embeddings\(16\)"):
        evaluate_likelihood(model, [{"input_ids": [3, 4, 5]}], tokenizer, num_samples=1)
    with pytest.raises(ValueError, match="there is none for '<think>'"):
        template = ReasoningTemplate(reasoning_length=2, answer_length=2)
        sample_posterior_traces(model, tokenizer, ["1 2"], ["3"], template, num_traces=1)
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="there is none for '<think>'"):
        load(str(tmp_path / "base"))
    wrapped = peft.get_peft_model(base(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match=r"peft's PROMPT_TUNING is not supported"):
        evaluate_likelihood(wrapped, [{"input_ids": [3, 4, 5]}], sudoku_tokenizer(4), num_samples=1)
