"""Arguments of transformers' `generate` where latent tokens are on, and continuous batching, which knows none."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.generation import BaseStreamer

IDS = torch.tensor([[5, 9, 2, 30, 7]])
KNOBS = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Token `i` is the letter 65 + i."""
    core = Tokenizer(models.WordLevel({chr(65 + i): i for i in range(64)}, unk_token="A"))
    core.pre_tokenizer, core.decoder = pre_tokenizers.Split("", "isolated"), decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core)


@pytest.mark.parametrize(("drafts", "count"), [(True, 2), ("plain", 0)])
def test_stop_strings_end_drafts_where_they_end_plain_decoding(
    make_latent_token: Callable[..., Any], drafts: bool | str, count: int
) -> None:
    """
    `True` writes what the same call writes without it, "plain" what it writes without latent tokens.

    transformers hands no tokenizer to a function that generates, and said that it is missing.
    """
    model = make_latent_token("left_to_right")
    text = model.generate(IDS, num_latent_tokens=count, **KNOBS)[0, IDS.shape[1] :].tolist()
    stop = chr(65 + text[4]) + chr(65 + text[5])
    options = KNOBS | {"stop_strings": [stop], "tokenizer": make_tokenizer()}
    plain = model.generate(IDS, num_latent_tokens=count, **options)
    assert plain.shape[1] < IDS.shape[1] + 12
    found = model.generate(IDS, num_latent_tokens=2, self_speculative=drafts, **options)
    assert found.tolist() == plain.tolist()


@pytest.mark.parametrize("drafts", [False, True, "plain"])
def test_a_streamer_gets_what_ends_at_a_stop_string(make_latent_token: Callable[..., Any], drafts: bool | str) -> None:
    """Drafts behind the stop are checked in the same forward, and are no text."""
    model = make_latent_token("left_to_right")
    count = 0 if drafts == "plain" else 2
    text = model.generate(IDS, num_latent_tokens=count, **KNOBS)[0, IDS.shape[1] :].tolist()
    options = KNOBS | {"stop_strings": [chr(65 + text[4]) + chr(65 + text[5])], "tokenizer": make_tokenizer()}
    got: list[int] = []
    streamer = BaseStreamer()
    streamer.put = lambda value: got.extend(value.flatten().tolist())
    streamer.end = lambda: got.append(-1)
    drafting = {"self_speculative": drafts} if drafts else {}
    out = model.generate(IDS, num_latent_tokens=2, streamer=streamer, **drafting, **options)
    assert out.shape[1] < IDS.shape[1] + 12
    assert got == [*out[0].tolist(), -1]


def test_stop_strings_need_a_tokenizer(make_latent_token: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"`stop_strings`='x' needs the model's `tokenizer`"):
        make_latent_token("left_to_right").generate(
            IDS, num_latent_tokens=2, self_speculative=True, stop_strings="x", **KNOBS
        )


def test_a_cache_implementation_is_the_dynamic_one_or_refused_by_name(make_latent_token: Callable[..., Any]) -> None:
    """It was refused for a `Cache` that nobody had passed."""
    model = make_latent_token("left_to_right")
    expected = model.generate(IDS, num_latent_tokens=2, **KNOBS)
    found = model.generate(IDS, num_latent_tokens=2, cache_implementation="dynamic", **KNOBS)
    assert found.tolist() == expected.tolist()
    with pytest.raises(
        ValueError, match=r"`cache_implementation` must be 'dynamic' .*`num_latent_tokens`=2.*'static'"
    ):
        model.generate(IDS, num_latent_tokens=2, cache_implementation="static", **KNOBS)
    with pytest.raises(ValueError, match="`cache_implementation` must be left out with `self_speculative`"):
        model.generate(IDS, num_latent_tokens=2, self_speculative=True, cache_implementation="dynamic", **KNOBS)


@pytest.mark.parametrize("name", ["generate_batch", "init_continuous_batching", "continuous_batching_context_manager"])
def test_continuous_batching_is_refused(make_latent_token: Callable[..., Any], name: str) -> None:
    """It ignores `is_causal=False`: causal text, in silence."""
    model = make_latent_token("any")
    with pytest.raises(ValueError, match=f"`{name}` is not supported by LatentTokenForMaskedDiffusion: .* causally"):
        getattr(model, name)([[5, 6]])
    causal = make_latent_token("left_to_right")
    causal.config.num_latent_tokens = 2
    with pytest.raises(ValueError, match=f"`{name}` is not supported by LatentTokenForCausalLM"):
        getattr(causal, name)([[5, 6]])
