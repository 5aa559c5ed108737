"""Latent diffusion whose weights are offloaded: accelerate leaves them on `meta` until they run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM


@pytest.mark.parametrize("case", ["in-context", "reads-input", "t5"])
def test_what_is_written_does_not_depend_on_where_weights_lie(
    make_model: Any, batch: dict[str, torch.Tensor], tmp_path: Path, case: str
) -> None:
    """The encoder-decoder's own `generate` makes ids where its first weight is: on `meta` they have no values."""
    make_model(case).save_pretrained(tmp_path / "model")
    plain = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model")
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    knobs: dict[str, Any] = {"max_new_tokens": 6, "min_new_tokens": 4, "num_inference_steps": 2, "seed": 0}
    for number, device_map in enumerate(({"": "disk"}, {"autoencoder": "disk", "denoiser": "cpu"})):
        model = AutoModelForSeq2SeqLM.from_pretrained(
            tmp_path / "model", device_map=device_map, offload_folder=str(tmp_path / str(number))
        )
        assert model.get_input_embeddings().weight.is_meta
        for options in ({}, {"num_return_sequences": 2}):
            found = model.generate(**inputs, **knobs, **options)
            assert found.tolist() == plain.generate(**inputs, **knobs, **options).tolist()
