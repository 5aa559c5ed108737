"""Models whose embeddings are offloaded: accelerate leaves them on `meta` until they run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

IDS = torch.arange(5, 12)[None]


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_what_is_written_does_not_depend_on_where_weights_lie(make_model: Any, tmp_path: Path, family: str) -> None:
    """Stock `generate` runs with these maps; ours asked the weights where inputs belong, and was told `meta`."""
    make_model(family).save_pretrained(tmp_path / "model")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    rest = {"model.layers": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    blank = IDS.clone()
    blank[0, 3] = plain.config.mask_token_id
    knobs = {"max_new_tokens": 6, "block_length": 3, "latent_refinement": True, "eos_token_id": None}
    for number, device_map in enumerate(({"": "disk"}, {"model.embed_tokens": "disk", **rest})):
        model = AutoModelForCausalLM.from_pretrained(
            tmp_path / "model", device_map=device_map, offload_folder=str(tmp_path / str(number))
        )
        assert model.get_input_embeddings().weight.is_meta
        for top_p in (0.2, 1.0):  # nuclei of a few tokens and of all
            found = model.generate(IDS, refinement_top_p=top_p, block_cache="prefix", **knobs)
            assert (
                found.tolist() == plain.generate(IDS, refinement_top_p=top_p, block_cache="prefix", **knobs).tolist()
            )
        assert model.infill(blank).tolist() == plain.infill(blank).tolist()
