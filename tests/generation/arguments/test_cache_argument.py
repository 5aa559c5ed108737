"""The name of a cache: transformers renamed the argument, and warns of the old name in every forward."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaModel

from hf_latent import LatentTokenForCausalLM
from hf_latent.generation.arguments.cache_argument import CACHE_NAME, cache_name

IDS = torch.tensor([[5, 9, 2, 30]])


def test_each_forward_is_given_the_name_it_knows() -> None:
    """Code that came with a checkpoint may be older than the installed transformers."""

    class Older(nn.Module):
        def forward(self, input_ids: torch.Tensor, past_key_values: Any = None) -> None: ...

    assert cache_name(Older) == "past_key_values"
    assert cache_name(LlamaModel) == CACHE_NAME


@pytest.mark.parametrize(
    ("order", "knobs"),
    [
        ("left_to_right", {"num_latent_tokens": 2}),
        ("left_to_right", {"num_latent_tokens": 0}),
        ("left_to_right", {"num_latent_tokens": 2, "self_speculative": True, "return_dict_in_generate": True}),
        ("any", {"return_dict_in_generate": True}),
    ],
)
def test_no_call_of_ours_uses_a_name_that_will_be_gone(
    make_latent_token: Callable[..., Any], order: str, knobs: dict[str, Any]
) -> None:
    """Three warnings a `generate`, in the terminal of everyone who updated."""
    model = make_latent_token(order)
    assert (order == "left_to_right") == isinstance(model, LatentTokenForCausalLM)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        model.generate(IDS, max_new_tokens=4, **knobs)


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_nor_does_a_block_cache(llada: nn.Module, cache: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        llada.generate(IDS, max_new_tokens=4, block_cache=cache)
