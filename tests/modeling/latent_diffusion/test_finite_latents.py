"""A broken model of latents writes no text, and no id beyond the vocabulary reaches a forward."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers.generation.streamers import BaseStreamer


@pytest.mark.parametrize("part", ["autoencoder.encoder", "denoiser"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmsolver++"])
def test_nan_weights_are_told_by_row(make_model: Callable[..., Any], batch: dict, part: str, sampler: str) -> None:
    model = make_model("in-context")
    root = model.denoiser if part == "denoiser" else model.autoencoder.language_model.get_encoder()
    with torch.no_grad():
        for parameter in root.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"The latent of row 0 holds nan or inf at vector 0"):
        model.generate(**batch, num_inference_steps=4, sampler=sampler)


@pytest.mark.parametrize("knobs", [{}, {"do_sample": True}, {"num_beams": 2}])
def test_a_decoder_with_nan_is_told(make_model: Callable[..., Any], batch: dict, knobs: dict) -> None:
    model = make_model("in-context")
    bias = model.autoencoder.language_model.final_logits_bias
    bias.fill_(float("nan"))
    with pytest.raises(ValueError, match="No token has a finite score at row 0, position 1"):
        model.generate(**batch, num_inference_steps=4, max_new_tokens=4, **knobs)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"inputs": torch.tensor([[3, 40]])}, r"`inputs` must lie in \[0, 39\], got values from 3 to 40"),
        ({"inputs": torch.tensor([[3, -1]])}, r"`inputs` must lie in \[0, 39\], got values from -1 to 3"),
        ({"suppress_tokens": [40]}, r"`suppress_tokens` must lie below `vocab_size` \(40\), got 40"),
        ({"forced_bos_token_id": 41}, r"`forced_bos_token_id` must lie below `vocab_size` \(40\), got 41"),
        ({"eos_token_id": [2, 99]}, r"`eos_token_id` must lie below `vocab_size` \(40\), got 99"),
        ({"bad_words_ids": [[3], [4, 77]]}, r"`bad_words_ids` must lie below `vocab_size` \(40\), got 77"),
    ],
)
def test_ids_beyond_the_vocabulary_are_refused(make_model: Callable[..., Any], knobs: dict, message: str) -> None:
    model = make_model("in-context")
    model.autoencoder.encode = lambda *args, **kwargs: pytest.fail("a forward was run")
    with pytest.raises(ValueError, match=message):
        model.generate(**{"inputs": torch.tensor([[3, 4]])} | knobs)


NAMED = ("assistant_model", "negative_prompt_ids", "synced_gpus", "custom_generate", "stopping_criteria", "streamer")


def test_named_arguments_of_transformers_may_be_none_and_are_refused_by_name(
    make_model: Callable[..., Any], batch: dict
) -> None:
    """They were unknown, with a guess at what was meant. Numbers of numpy are numbers."""
    model = make_model("in-context")
    knobs = {"num_inference_steps": 2, "max_new_tokens": 4, "seed": 0}
    expected = model.generate(**batch, **knobs)
    assert torch.equal(model.generate(**batch, **knobs, **dict.fromkeys(NAMED)), expected)
    assert torch.equal(model.generate(**batch, **{name: np.int64(value) for name, value in knobs.items()}), expected)
    scaled = model.generate(**batch, **knobs, guidance_scale=2.0)
    assert torch.equal(model.generate(**batch, **knobs, guidance_scale=np.float32(2.0)), scaled)
    for name in ("assistant_model", "negative_prompt_ids", "token_type_ids", "position_ids"):
        with pytest.raises(ValueError, match=f"`{name}` is not supported by latent diffusion, got Tensor"):
            model.generate(**batch, **{name: torch.zeros(3, 9).long()})


def test_a_streamer_gets_exactly_what_is_returned(make_model: Callable[..., Any], batch: dict) -> None:
    class Collect(BaseStreamer):
        ids: list[int] = []

        def put(self, value: torch.Tensor) -> None:
            self.ids += value.flatten().tolist()

        def end(self) -> None:
            pass

    streamer = Collect()
    out = make_model("in-context").generate(batch["input_ids"][:1], num_inference_steps=2, streamer=streamer)
    assert streamer.ids == out[0].tolist()
