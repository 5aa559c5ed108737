"""A tokenizer of words, a template, and a random model in float64, far from ties."""

from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerFast

from hf_latent import LladaForMaskedDiffusion, ReasoningTemplate

NUM_WORDS = 9


@pytest.fixture(scope="session")
def words(make_words: Callable) -> PreTrainedTokenizerFast:
    """`w0` ... `w8` are 0 ... 8, `<eos>` 9, `<pad>` 10, `<mask>` 11."""
    return make_words(NUM_WORDS)


@pytest.fixture
def layout() -> ReasoningTemplate:
    """Four tokens of reasoning, two of an answer."""
    return ReasoningTemplate(reasoning_length=4, answer_length=2, delimiter="w7 w8", suffix="w6")


@pytest.fixture(scope="session")
def tiny(make_llada: Callable) -> LladaForMaskedDiffusion:
    fields = {"vocab_size": 12, "max_position_embeddings": 32, "initializer_range": 0.4}
    return make_llada(**fields, eos_token_id=9, pad_token_id=10, mask_token_id=11).double()
