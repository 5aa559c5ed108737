"""Autoregressive models with latent tokens: exact with a cache, the decoder itself without, and all that users do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import DynamicCache, LogitsProcessorList, PreTrainedTokenizerFast, TextGenerationPipeline
from transformers.generation.streamers import BaseStreamer

from hf_latent.modeling.latent_token.lookahead import causal_stream, lookahead_groups

MASK, EOS, PAD = 63, 61, 62
FAMILIES = ["llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "gpt2"]
# Logits reach 15 to 29, whose last bit in float32 is 1e-6 to 2e-6, and sums in another order differ by tens of bits;
# one more mask in sight moves the logits of every position by 0.15 and more.
ROUNDING = {"atol": 5e-5, "rtol": 1e-5}
KNOBS: dict[str, Any] = {"eos_token_id": None, "pad_token_id": PAD, "max_new_tokens": 6}


def batch(*rows: list[int]) -> dict[str, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


ROWS = batch([5, 9, 2, 30, 7, 41, 3], [11, 12, 13, 14])

PLACES = (ROWS["attention_mask"].cumsum(-1) - 1).clamp(min=0)


@pytest.fixture(scope="module")
def model(make_latent_token: Callable[..., Any]) -> Any:
    return make_latent_token("left_to_right")


# Exactness


def brute_force(model: Any, ids: torch.Tensor, exists: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Logits `(B, T, V)` and latent logits `(B, T, K, V)` of one forward of the text and all groups behind it, whose mask
    is made pair by pair.
    """
    batch_size, length = ids.shape
    text_position = (exists.long().cumsum(-1) - 1).clamp(min=0)
    columns = [("text", i, 0) for i in range(length)] + [("group", s, j) for s in range(length) for j in range(k + 1)]
    contents = torch.stack([ids[:, i] if j == 0 else torch.full_like(ids[:, i], MASK) for _, i, j in columns], -1)
    position = torch.stack([text_position[:, i] + j for _, i, j in columns], -1)
    if model.position_limit is not None:
        position = position.clamp(max=model.position_limit - 1)

    def mask(window: int | None) -> torch.Tensor:
        made = torch.full((batch_size, 1, len(columns), len(columns)), torch.finfo(torch.float32).min)
        index_in_window, there = (text_position.tolist(), exists.tolist())
        for b in range(batch_size):
            for q, (kind, i, j) in enumerate(columns):
                for c, (other, s, t) in enumerate(columns):
                    if other == "text":
                        sees = there[b][i] and there[b][s] and (s <= i if kind == "text" else s < i)
                    else:
                        sees = kind == "group" and i == s
                    if window is not None and abs(index_in_window[b][i] + j - index_in_window[b][s] - t) >= window:
                        sees = False
                    if sees or q == c:
                        made[b, 0, q, c] = 0
        return made

    config = model.model.config
    window, kinds = getattr(config, "sliding_window", None), set(getattr(config, "layer_types", None) or ())
    prepared: Any = mask(None if kinds else window)
    if "sliding_attention" in kinds:
        prepared = {"full_attention": mask(None), "sliding_attention": mask(window)}
    states = model.model(contents, attention_mask=prepared, position_ids=position, use_cache=False).last_hidden_state
    logits = model.project(states[:, length:].unflatten(1, (length, k + 1)))
    return logits[:, :, 0], logits[:, :, 1:]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("k", [1, 3])
def test_forwards_with_and_without_a_cache_give_the_logits_of_one_full_forward(
    family: str, k: int, make_latent_token: Callable[..., Any]
) -> None:
    model = make_latent_token("left_to_right", family)
    ids, exists = ROWS["input_ids"], ROWS["attention_mask"].bool()
    next_logits, latent_logits = brute_force(model, ids, exists, k)
    out = model(**ROWS, num_latent_tokens=k, output_latent_logits=True)
    torch.testing.assert_close(out.logits[exists], next_logits[exists], **ROUNDING)
    torch.testing.assert_close(out.latent_logits[exists], latent_logits[exists], **ROUNDING)
    cache, kept = DynamicCache(), []
    for start, end in ((0, 3), (3, 4), (4, 6), (6, 7)):
        out = model(
            ids[:, start:end],
            attention_mask=exists[:, :end].long(),
            past_key_values=cache,
            use_cache=True,
            num_latent_tokens=k,
            output_latent_logits=True,
        )
        here = exists[:, start:end]
        torch.testing.assert_close(out.logits[here], next_logits[:, start:end][here], **ROUNDING)
        torch.testing.assert_close(out.latent_logits[here], latent_logits[:, start:end][here], **ROUNDING)
        keys = [layer.keys for layer in cache.layers]
        assert keys[0].shape[2] == end
        for mine, earlier in zip(keys if kept else [], kept, strict=True):
            assert torch.equal(mine[:, :, :start], earlier)
        kept = [layer.keys.clone() for layer in cache.layers]


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_without_latent_tokens_it_is_the_decoder(
    family: str, make_latent_token: Callable[..., Any], make_decoder: Callable[..., Any]
) -> None:
    model, decoder = make_latent_token("left_to_right", family), make_decoder(family)
    exists = ROWS["attention_mask"].bool()
    expected = decoder(**ROWS, position_ids=PLACES).logits
    assert torch.equal(model(**ROWS).logits, expected)
    ids = model.generate(**ROWS, num_latent_tokens=0, **KNOBS)
    assert torch.equal(ids, decoder.generate(**ROWS, **KNOBS))
    # The copy that predicts, alone in its group, is the token itself.
    states = model.look_ahead(**ROWS, num_latent_tokens=0)
    torch.testing.assert_close(states.next[exists], states.text[exists], **ROUNDING)
    logits = model.project(states.text)[exists]
    torch.testing.assert_close(logits, expected[exists], **ROUNDING)


@torch.no_grad()
@pytest.mark.parametrize("use_cache", [None, True])
def test_the_cache_holds_the_text_and_no_mask(model: Any, use_cache: bool | None) -> None:
    """Left to the decoder's own default, it kept what the masks left there."""
    out = model(**ROWS, num_latent_tokens=2, use_cache=use_cache)
    plain = model(**ROWS, past_key_values=DynamicCache(), use_cache=True)
    for mine, other in zip(out.past_key_values.layers, plain.past_key_values.layers, strict=True):
        exists = ROWS["attention_mask"].bool()[:, None, :, None].expand_as(mine.keys)
        assert mine.keys.shape == other.keys.shape
        torch.testing.assert_close(mine.keys[exists], other.keys[exists], **ROUNDING)
        torch.testing.assert_close(mine.values[exists], other.values[exists], **ROUNDING)
    assert model(**ROWS, num_latent_tokens=2, use_cache=False).past_key_values is None


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text"])
def test_nothing_sees_the_future(family: str, make_latent_token: Callable[..., Any]) -> None:
    """The gradient with respect to a later token is exactly zero, to an earlier one within the window it is not."""
    model = make_latent_token("left_to_right", family)
    embeddings = model.get_input_embeddings()(torch.tensor([[5, 9, 2, 30, 7, 41]])).detach().requires_grad_()
    for column in range(6):
        out = model(inputs_embeds=embeddings, num_latent_tokens=2, output_latent_logits=True)
        for logits in (out.logits[0, column], *out.latent_logits[0, column]):
            (gradient,) = torch.autograd.grad(logits.square().sum(), embeddings, retain_graph=True)
            seen = gradient[0].abs().amax(-1)
            assert (seen[column + 1 :] == 0).all() and (seen[max(0, column - 1) : column + 1] > 0).all()


@torch.no_grad()
def test_latent_tokens_are_seen_by_what_is_predicted(model: Any) -> None:
    """They let the model look ahead: their number changes the prediction."""
    one, two = (model(**ROWS, num_latent_tokens=k).logits for k in (1, 2))
    assert ((one - two).abs().amax(-1) > 1e-4)[ROWS["attention_mask"].bool()].all()


def test_masks_stand_at_the_last_position_of_a_table() -> None:
    text = causal_stream(torch.ones(1, 4, dtype=torch.bool), torch.arange(4)[None])
    behind = lookahead_groups(text, torch.tensor([[1, 3]]), 2, max_positions=4)
    assert behind.position.tolist() == [[1, 2, 3, 3, 3, 3]]
    assert behind.group.tolist() == [[0, 0, 0, 1, 1, 1]] and behind.visible_until.tolist() == [[1, 1, 1, 3, 3, 3]]


def test_documents_of_a_row_do_not_see_each_other() -> None:
    """Also where one begins with padding: its tokens saw the last one of the document before."""
    exists = torch.tensor([[True, True, False, True, True]])
    text = causal_stream(exists, torch.arange(5)[None], torch.tensor([[0, 0, 1, 1, 1]]))
    assert text.visible_from.tolist() == [[0, 0, 0, 2, 2]] and text.visible_until.tolist() == [[1, 2, 0, 3, 4]]


@torch.no_grad()
def test_padding_makes_no_nan(model: Any) -> None:
    inputs = {"input_ids": torch.full((2, 4), PAD), "attention_mask": torch.tensor([[0, 0, 0, 0], [0, 0, 0, 1]])}
    out = model(**inputs, num_latent_tokens=2, output_latent_logits=True)
    assert out.logits.isfinite().all() and out.latent_logits.isfinite().all()


# `generate`


def greedy(model: Any, row: list[int], k: int) -> list[int]:
    """Without any cache, one token at a time."""
    ids = torch.tensor([row])
    for _ in range(KNOBS["max_new_tokens"]):
        with torch.no_grad():
            logits = model(ids, num_latent_tokens=k, logits_to_keep=1, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
    return ids[0, len(row) :].tolist()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("k", [1, 4])
def test_a_batch_writes_what_its_rows_write_alone(family: str, k: int, make_latent_token: Callable[..., Any]) -> None:
    model = make_latent_token("left_to_right", family)
    out = model.generate(**ROWS, num_latent_tokens=k, **KNOBS)
    for i, row in enumerate(([5, 9, 2, 30, 7, 41, 3], [11, 12, 13, 14])):
        assert out[i, 7:].tolist() == greedy(model, row, k)


@pytest.mark.parametrize(
    "knobs",
    [
        {"num_beams": 3},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "temperature": 1.3, "top_k": 20, "num_return_sequences": 3},
        {"repetition_penalty": 1.4},
        {"max_length": 12, "max_new_tokens": None},
    ],
    ids=str,
)
def test_what_generate_does_is_the_same_with_and_without_a_cache(model: Any, knobs: dict[str, Any]) -> None:
    outputs = []
    for use_cache in (True, False):
        torch.manual_seed(3)
        outputs.append(model.generate(**ROWS, num_latent_tokens=2, use_cache=use_cache, **KNOBS | knobs))
    assert torch.equal(*outputs)
    assert len(outputs[0]) == 2 * knobs.get("num_return_sequences", 1)


def test_the_number_of_the_configuration_is_the_default(make_latent_token: Callable[..., Any]) -> None:
    model = make_latent_token("left_to_right")
    model.config.num_latent_tokens = 3
    assert torch.equal(model.generate(**ROWS, **KNOBS), model.generate(**ROWS, num_latent_tokens=3, **KNOBS))
    with pytest.raises(ValueError, match="`num_latent_tokens` must be an integer of at least 0 here, got -1"):
        model.generate(**ROWS, num_latent_tokens=-1)


@pytest.mark.parametrize("name", ["past_key_values", "cache"])  # since transformers 5.24 the second
def test_a_cache_serves_the_next_turn(model: Any, name: str) -> None:
    first = model.generate(**ROWS, num_latent_tokens=2, return_dict_in_generate=True, **KNOBS)
    ids = torch.cat([first.sequences, torch.tensor([[4, 5], [6, 7]])], dim=1)
    mask = torch.cat([ROWS["attention_mask"], torch.ones(2, 8, dtype=torch.long)], dim=1)
    for k in (2, 0):  # the text's keys do not depend on the number
        again = model.generate(**ROWS, num_latent_tokens=2, return_dict_in_generate=True, **KNOBS)
        past = {name: again.past_key_values}
        on = model.generate(ids, attention_mask=mask, **past, num_latent_tokens=k, **KNOBS)
        assert torch.equal(on, model.generate(ids, attention_mask=mask, num_latent_tokens=k, **KNOBS))


def test_two_caches_are_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="`cache` and `past_key_values` are two names of one argument"):
        model(**ROWS, past_key_values=DynamicCache(), cache=DynamicCache())


class Recorder(BaseStreamer):
    tokens: list[int]

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None: ...


def test_streamers_and_processors_are_asked(model: Any) -> None:
    class OnlyEven:
        def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores.index_fill(-1, torch.arange(1, scores.shape[-1], 2), float("-inf"))

    streamer = Recorder()
    streamer.tokens = []
    out = model.generate(
        torch.tensor([[5, 6]]),
        num_latent_tokens=2,
        streamer=streamer,
        logits_processor=LogitsProcessorList([OnlyEven()]),
        **KNOBS,
    )
    assert streamer.tokens == out[0].tolist() and all(token % 2 == 0 for token in out[0, 2:].tolist())


def test_pipelines_and_adapters_hand_the_number_on(make_latent_token: Callable[..., Any], tmp_path: Path) -> None:
    model = make_latent_token("left_to_right")
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(64)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w61", pad_token="w62")
    expected = model.generate(torch.tensor([[5, 6, 7]]), num_latent_tokens=2, **KNOBS)[0].tolist()
    pipeline = TextGenerationPipeline(model=model, tokenizer=tokenizer)
    (answer,) = pipeline("w5 w6 w7", num_latent_tokens=2, return_tensors=True, do_sample=False, **KNOBS)
    assert answer["generated_token_ids"] == expected
    model_ids = model.generate(**ROWS, num_latent_tokens=2, **KNOBS)[1].tolist()
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = get_peft_model(model, config).eval()
    ids = adapted.generate(**ROWS, num_latent_tokens=2, **KNOBS)
    adapted.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(make_latent_token("left_to_right"), tmp_path).eval()
    assert torch.equal(again.generate(**ROWS, num_latent_tokens=2, **KNOBS), ids)
    assert ids[1].tolist() != model_ids


# Training and what is refused


@pytest.mark.parametrize("k", [0, 2])
def test_labels_are_shifted(model: Any, k: int) -> None:
    labels = ROWS["input_ids"].masked_fill(ROWS["attention_mask"] == 0, -100)
    out = model(**ROWS, labels=labels, num_latent_tokens=k)
    expected = F.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    torch.testing.assert_close(out.loss, expected)


def test_checkpointing_gives_the_same_gradients(make_latent_token: Callable[..., Any]) -> None:
    gradients = []
    for is_checkpointed in (False, True):
        model = make_latent_token("left_to_right").train()
        if is_checkpointed:
            model.gradient_checkpointing_enable()
        model(**ROWS, labels=ROWS["input_ids"], num_latent_tokens=2).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


@pytest.mark.parametrize("k", [0, 2])
def test_the_forward_compiles_into_one_graph(model: Any, k: int) -> None:
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    kwargs = ROWS | {"num_latent_tokens": k, "use_cache": False}
    torch.testing.assert_close(compiled(**kwargs).logits, model(**kwargs).logits)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"attention_mask": torch.ones(2, 5)}, r"`attention_mask` must have shape \(2, 7\), .*got \(2, 5\)"),
        ({"attention_mask": torch.zeros(2, 1, 7, 7)}, r"`num_latent_tokens`=2 takes an `attention_mask` of \(B, L\)"),
        ({"logits_to_keep": torch.ones(2, 7, dtype=torch.bool)}, "`logits_to_keep` must be a number or a 1-D index"),
        ({"targets": torch.tensor([1])}, "and no `targets`"),
    ],
    ids=["mask", "4-D mask", "logits", "targets"],
)
def test_what_latent_tokens_do_not_take_is_refused(model: Any, kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(ROWS["input_ids"], num_latent_tokens=2, **kwargs)
