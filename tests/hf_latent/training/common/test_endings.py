"""A model that is never shown how a text ends is not trained in silence."""

import logging
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_latent import LatentTokenForCausalLM, LatentTokenForMaskedDiffusion
from hf_latent.training import (
    LatentTokenTrainer,
    LatentTokenTrainingConfig,
    MaskedDiffusionConfig,
    MaskedDiffusionTrainer,
)

TURN = "{% for m in messages %}<|im_start|>{{m['role']}}\n"
OPEN = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHAT = [{"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "yo"}]}] * 4
MESSAGES = [{"messages": [*CHAT[0]["prompt"], *CHAT[0]["completion"]]}] * 4


def tokenizer_with(template: str) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<mask>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, special_tokens=special, initial_alphabet=alphabet)
    core.train_from_iterator(["a"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", mask_token="<mask>"
    )
    tokenizer.chat_template = template
    return tokenizer


@pytest.fixture(params=["masked", "causal"])
def warnings_of(request: pytest.FixtureRequest, tmp_path: Any, caplog: Any) -> Any:
    """What is said when a trainer is made for rows under a chat template."""

    def warn(rows: list[dict[str, Any]], template: str = "", stops: Any = 2, **arguments: Any) -> str:
        tokenizer = tokenizer_with(template)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=128, eos_token_id=stops, bos_token_id=1, pad_token_id=0,
        )  # fmt: skip
        torch.manual_seed(0)
        is_causal = request.param == "causal"
        kind = LatentTokenForCausalLM if is_causal else LatentTokenForMaskedDiffusion
        trainer_class = LatentTokenTrainer if is_causal else MaskedDiffusionTrainer
        config_class = LatentTokenTrainingConfig if is_causal else MaskedDiffusionConfig
        model = kind.from_backbone(LlamaForCausalLM(config), tokenizer)
        args = config_class(
            str(tmp_path), report_to="none", disable_tqdm=True, bf16=False, use_cpu=True, max_steps=1, **arguments
        )
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="hf_latent"):
            trainer_class(model, args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
        return " ".join(record.getMessage() for record in caplog.records if "end-of-sequence" in record.getMessage())

    return warn


def test_a_turn_that_ends_with_another_token_is_named_with_the_fixes(warnings_of: Any) -> None:
    """After such a run `generate` had no reason to stop, and wrote to the end of the canvas."""
    template = f"{TURN}{{{{m['content']}}}}<|im_end|>\n{{% endfor %}}{OPEN}"
    said = warnings_of(CHAT, template)
    assert (
        "'</s>' (2)" in said and "eos_token='<|im_end|>'" in said and "generation_config.eos_token_id = [2, 5]" in said
    )
    assert not warnings_of(CHAT, template, eos_token="<|im_end|>")
    assert not warnings_of(CHAT, template, stops=[2, 5])
    assert not warnings_of(CHAT, template.replace("<|im_end|>", "</s>"))


def test_an_assistant_mask_that_leaves_the_end_out_is_named(warnings_of: Any) -> None:
    turn = "{% if m['role'] == 'assistant' %}{% generation %}{{m['content']}}{% endgeneration %}</s>"
    template = f"{TURN}{turn}{{% else %}}{{{{m['content']}}}}</s>{{% endif %}}{{% endfor %}}{OPEN}"
    assert "right behind the supervised tokens" in warnings_of(MESSAGES, template, assistant_only_loss=True)
    closed = template.replace("{% endgeneration %}</s>", "</s>{% endgeneration %}")
    assert not warnings_of(MESSAGES, closed, assistant_only_loss=True)


def test_rows_without_an_end_are_named(warnings_of: Any) -> None:
    ids = [7, 8, 9, 10]
    rows = [{"input_ids": ids, "labels": [-100, *ids[1:]]}] * 4
    assert "append the eos token" in warnings_of(rows)
    assert not warnings_of([{"input_ids": [*ids, 2], "labels": [-100, *ids[1:], 2]}] * 4)
    assert "behind" in warnings_of([{"input_ids": [*ids, 2], "labels": [*ids, -100]}] * 4)
    assert not warnings_of([{"prompt": "1+1", "completion": "2"}] * 4)  # trl appends it
    assert "max_length" in warnings_of([{"prompt": "1+1", "completion": "2222222222"}] * 4, max_length=6)


def test_padding_with_eos_teaches_the_end(tmp_path: Any, warnings_of: Any, request: pytest.FixtureRequest) -> None:
    if "masked" in request.node.name:  # left to right, padding is not predicted
        assert not warnings_of([{"input_ids": [7, 8], "labels": [7, 8]}] * 4, pad_completion_with_eos="max_length")
