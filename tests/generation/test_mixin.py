"""`generate` where others call it: pipelines, peft, custom decoders, streamers, processors, half precision."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    RepetitionPenaltyLogitsProcessor,
    TextDiffusionStreamer,
    TextIteratorStreamer,
    TextStreamer,
    pipeline,
)
from transformers.generation.streamers import BaseStreamer

from hf_latent import DiffusionGenerateOutput, DiffusionGenerationConfig

EOS, PAD, MASK = 45, 46, 47
PROMPT = torch.tensor([[1, 2, 3]])


def test_a_call_returns_ids_or_an_output(model: torch.nn.Module) -> None:
    ids = model.generate(PROMPT, max_new_tokens=4)
    assert ids.dtype == torch.int64
    out = model.generate(input_ids=PROMPT, max_new_tokens=4, return_dict_in_generate=True)
    assert isinstance(out, DiffusionGenerateOutput)
    assert torch.equal(out.sequences, ids)
    assert out.commit_step.shape == out.commit_entropy.shape == ids.shape
    assert out.num_forward_passes.shape == out.tokens_per_forward.shape == (1,)
    assert out.history is None


def test_models_are_generation_mixins(model: torch.nn.Module) -> None:
    """What pipelines, peft and trl look for."""
    assert isinstance(model, GenerationMixin)
    assert model.can_generate()


def test_generating_leaves_inputs_and_gradients_alone(model: torch.nn.Module) -> None:
    ids = torch.tensor([[1, MASK, 3, MASK]])
    before = ids.clone()
    assert not model.infill(ids).requires_grad
    assert torch.equal(ids, before)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models_generate(make_model: Callable, dtype: torch.dtype) -> None:
    """Statistics are float32 whatever the model; in half precision a threshold of 0.9 is met by 0.8965."""
    model = make_model("llada").to(dtype)
    for knobs in ({}, {"cfg_scale": 1.0}, {"temperature": 0.8, "seed": 0, "top_p": 0.9}, {"decoding": "med"}):
        out = model.generate(PROMPT, max_new_tokens=6, eos_token_id=None, return_dict_in_generate=True, **knobs)
        assert MASK not in out.sequences
        assert out.commit_entropy.dtype == torch.float32
        assert torch.isfinite(out.commit_entropy[:, 3:]).all()


def test_generation_runs_in_inference_mode(llada: torch.nn.Module) -> None:
    with torch.inference_mode():
        out = llada.generate(PROMPT, max_new_tokens=4)
    assert torch.equal(out.clone(), llada.generate(PROMPT, max_new_tokens=4))


def test_several_sequences_of_a_prompt_stand_next_to_each_other(llada: torch.nn.Module) -> None:
    pair = torch.tensor([[1, 2, 3], [4, 5, 6]])
    knobs = {"max_new_tokens": 6, "temperature": 1.5, "seed": 0, "eos_token_id": None}
    out = llada.generate(pair, num_return_sequences=3, **knobs)
    assert out[:, :3].tolist() == [[1, 2, 3]] * 3 + [[4, 5, 6]] * 3
    assert len(set(map(tuple, out.tolist()))) == 6, "odds of equal rows: some 1e-6"
    assert torch.equal(out, llada.generate(pair.repeat_interleave(3, 0), **knobs))
    knobs = {"max_new_tokens": 8, "seed": 0, "return_dict_in_generate": True}
    ordered = llada.generate(PROMPT, num_return_sequences=2, decoding="random", **knobs)
    assert ordered.commit_step[0].tolist() != ordered.commit_step[1].tolist()


# Logits processors.


class Allow:
    """A processor of ten lines: only some tokens, and a note of what it was shown."""

    def __init__(self, tokens: list[int]) -> None:
        self.tokens, self.seen = tokens, []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.seen.append((input_ids.clone(), scores.clone()))
        return torch.full_like(scores, -torch.inf).index_copy(-1, torch.tensor(self.tokens), scores[:, self.tokens])


def test_logits_processors_shape_what_is_written(model: torch.nn.Module) -> None:
    allow = Allow([5, 6, 7])
    out = model.generate(PROMPT, max_new_tokens=5, block_length=2, logits_processor=LogitsProcessorList([allow]))
    assert set(out[0, 3:].tolist()) <= {5, 6, 7}
    ids, scores = allow.seen[0]
    assert ids.tolist() == [[1, 2, 3] + [MASK] * 5] * 2
    assert scores.shape == (2, 48)
    assert (scores[:, MASK] == -torch.inf).all()
    plain = model.generate(PROMPT, max_new_tokens=5, block_length=2, logits_processor=[Allow([5, 6, 7])])
    assert torch.equal(plain, out)


def test_a_processor_sees_no_padding(llada: torch.nn.Module) -> None:
    """A penalty on what is in the text counted it: a padded row decoded otherwise than alone."""
    allow = Allow(list(range(45)))
    ids, mask = torch.tensor([[PAD, PAD, 1], [1, 2, 3]]), torch.tensor([[0, 0, 1], [1, 1, 1]])
    llada.generate(ids, attention_mask=mask, max_new_tokens=2, logits_processor=[allow])
    assert allow.seen[0][0][0].tolist() == [MASK, MASK, 1, MASK, MASK]


def test_repetition_penalty_is_transformers_own(llada: torch.nn.Module) -> None:
    knobs = {"max_new_tokens": 12, "eos_token_id": None}
    out = llada.generate(PROMPT, repetition_penalty=3.0, **knobs)
    processors = [RepetitionPenaltyLogitsProcessor(3.0)]
    assert torch.equal(out, llada.generate(PROMPT, logits_processor=processors, **knobs))
    assert out[0].unique().numel() > llada.generate(PROMPT, **knobs)[0].unique().numel()


@pytest.mark.parametrize("decoding", ["low_confidence", "entropy", "margin"])
def test_suppressed_tokens_are_not_written_and_deferred_ones_not_first(llada: torch.nn.Module, decoding: str) -> None:
    knobs = {"max_new_tokens": 10, "decoding": decoding, "eos_token_id": None, "return_dict_in_generate": True}
    out = llada.generate(PROMPT, **knobs)
    first = out.sequences[out.commit_step == 0].item()
    assert first not in llada.generate(PROMPT, suppress_tokens=[first], **knobs).sequences[0, 3:]
    deferred = llada.generate(PROMPT, deferred_tokens=[first], **knobs)
    assert deferred.sequences[deferred.commit_step == 0].item() != first
    everything = llada.generate(PROMPT, deferred_tokens=list(range(47)), **knobs)
    assert sorted(everything.commit_step[0, 3:].tolist()) == list(range(10)), "deferred, not suppressed"


# Streaming.


class Recorder(BaseStreamer):
    """Writes down what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[int]]] = []

    def put(self, value: torch.Tensor) -> None:
        self.calls.append(("put", value.flatten().tolist()))

    def put_draft(self, value: torch.Tensor) -> None:
        self.calls.append(("draft", value.flatten().tolist()))

    def end(self) -> None:
        self.calls.append(("end", []))


def final(recorder: Recorder) -> list[int]:
    return [token for name, value in recorder.calls if name == "put" for token in value]


@pytest.mark.parametrize(
    "knobs", [{}, {"block_length": 3}, {"decoding": "med", "block_length": 4}, {"temperature": 1.0}]
)
@pytest.mark.parametrize("eos_token_id", [None, list(range(0, 46, 4))])
def test_a_streamer_gets_every_token_once_and_drafts_between(
    model: torch.nn.Module, knobs: dict, eos_token_id: list[int] | None
) -> None:
    """And streaming changes nothing of the result."""
    knobs = knobs | {"max_new_tokens": 8, "eos_token_id": eos_token_id, "seed": 1}
    recorder = Recorder()
    out = model.generate(PROMPT, streamer=recorder, return_dict_in_generate=True, output_history=True, **knobs)
    assert torch.equal(out.sequences, model.generate(PROMPT, **knobs))
    assert recorder.calls[0] == ("put", [1, 2, 3])
    assert recorder.calls[-1] == ("end", [])
    assert final(recorder) == out.sequences[0].tolist()
    assert MASK not in final(recorder)
    histories = [canvas[0].tolist() for canvas in out.history]
    sent = 0
    for name, value in recorder.calls[:-1]:
        if name == "put":
            sent += len(value)
        else:
            assert any(value == canvas[sent : sent + len(value)] for canvas in histories)
            assert MASK in value
            assert len(value) <= knobs.get("block_length", 8)


def test_infilled_text_is_streamed_from_its_first_mask(llada: torch.nn.Module) -> None:
    for ids in ([[1, MASK, 2, MASK, 3]], [[MASK, 1, MASK]]):
        recorder = Recorder()
        out = llada.infill(torch.tensor(ids), streamer=recorder)
        assert final(recorder) == out[0].tolist()
        assert recorder.calls[0] == ("put", ids[0][: ids[0].index(MASK)])


def test_transformers_streamers_print_the_text(
    llada: torch.nn.Module, tokenizer: PreTrainedTokenizerFast, capsys: pytest.CaptureFixture
) -> None:
    knobs = {"max_new_tokens": 6, "block_length": 3, "eos_token_id": None}
    text = tokenizer.decode(llada.generate(PROMPT, **knobs)[0, 3:])
    llada.generate(PROMPT, streamer=TextStreamer(tokenizer, skip_prompt=True), **knobs)
    assert capsys.readouterr().out.strip() == text
    llada.generate(PROMPT, streamer=TextDiffusionStreamer(tokenizer, skip_prompt=True), **knobs)
    drawn = capsys.readouterr().out
    assert drawn.count("\033[33m") == 4, "two drafts a block; its last step is final"
    assert "<mask>" in drawn
    iterator = TextIteratorStreamer(tokenizer, skip_prompt=True)
    llada.generate(PROMPT, streamer=iterator, **knobs)
    assert "".join(iterator).strip() == text


# Those who call us.


def test_a_pipeline_generates_singly_and_in_batches(make_model: Callable, tokenizer: PreTrainedTokenizerFast) -> None:
    """The batch is padded on the left by the pipeline; a row reads the same as alone."""
    model = make_model("llada")
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    knobs = {"max_new_tokens": 6, "do_sample": False, "block_length": 3, "return_full_text": False}
    texts = ["w1 w2 w3", "w4", "w5 w6"]
    expected = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")
        out = model.generate(**ids, max_new_tokens=6, block_length=3)[0, ids["input_ids"].shape[1] :]
        expected.append(tokenizer.decode(out, skip_special_tokens=True))
    assert [pipe(text, **knobs)[0]["generated_text"] for text in texts] == expected
    assert [out[0]["generated_text"] for out in pipe(texts, batch_size=3, **knobs)] == expected


def test_a_pipeline_chats(make_model: Callable, tokenizer: PreTrainedTokenizerFast) -> None:
    pipe = pipeline("text-generation", model=make_model("dream"), tokenizer=tokenizer)
    chat = [{"role": "user", "content": "w7 w8"}]
    reply = pipe(chat, max_new_tokens=5, do_sample=False)[0]["generated_text"]
    assert reply[0] == chat[0]
    assert reply[1]["role"] == "assistant"
    ids = tokenizer("w1 w7 w8 w2", return_tensors="pt")["input_ids"]
    answer = pipe.model.generate(ids, max_new_tokens=5)[0, 4:]
    assert reply[1]["content"].strip() == tokenizer.decode(answer, skip_special_tokens=True)


def test_a_pipeline_samples_unless_told_otherwise(make_model: Callable, tokenizer: PreTrainedTokenizerFast) -> None:
    """transformers' own default for text generation: 0.7, unasked. A model card has to say so."""
    model = make_model("llada")
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, max_new_tokens=6, return_tensors=True)
    sampled = model.generate(PROMPT, max_new_tokens=6, temperature=0.7, seed=5)[0].tolist()
    greedy = model.generate(PROMPT, max_new_tokens=6)[0].tolist()
    assert sampled != greedy
    assert pipe("w1 w2 w3", seed=5)[0]["generated_token_ids"] == sampled
    assert pipe("w1 w2 w3", do_sample=False)[0]["generated_token_ids"] == greedy
    model.generation_config.do_sample = False
    assert pipe("w1 w2 w3")[0]["generated_token_ids"] == greedy, "a file that says so is greedy everywhere"


def test_a_pipeline_takes_configurations_and_lengths(make_model: Callable, tokenizer: PreTrainedTokenizerFast) -> None:
    model = make_model("llada")
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer)
    given = DiffusionGenerationConfig(max_new_tokens=4, decoding="left_to_right", do_sample=False)
    ids = tokenizer("w1 w2", return_tensors="pt")["input_ids"]
    out = pipe("w1 w2", generation_config=given, return_tensors=True)[0]["generated_token_ids"]
    assert out == model.generate(ids, max_new_tokens=4, decoding="left_to_right")[0].tolist()
    assert len(pipe("w1 w2", max_length=9, do_sample=False, return_tensors=True)[0]["generated_token_ids"]) == 9


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_peft_models_generate_and_infill(make_model: Callable, family: str) -> None:
    model = make_model(family).float()
    base = model.generate(PROMPT, max_new_tokens=6)
    adapted = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert torch.equal(adapted.generate(input_ids=PROMPT, max_new_tokens=6), base), "B starts at zero"
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    out = adapted.generate(input_ids=PROMPT, max_new_tokens=6, decoding="med", return_dict_in_generate=True)
    assert not torch.equal(out.sequences, base)
    with adapted.disable_adapter():
        assert torch.equal(adapted.generate(input_ids=PROMPT, max_new_tokens=6), base)
    assert MASK not in adapted.infill(torch.tensor([[1, MASK, 3]]))


def test_a_custom_decoder_replaces_ours(model: torch.nn.Module) -> None:
    """Its own knobs arrive where it names them; overriding `generate` with `**kwargs` swallows it silently."""
    seen = {}

    def decode(
        model: torch.nn.Module, input_ids: torch.Tensor, generation_config: GenerationConfig, shift: int = 0, **kw
    ):
        seen.update(shift=shift, max_new_tokens=generation_config.max_new_tokens)
        return input_ids + shift

    assert torch.equal(model.generate(PROMPT, custom_generate=decode, shift=2, max_new_tokens=5), PROMPT + 2)
    assert seen == {"shift": 2, "max_new_tokens": 5}


def test_row_numbers_reach_a_custom_decoder_or_are_refused(llada: torch.nn.Module) -> None:
    def decode(model: torch.nn.Module, input_ids: torch.Tensor, row_indices: list[int] | None = None, **kw):
        return input_ids + row_indices[0]

    assert torch.equal(llada.generate(PROMPT, custom_generate=decode, row_indices=[3]), PROMPT + 3)
    with pytest.raises(ValueError, match="row_indices"):
        llada.generate(PROMPT, custom_generate=lambda model, input_ids, **kw: input_ids, row_indices=[3])


def test_a_decoder_in_a_checkpoint_folder_is_used_when_trusted(make_model: Callable, tmp_path: Path) -> None:
    make_model("llada").float().save_pretrained(tmp_path)
    (tmp_path / "custom_generate").mkdir()
    code = "def generate(inputs=None, generation_config=None, *, model, **kwargs):\n    return inputs + 1\n"
    (tmp_path / "custom_generate" / "generate.py").write_text(code)
    trusted = AutoModelForCausalLM.from_pretrained(tmp_path, trust_remote_code=True)
    assert torch.equal(trusted.generate(PROMPT), PROMPT + 1)
    assert AutoModelForCausalLM.from_pretrained(tmp_path).generate(PROMPT, max_new_tokens=2).shape == (1, 5)


@pytest.mark.parametrize("argument", ["use_cache", "tokenizer", "trust_remote_code"])
def test_arguments_that_others_pass_and_that_change_nothing(llada: torch.nn.Module, argument: str) -> None:
    out = llada.generate(PROMPT, max_new_tokens=4, **{argument: None})
    assert torch.equal(out, llada.generate(PROMPT, max_new_tokens=4))
