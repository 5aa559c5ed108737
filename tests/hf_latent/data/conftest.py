"""A tokenizer of words, a template, and a random model in float64, far from ties."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hf_latent import LladaConfig, LladaForMaskedDiffusion, ReasoningTemplate

NUM_WORDS = 9


@pytest.fixture(scope="session")
def words() -> PreTrainedTokenizerFast:
    """`w0` ... `w8` are 0 ... 8, `<eos>` 9, `<pad>` 10, `<mask>` 11."""
    vocabulary = {f"w{i}": i for i in range(NUM_WORDS)} | {"<eos>": 9, "<pad>": 10, "<mask>": 11}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>", mask_token="<mask>")


@pytest.fixture
def layout() -> ReasoningTemplate:
    """Four tokens of reasoning, two of an answer."""
    return ReasoningTemplate(reasoning_length=4, answer_length=2, delimiter="w7 w8", suffix="w6")


@pytest.fixture(scope="session")
def tiny() -> LladaForMaskedDiffusion:
    torch.manual_seed(0)
    config = LladaConfig(
        vocab_size=12,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        initializer_range=0.4,
        eos_token_id=9,
        pad_token_id=10,
        mask_token_id=11,
    )
    return LladaForMaskedDiffusion(config).eval().double()
