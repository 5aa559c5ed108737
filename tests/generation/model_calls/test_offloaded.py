"""Models whose embeddings are offloaded: accelerate leaves them on `meta` until they run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, BartConfig, BartForConditionalGeneration, LlamaConfig

from hf_latent import (
    LatentDiffusionForConditionalGeneration,
    LatentTokenConfig,
    LatentTokenForCausalLM,
    LatentTokenForMaskedDiffusion,
)

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


def offload(plain: Any, folder: Path) -> Any:
    """`plain`, read again with all of its weights on the disk."""
    plain.save_pretrained(folder / "model")
    model = type(plain).from_pretrained(
        folder / "model", device_map={"": "disk"}, offload_folder=str(folder / "offloaded")
    )
    assert model.get_input_embeddings().weight.is_meta
    return model


def test_latent_diffusion_writes_the_same_from_the_disk(tmp_path: Path) -> None:
    """Given states alone, transformers asks the encoder-decoder's weights where ids belong, and was told `meta`."""
    torch.manual_seed(0)
    each = {"layers": 1, "attention_heads": 2, "ffn_dim": 32}
    sizes = {f"{part}_{what}": number for part in ("encoder", "decoder") for what, number in each.items()}
    tokens = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2}
    bart = BartConfig(vocab_size=64, d_model=32, max_position_embeddings=32, init_std=0.3, **sizes, **tokens)
    plain = LatentDiffusionForConditionalGeneration.from_encoder_decoder(
        BartForConditionalGeneration(bart), latent_length=4, decoder_reads_input=True
    ).eval()
    model = offload(plain, tmp_path)
    knobs = {"max_new_tokens": 6, "num_inference_steps": 2, "seed": 0}
    for further in ({}, {"num_beams": 2, "num_return_sequences": 2}, {"guidance_scale": 2.0}):
        assert model.generate(IDS, **knobs, **further).tolist() == plain.generate(IDS, **knobs, **further).tolist()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", ["bidirectional", "block_causal", "semi_causal", "left_to_right"])
def test_latent_tokens_write_the_same_from_the_disk(tmp_path: Path, kind: str, tied: bool) -> None:
    """Refinement, groups, drafts: whatever reads the embeddings or the head outside of a forward."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    sizes |= {"num_hidden_layers": 1, "initializer_range": 0.3}
    text = LlamaConfig(**sizes, tie_word_embeddings=tied, eos_token_id=None, pad_token_id=61)
    fields: dict[str, Any] = {"attention": "semi_causal" if kind == "left_to_right" else kind}
    fields |= {"order": "left_to_right"} if kind == "left_to_right" else {}
    fields |= {"block_size": 4} if kind == "block_causal" else {}
    fields["tie_word_embeddings"] = tied
    cls = LatentTokenForCausalLM if kind == "left_to_right" else LatentTokenForMaskedDiffusion
    config = LatentTokenConfig(
        text_config=text, mask_token_id=63, shift_logits=kind != "semi_causal", pad_token_id=61, **fields
    )
    plain = cls(config).eval()
    model = offload(plain, tmp_path)
    calls: list[dict[str, Any]] = [
        {"block_length": 3, "latent_refinement": True, "refinement_top_p": 1.0},
        {"block_length": 3, "append_blocks": True, "decoding": "med"},
    ]
    if kind == "bidirectional":
        calls.append({"block_length": 3, "cfg_scale": 1.0, "block_cache": "dual"})
    elif kind == "block_causal":
        calls.append({"block_length": 4, "cfg_scale": 1.0})
    elif kind == "semi_causal":
        calls.append({"num_latent_tokens": 2, "num_candidates": 4, "seed": 1, "temperature": 0.7})
    else:
        calls = [{"num_latent_tokens": 0}, {"num_latent_tokens": 2}]
        calls += [{"num_latent_tokens": 2, "self_speculative": how} for how in (True, "plain")]
    for knobs in calls:
        found = model.generate(IDS, max_new_tokens=6, **knobs)
        assert found.tolist() == plain.generate(IDS, max_new_tokens=6, **knobs).tolist()
