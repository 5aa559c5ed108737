"""Pairs of sentences for latent diffusion: neighbours of one text, a tokenizer that restores them, known levels."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from hf_latent.training.latent_diffusion import backbone as latent_diffusion_backbone
from hf_latent.training.latent_diffusion import run as latent_diffusion_run

ROOT = Path(__file__).resolve().parents[4]
TEXTS = {
    "train": [
        "Ann has 3 cats.  Bob paid $4.50 for a hat! How much is left?",
        "Ann has 3 cats. Bob paid $4.50 for a hat!",
    ],
    "test": ["Ann has 3 cats. Bob paid $4.50 for a hat!", 'Eve ran. She won. "Why?" he said.', "One sentence only."],
}
PAIRS = [
    {"prompt": "Ann has 3 cats.", "completion": "Bob paid $4.50 for a hat!"},
    {"prompt": "Bob paid $4.50 for a hat!", "completion": "How much is left?"},
]


@pytest.fixture(scope="module")
def recipe() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "recipes" / "studies/latent_diffusion_sentences.py"))


@pytest.fixture(scope="module")
def folder(recipe: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipe has written of `TEXTS`."""
    root = tmp_path_factory.mktemp("sentences")
    for split, texts in TEXTS.items():
        (root / f"{split}.json").write_text("".join(json.dumps({"question": text}) + "\n" for text in texts))
    arguments = ["--train_file", str(root / "train.json"), "--test_file", str(root / "test.json")]
    recipe["main"](recipe["parse"]([*arguments, "--output_dir", str(root), "--vocab_size", "300"]))
    return root


def read(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_neighbours_are_paired_once_and_held_out_pairs_are_new(folder: Path) -> None:
    assert read(folder / "train.jsonl") == PAIRS
    held_out = {(row["prompt"], row["completion"]) for row in read(folder / "test.jsonl")}
    assert held_out == {("Eve ran.", "She won."), ("She won.", '"Why?" he said.')}


def test_the_tokenizer_restores_any_text(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    text = "Zoë paid 7 € more, didn't she?"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 2)
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (1, 3, 4)
    assert len(tokenizer) <= 300


def test_levels_are_those_of_other_completions_and_of_the_prompt(folder: Path) -> None:
    """Two pairs: the one's prompt is the other's completion."""
    levels = json.loads((folder / "levels.json").read_text())
    assert (levels["num_train_pairs"], levels["num_test_pairs"]) == (2, 2)
    assert all(0 < level < 30 for level in levels["chrf"].values())


def test_an_unknown_column_is_refused(recipe: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    arguments = ["--train_file", str(folder / "train.json"), "--test_file", str(folder / "test.json")]
    with pytest.raises(ValueError, match=r"`column` must be one of \['question'\], got 'text'"):
        recipe["main"](recipe["parse"]([*arguments, "--column", "text", "--output_dir", str(tmp_path)]))


@pytest.mark.slow
def test_all_stages_train_on_them(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the files of the recipes, with nothing smaller but steps and the width of the denoiser."""
    monkeypatch.chdir(ROOT)
    files = ["--train_file", str(folder / "train.jsonl"), "--eval_file", str(folder / "test.jsonl")]
    common = [*files, "--max_steps", "1", "--use_cpu", "True", "--eval_strategy", "no", "--eval_generation_steps", "0"]
    stages = {
        "pretrain": (latent_diffusion_backbone, ["--tokenizer_name", str(folder / "tokenizer")]),
        "autoencoder": (latent_diffusion_run, ["--model_name_or_path", str(tmp_path / "pretrain")]),
        "denoiser": (latent_diffusion_run, ["--model_name_or_path", str(tmp_path / "autoencoder")]),
        "baseline": (latent_diffusion_backbone, ["--model_name_or_path", str(tmp_path / "pretrain")]),
    }
    for name, (module, own) in stages.items():
        config = ["--config", f"recipes/latent_diffusion/text_{name}.yaml", "--output_dir", str(tmp_path / name)]
        results = module.main(*module.parse([*config, *common, *own]))
        if name != "pretrain":
            assert 0 <= results["generation"]["chrf"] <= 100 and results["generation"]["num_examples"] == 2
