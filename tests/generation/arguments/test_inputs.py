"""The table of bad inputs: each gets a ValueError that names it, before any forward."""

import math
from collections.abc import Callable

import pytest
import torch
from transformers import GenerationConfig, TextStreamer

from hf_latent import DiffusionGenerationConfig

MASK = 47
PROMPT = torch.tensor([[1, 2, 3]])
PAIR = torch.tensor([[1, 2, 3], [4, 5, 6]])
HOLED = torch.tensor([[1, MASK, 3]])


def mask(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


# What is passed to `generate`, and what the message says.
BAD_CALLS = {
    "no prompt": ({}, "`input_ids` must be a tensor of token ids, got NoneType"),
    "a list": ({"inputs": [[1, 2]]}, "`input_ids` must be a tensor of token ids, got list"),
    "a string": ({"inputs": "hello"}, "`input_ids` must be a tensor of token ids, got str"),
    "rank 1": ({"inputs": PROMPT[0]}, r"`input_ids` must have shape \(batch, length\), got \(3,\)"),
    "rank 3": ({"inputs": PROMPT[None]}, r"`input_ids` must have shape \(batch, length\), got \(1, 1, 3\)"),
    "float ids": ({"inputs": PROMPT.float()}, "`input_ids` must hold integers, got torch.float32"),
    "bool ids": ({"inputs": PROMPT.bool()}, "`input_ids` must hold integers, got torch.bool"),
    "an empty prompt": ({"inputs": PROMPT[:, :0]}, r"`input_ids` must not be empty, got shape \(1, 0\)"),
    "an empty batch": ({"inputs": PROMPT[:0]}, r"`input_ids` must not be empty, got shape \(0, 3\)"),
    "negative ids": ({"inputs": PROMPT - 5}, r"`input_ids` must lie in \[0, 47\], got values from -4 to -2"),
    "ids beyond the vocabulary": ({"inputs": PROMPT + 45}, "`input_ids` must lie in .* got values from 46 to 48"),
    "inputs twice": ({"inputs": PROMPT, "input_ids": PROMPT}, "`inputs` or as `input_ids`, not as both"),
    "a mask in the prompt": ({"inputs": HOLED}, r"`input_ids` holds the mask token \(47\) at row 0, column 1"),
    "a mask of another shape": (
        {"inputs": PROMPT, "attention_mask": mask([1, 1])},
        r"`attention_mask` must have the shape of `input_ids`, \(1, 3\), got \(1, 2\)",
    ),
    "a 4-D mask": (
        {"inputs": PROMPT, "attention_mask": torch.ones(1, 1, 3, 3)},
        r"`attention_mask` must have the shape .* got \(1, 1, 3, 3\)",
    ),
    "a list as mask": ({"inputs": PROMPT, "attention_mask": [[1, 1, 1]]}, "`attention_mask` must have .* 'list'"),
    "a mask of other values": ({"inputs": PROMPT, "attention_mask": mask([0, 2, 1])}, r"`attention_mask` must hold 0"),
    "an additive mask": ({"inputs": PROMPT, "attention_mask": mask([-math.inf, 0.0, 0.0])}, "`attention_mask` must"),
    "a gap in the mask": (
        {"inputs": PAIR, "attention_mask": mask([1, 1, 1], [1, 0, 1])},
        "Padding must be contiguous, on the left or right; `attention_mask` have a gap in row 1",
    ),
    "a gap of padding": ({"inputs": mask([1, 46, 3])}, "the pad tokens in `input_ids` have a gap in row 0"),
    "a row of padding": (
        {"inputs": PAIR, "attention_mask": mask([1, 1, 1], [0, 0, 0])},
        "`input_ids` row 1 is an empty prompt: `attention_mask`",
    ),
    "a row of pad tokens": (
        {"inputs": mask([1, 2], [46, 46])},
        "`input_ids` row 1 is an empty prompt: the pad tokens",
    ),
    "beyond the positions": (
        {"inputs": PROMPT, "max_new_tokens": 126},
        r"Prompt plus `max_new_tokens` is 129 tokens, more than the model's `max_position_embeddings` \(128\)",
    ),
    "max_length within the prompt": ({"inputs": PROMPT, "max_length": 3}, r"`max_length` must exceed .* got 3"),
    "no new tokens": ({"inputs": PROMPT, "max_new_tokens": 0}, "`max_new_tokens` must be an integer .* got 0"),
    "fewer steps than blocks": (
        {"inputs": PROMPT, "max_new_tokens": 9, "block_length": 4, "max_denoising_steps": 2},
        r"`max_denoising_steps` must be at least the number of blocks \(3\), got 2",
    ),
    "a mask token beyond the vocabulary": (
        {"inputs": PROMPT, "mask_token_id": 48},
        r"`mask_token_id` must be below `vocab_size` \(48\), got 48",
    ),
    "a pad token beyond the vocabulary": (
        {"inputs": PROMPT, "pad_token_id": 999},
        r"`pad_token_id` must lie below `vocab_size` \(48\), got 999",
    ),
    "suppressed tokens beyond the vocabulary": (
        {"inputs": PROMPT, "suppress_tokens": [3, 48]},
        r"`suppress_tokens` must lie below `vocab_size` \(48\), got 48",
    ),
    "deferred tokens beyond the vocabulary": (
        {"inputs": PROMPT, "deferred_tokens": [77]},
        r"`deferred_tokens` must lie below `vocab_size` \(48\), got 77",
    ),
    "the model's own ends beyond the vocabulary": (
        {"inputs": PROMPT, "eos_token_id": [45, 99]},
        r"`eos_token_id` must lie below `vocab_size` \(48\), got 99",
    ),
    "a negative end": ({"inputs": PROMPT, "eos_token_id": -1}, "`eos_token_id` must be .* got -1"),
    "nothing left to write": ({"inputs": PROMPT, "suppress_tokens": list(range(47))}, "`suppress_tokens` leaves no"),
    "row numbers for other rows": ({"inputs": PROMPT, "row_indices": [0, 1]}, r"`row_indices` .* got \[0, 1\]"),
    "row numbers that are none": ({"inputs": PROMPT, "row_indices": ["a"]}, r"`row_indices` .* got \['a'\]"),
    "fractions of rows": ({"inputs": PROMPT, "row_indices": [0.5]}, r"`row_indices` .* got \[0.5\]"),
    "a bare processor": (
        {"inputs": PROMPT, "logits_processor": lambda i, s: s},
        "`logits_processor` must .* function",
    ),
    "equal sequences": ({"inputs": PROMPT, "num_return_sequences": 3}, "`num_return_sequences`=3 gives equal"),
    "beams": ({"inputs": PROMPT, "num_beams": 4}, "`num_beams`=4 is not supported"),
    "stop strings": ({"inputs": PROMPT, "stop_strings": ["\n"]}, "`stop_strings`=.* is not supported"),
    "beams by configuration": (
        {"inputs": PROMPT, "generation_config": GenerationConfig(num_beams=2)},
        "`num_beams`=2 is not supported",
    ),
    "a typo": (
        {"inputs": PROMPT, "entropy_treshold": 0.1},
        "Unknown argument `entropy_treshold` .* `entropy_threshold`",
    ),
    "a typo by stock configuration": (
        {"inputs": PROMPT, "generation_config": GenerationConfig(block_lenght=4)},
        "Unknown argument `block_lenght` .* Did you mean `block_length`",
    ),
    "another library's name": ({"inputs": PROMPT, "steps": 4}, "Unknown argument `steps`"),
    "a stopping criterion": (
        {"inputs": PROMPT, "stopping_criteria": []},
        "`stopping_criteria` is not supported by diffusion decoding, got list: use `eos_token_id`",
    ),
    "a draft model": (
        {"inputs": PROMPT, "assistant_model": torch.nn.Linear(1, 1)},
        "`assistant_model` is not supported by diffusion decoding, got Linear: no draft model is needed",
    ),
    "a negative prompt": (
        {"inputs": PROMPT, "negative_prompt_ids": PROMPT},
        "`negative_prompt_ids` is not supported by diffusion decoding, got Tensor: use `cfg_scale`",
    ),
    "token types": ({"inputs": PROMPT, "token_type_ids": PROMPT * 0}, "`token_type_ids` .* have no token types"),
    "positions": ({"inputs": PROMPT, "position_ids": PROMPT}, "`position_ids` .* follow from `attention_mask`"),
    "embeddings": ({"inputs_embeds": torch.zeros(1, 2, 32)}, "`inputs_embeds` .* use `input_ids`"),
    "synchronised devices": ({"inputs": PROMPT, "synced_gpus": True}, "`synced_gpus` is not supported .* got bool"),
    "an unknown rule": ({"inputs": PROMPT, "decoding": "mde"}, "`decoding` must be one of .* got 'mde'. Did .* 'med'"),
    "a threshold out of range": (
        {"inputs": PROMPT, "confidence_threshold": 2},
        "`confidence_threshold` must .* got 2",
    ),
    "a block of nothing": ({"inputs": PROMPT, "block_length": 0}, "`block_length` must be an integer .* got 0"),
    "appended blocks of no length": (
        {"inputs": PROMPT, "append_blocks": True},
        "`append_blocks`=True needs `block_length`, the tokens of a block, got None",
    ),
    "an unknown cache": ({"inputs": PROMPT, "block_cache": "static"}, "`block_cache` must be .* got 'static'"),
    "no number of refinement steps": (
        {"inputs": PROMPT, "refinement_steps": None},
        "`refinement_steps` must be an integer of at least 0, got None",
    ),
    "early exit without an answer": (
        {"inputs": PROMPT, "early_exit_threshold": 0.1},
        "`early_exit_threshold`=0.1 needs an `answer_mask` that says where the answer is",
    ),
    "an answer in a prompt without masks": (
        {"inputs": PROMPT, "answer_mask": PROMPT == 3, "max_new_tokens": None},
        r"`input_ids` has nothing to infill: no token is the mask token \(47\)",
    ),
    "an answer and a length": (
        {"inputs": HOLED, "answer_mask": HOLED == MASK},
        "`max_new_tokens`=4 has no meaning for `infill` and with `answer_mask`",
    ),
    "ends beyond the vocabulary": (
        {"inputs": PROMPT, "eos_token_id": 48},
        r"`eos_token_id` must lie below `vocab_size` \(48\), got 48",
    ),
    "a bad value set on the object": (
        {"inputs": PROMPT, "generation_config": "changed below"},
        "`entropy_bound` must be a number of at least 0.0, got -3",
    ),
}


@pytest.mark.parametrize("case", BAD_CALLS)
def test_a_bad_call_is_refused_by_name_before_any_forward(
    llada: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    knobs, message = BAD_CALLS[case]
    if knobs.get("generation_config") == "changed below":
        config = DiffusionGenerationConfig()
        config.entropy_bound = -3
        knobs = knobs | {"generation_config": config}
    if "max_length" not in knobs:
        knobs = {"max_new_tokens": 4} | knobs
    monkeypatch.setattr(llada, "forward", lambda *args, **kwargs: pytest.fail("a forward was run"))
    with pytest.raises(ValueError, match=message):
        llada.generate(**knobs)


BAD_INFILLS = {
    "nothing to infill": ({"inputs": PROMPT}, r"`input_ids` has nothing to infill: no token is the mask token \(47\)"),
    "only masks in padding": (
        {"inputs": torch.tensor([[MASK, 2, 3]]), "attention_mask": mask([0, 1, 1])},
        "`input_ids` has nothing to infill",
    ),
    "a length": ({"inputs": HOLED, "max_new_tokens": 4}, "`max_new_tokens`=4 has no meaning for `infill`"),
    "a total length": ({"inputs": HOLED, "max_length": 4}, "`max_length`=4 has no meaning for `infill`"),
    "a least length": ({"inputs": HOLED, "min_new_tokens": 2}, "`min_new_tokens`=2 has no meaning for `infill`"),
    "appended blocks": ({"inputs": HOLED, "append_blocks": True}, "`append_blocks`=True has no meaning for `infill`"),
    "an answer of another shape": (
        {"inputs": HOLED, "answer_mask": mask([0, 1])},
        r"`answer_mask` must have the shape of `input_ids`, \(1, 3\), got \(1, 2\)",
    ),
    "an answer of other values": (
        {"inputs": HOLED, "answer_mask": mask([0, 2, 0])},
        r"`answer_mask` must hold 0 and 1 \(the answer\) only",
    ),
    "an answer that is given": (
        {"inputs": HOLED, "answer_mask": mask([1, 0, 1])},
        "`answer_mask` marks no mask token of `input_ids` in row 0",
    ),
    "beyond the positions": (
        {"inputs": HOLED.repeat(1, 50)},
        r"The longest row is 150 tokens, more than the model's `max_position_embeddings` \(128\)",
    ),
    "float ids": ({"inputs": HOLED.half()}, "`input_ids` must hold integers, got torch.float16"),
    "a typo": ({"inputs": HOLED, "temprature": 1}, "Unknown argument `temprature` .* Did you mean `temperature`"),
    "fewer steps than blocks": (
        {"inputs": torch.tensor([[MASK, 1, MASK, 1, MASK]]), "block_length": 2, "max_denoising_steps": 2},
        r"`max_denoising_steps` must be at least the number of blocks \(3\), got 2",
    ),
}


@pytest.mark.parametrize("case", BAD_INFILLS)
def test_a_bad_infill_is_refused_by_name_before_any_forward(
    llada: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    knobs, message = BAD_INFILLS[case]
    monkeypatch.setattr(llada, "forward", lambda *args, **kwargs: pytest.fail("a forward was run"))
    with pytest.raises(ValueError, match=message):
        llada.infill(**knobs)


BEYOND = {
    "inputs": {"inputs": torch.tensor([[1, 64]])},
    "input_ids": {"input_ids": torch.tensor([[1, -2]])},
    "suppress_tokens": {"suppress_tokens": [64]},
    "eos_token_id": {"eos_token_id": 70},
    "pad_token_id": {"pad_token_id": 64},
    "forced_eos_token_id": {"forced_eos_token_id": 64},
    "forced_bos_token_id": {"generation_config": GenerationConfig(forced_bos_token_id=64)},
    "bad_words_ids": {"bad_words_ids": [[1], [2, 65]]},
    "begin_suppress_tokens": {"begin_suppress_tokens": [64]},
    "sequence_bias": {"sequence_bias": {(1, 66): 2.0}},
    "negative_prompt_ids": {"negative_prompt_ids": torch.tensor([[64]]), "guidance_scale": 2.0},
}


@pytest.mark.parametrize("name", BEYOND)
@pytest.mark.parametrize("num_latent_tokens", [0, 2])
def test_a_causal_model_refuses_ids_beyond_its_vocabulary(
    make_latent_token: Callable, monkeypatch: pytest.MonkeyPatch, name: str, num_latent_tokens: int
) -> None:
    """transformers leaves that to an IndexError of the embeddings, or to the device; or suppresses nothing."""
    model = make_latent_token("left_to_right")
    monkeypatch.setattr(model, "forward", lambda *args, **kwargs: pytest.fail("a forward was run"))
    knobs = {"max_new_tokens": 2, "num_latent_tokens": num_latent_tokens} | BEYOND[name]
    if "put" not in name:
        knobs["inputs"] = PROMPT
    with pytest.raises(ValueError, match=rf"`{name}` must lie (below `vocab_size` \(64\)|in \[0, 63\])"):
        model.generate(**knobs)


def test_a_model_without_a_mask_token_says_so(make_model: Callable) -> None:
    model = make_model("llada")
    model.config.mask_token_id = None
    with pytest.raises(ValueError, match="`mask_token_id` is not set"):
        model.generate(PROMPT)
    expected = make_model("llada").generate(PROMPT, max_new_tokens=4)
    assert torch.equal(model.generate(PROMPT, max_new_tokens=4, mask_token_id=MASK), expected)
    model.generation_config.mask_token_id = MASK
    assert torch.equal(model.generate(PROMPT, max_new_tokens=4), expected)


def test_a_streamer_takes_one_sequence(llada: torch.nn.Module, tokenizer: object) -> None:
    for knobs in ({"inputs": PAIR}, {"inputs": PROMPT, "num_return_sequences": 2, "temperature": 1.0}):
        with pytest.raises(ValueError, match="`streamer` takes one sequence, got a batch of 2"):
            llada.generate(streamer=TextStreamer(tokenizer), max_new_tokens=2, **knobs)
