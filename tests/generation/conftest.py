"""Tiny random models for the tests of generation, and a tokenizer for them."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast
from transformers.generation.streamers import BaseStreamer

from hf_latent import DreamConfig, DreamForMaskedDiffusion, LladaConfig, LladaForMaskedDiffusion

VOCAB_SIZE, EOS, PAD, MASK = 48, 45, 46, 47
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
TOKENS = {"vocab_size": VOCAB_SIZE, "eos_token_id": EOS, "pad_token_id": PAD, "mask_token_id": MASK}
FAMILIES = {
    "llada": (LladaConfig, LladaForMaskedDiffusion),
    "dream": (DreamConfig, DreamForMaskedDiffusion),
}


def tiny_model(family: str, seed: int = 0, **overrides: object) -> LladaForMaskedDiffusion | DreamForMaskedDiffusion:
    """
    A random model whose predictions depend on the canvas and are far from ties.

    Weights are drawn 15 times wider than usual and the head scaled up, for logits of standard deviation 4. Float64,
    because a row computed in another batch shape differs by some 1e-6 in float32, and the thousands of comparisons of
    a property test would now and then fall within that: a false alarm. In float64 the odds are below 1e-6 a test.
    """
    config_class, model_class = FAMILIES[family]
    torch.manual_seed(seed)
    settings = {"initializer_range": 0.3, "max_position_embeddings": 128, "num_key_value_heads": 2} | overrides
    model = model_class(config_class(**(SIZES | TOKENS | settings))).eval()
    with torch.no_grad():
        model.lm_head.weight *= 2.4
    return model.double()


@pytest.fixture(scope="session")
def make_model() -> Callable:
    """`make_model("llada" or "dream", seed=0, **config)`; 48 tokens: 45 end-of-sequence, 46 padding, 47 mask."""
    return tiny_model


@pytest.fixture(scope="session")
def llada() -> LladaForMaskedDiffusion:
    """Shared between tests: not to be changed."""
    return tiny_model("llada")


@pytest.fixture(scope="session")
def dream() -> DreamForMaskedDiffusion:
    """Shared between tests: not to be changed."""
    return tiny_model("dream")


@pytest.fixture(scope="session", params=["llada", "dream"])
def model(request: pytest.FixtureRequest) -> LladaForMaskedDiffusion | DreamForMaskedDiffusion:
    """Each family in turn; shared between tests: not to be changed."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def forward_shapes(model: torch.nn.Module) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of `input_ids` of every forward of `model` in the test."""
    shapes: list[tuple[int, ...]] = []
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    yield shapes
    hook.remove()


@pytest.fixture(scope="session")
def tokenizer(make_words: Callable) -> PreTrainedTokenizerFast:
    """One word per token: `w0` ... `w44`, `<eos>`, `<pad>`, `<mask>`."""
    tokenizer = make_words(EOS, model_input_names=["input_ids", "attention_mask"])
    tokenizer.chat_template = "{% for m in messages %}w1 {{ m['content'] }} w2 {% endfor %}"
    return tokenizer


@pytest.fixture(scope="session")
def write_blocks() -> Callable[..., Any]:
    """
    `write_blocks(model, prompt, (num_blocks, block_length), **knobs)`: what `generate` returns of one prompt, by a
    uniform schedule and without an end, to be compared with a sampler in plain Python.
    """

    def write(model: Any, prompt: list[int], shape: tuple[int, int], **knobs: Any) -> Any:
        blocks = {"max_new_tokens": math.prod(shape), "block_length": shape[1], "eos_token_id": None}
        plain = {"denoising_schedule": "uniform", "pace_to_schedule": False, "return_dict_in_generate": True}
        return model.generate(torch.tensor([prompt]), **blocks, **plain, **knobs)

    return write


class Recorder(BaseStreamer):
    """What was sent as final, and how often a draft was."""

    def __init__(self) -> None:
        self.final: list[int] = []
        self.drafts = 0

    def put(self, value: torch.Tensor) -> None:
        self.final += value.flatten().tolist()

    def put_draft(self, value: torch.Tensor) -> None:
        self.drafts += 1

    def end(self) -> None:
        pass


@pytest.fixture(scope="session")
def make_recorder() -> Callable[[], Recorder]:
    """`make_recorder()`: a streamer with `final`, the ids that were sent for good, and `drafts`, how many came."""
    return Recorder


# Rows of unequal length in one batch, and what each of them must come to: what it is alone.


@pytest.fixture(scope="session")
def padded() -> Callable[[list[list[int]], str, int], tuple[torch.Tensor, torch.Tensor]]:
    """`padded(rows, "left" or "right", pad_token_id)`: ids and attention mask."""

    def pad(rows: list[list[int]], side: str, filling: int) -> tuple[torch.Tensor, torch.Tensor]:
        length = max(map(len, rows))
        ids, mask = torch.full((len(rows), length), filling), torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            columns = slice(length - len(row), length) if side == "left" else slice(0, len(row))
            ids[i, columns], mask[i, columns] = torch.tensor(row), 1
        return ids, mask

    return pad


@pytest.fixture(scope="session")
def check_rows_alone(padded: Callable) -> Callable[..., None]:
    """`check_rows_alone(model, rows, pad_token_id, **knobs)`: alone and in batches padded on either side, the same."""

    def check(model: Any, rows: list[list[int]], filling: int, **knobs: Any) -> None:
        alone = [model.generate(torch.tensor([row]), row_indices=[i], **knobs) for i, row in enumerate(rows)]
        for side in ("left", "right"):
            ids, mask = padded(rows, side, filling)
            out = model.generate(ids, attention_mask=mask, **knobs)
            for i, row in enumerate(rows):
                start = ids.shape[1] - len(row) if side == "left" else 0
                columns = slice(start, start + len(row) + knobs["max_new_tokens"])
                assert out.sequences[i, columns].tolist() == alone[i].sequences[0].tolist()
                assert out.commit_step[i, columns].tolist() == alone[i].commit_step[0].tolist()
                assert out.num_forward_passes[i] == alone[i].num_forward_passes[0]

    return check
