"""Text of several tokens is shown as text, wherever tokens are shown one by one."""

import json
import re

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from hf_latent import DiffusionGenerateOutput
from hf_latent.app.drawing import draw_panel
from hf_latent.app.stepwise_generation import Snapshot
from hf_latent.viz import replay_of, write_replay
from hf_latent.viz.spelling import Speller, bytes_of, token_text

PAD, BOS, EOS, MASK = range(4)
TEXTS = [
    "q: \U0001f600 \u6f22 \u00e9 ",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "\U0001f1e9\U0001f1ea!",
    "\u0928\u092e\u0938\u094d\u0924\u0947",
    "a\ufffdb",
    "e\u0301",
]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, a token a byte."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<s>", "</s>", "<mask>"]
    core.train_from_iterator(
        ["a"], trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


@pytest.fixture(scope="module")
def fallback() -> PreTrainedTokenizerFast:
    """As sentencepiece has it: words, and bytes by name for what is none."""
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, "<mask>": 3, "\u2581a": 4, "b": 5}
    vocabulary |= {f"<0x{byte:02X}>": 6 + byte for byte in range(256)}
    core = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    core.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=core, mask_token="<mask>", eos_token="</s>")


@pytest.mark.parametrize("text", TEXTS)
def test_the_texts_of_all_positions_are_the_text(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    texts = Speller(tokenizer).texts(ids)
    assert len(texts) == len(ids) > len(text) - 1
    if "\ufffd" not in text:
        assert "".join(texts) == text
    else:  # the sign of a broken character is a whole one here; its bytes say so
        assert "".join(texts) == "a<0xEF><0xBF><0xBD>b"


def test_a_part_is_its_bytes_until_the_rest_is_there(tokenizer):
    """Never letters of the byte alphabet; neither a mask nor a special token is part of a character."""
    ids = tokenizer("\U0001f600")["input_ids"]
    speller = Speller(tokenizer, {MASK, EOS})
    bytes_ = ["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert speller.texts(ids) == ["\U0001f600", "", "", ""]
    assert speller.texts([*ids[:2], MASK, ids[3]]) == [*bytes_[:2], "<mask>", bytes_[3]]
    assert speller.texts([*ids[:3], EOS, *ids]) == [*bytes_[:3], "</s>", "\U0001f600", "", "", ""]
    assert speller.texts([*ids[:2], -1, *ids[3:]]) == [*bytes_[:2], "", bytes_[3]]
    assert token_text(tokenizer, ids[0]) == "<0xF0>"
    assert bytes_of("<0xE2>") == "<0xE2>" and bytes_of("\u2581word") == "\u2581word"


def test_bytes_by_name_are_text_beside_each_other(fallback):
    ids = [4, *(6 + byte for byte in "\u6f22".encode()), 5, 6 + 0xE2]
    assert Speller(fallback).texts(ids) == [" a", "\u6f22", "", "", "b", "<0xE2>"]


@pytest.fixture
def output(tokenizer):
    """`[BOS] q` is given; 漢 is written from its last byte to its first, each proposed before."""
    ids = [BOS, *tokenizer("q")["input_ids"], *tokenizer("\u6f22")["input_ids"], EOS]
    steps = torch.tensor([[-1, -1, 2, 1, 0, 2]])
    sequence = torch.tensor([ids])
    history = tuple(sequence.masked_fill(steps > k, MASK) for k in range(3))
    candidates = tuple(torch.where(steps >= k, sequence, -1) for k in range(3))
    return DiffusionGenerateOutput(
        sequences=sequence,
        num_forward_passes=torch.tensor([3]),
        commit_step=steps,
        history=history,
        candidate_history=candidates,
        confidence_history=tuple(torch.full(sequence.shape, 0.5) for _ in range(3)),
    )


def test_the_page_shows_characters(tokenizer, output, tmp_path):
    """At every forward: what is written beside what is written, what is proposed beside both."""
    replay = replay_of(output, 0, tokenizer, name="x", settings={}, input_ids=output.sequences[0, :2])
    assert replay.sequence == output.sequences[0].tolist()  # ids of the tokenizer, for whoever decodes them
    page = write_replay([replay], tmp_path / "page.html", "x").read_text(encoding="utf-8")
    found = re.search(r'<script id="replay-data" type="application/json">(.*?)</script>', page, re.S)
    data = json.loads(found.group(1))["replays"][0]

    def shown(ids):
        return [data["texts"].get(str(i), "·") for i in ids]

    assert shown(data["sequence"]) == ["<s>", "q", "\u6f22", "", "", "</s>"]
    assert [shown(ids) for ids in data["canvas"]] == [
        ["<s>", "q", "<mask>", "<mask>", "<0xA2>", "<mask>"],
        ["<s>", "q", "<mask>", "<0xBC>", "<0xA2>", "<mask>"],
        ["<s>", "q", "\u6f22", "", "", "</s>"],
    ]
    assert [shown(ids) for ids in data["candidates"]] == [
        ["·", "·", "\u6f22", "", "", "</s>"],
        ["·", "·", "\u6f22", "", "·", "</s>"],
        ["·", "·", "\u6f22", "·", "·", "</s>"],
    ]
    assert data["mask_token_id"] in data["canvas"][0]


def test_the_app_shows_characters(tokenizer):
    ids = tokenizer("\u6f22\u00e9")["input_ids"]
    speller = Speller(tokenizer, {MASK})
    now = Snapshot([*ids, MASK], [-1, -1, -1, 0, 0, -1], [None] * 6, [-1] * 6, num_forwards=1)
    options = {"mask_token_id": MASK, "given": [True] * 3, "spell": speller.texts}
    boxes = re.findall(r'class="hl-token"[^>]*>([^<]*)<', draw_panel("x", {}, now, speller.text, **options))
    assert boxes == ["\u6f22", "", "", "\u00e9", "", "·"]
