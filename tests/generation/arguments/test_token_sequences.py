"""Transformers' knobs over sequences of tokens: those of one token are honoured, longer ones refused."""

import json
from typing import Any

import pytest
import torch

PROMPT = torch.tensor([[3, 9, 4]])
KNOBS: dict[str, Any] = {"max_new_tokens": 6, "eos_token_id": None}


def test_bad_words_of_one_token_are_never_written(llada: torch.nn.Module) -> None:
    """As `suppress_tokens` has it, beside which they may be given."""
    free = llada.generate(PROMPT, **KNOBS)[0, 3:].tolist()
    bad = sorted({*free})
    out = llada.generate(PROMPT, bad_words_ids=[[token] for token in bad], **KNOBS)
    assert torch.equal(out, llada.generate(PROMPT, suppress_tokens=bad, **KNOBS))
    assert not {*out[0, 3:].tolist()} & {*bad}
    assert torch.equal(out, llada.generate(PROMPT, bad_words_ids=[[bad[0]]], suppress_tokens=bad[1:], **KNOBS))


@pytest.mark.parametrize("given", [{(7,): 14.5, (8,): -3}, [[[7], 14.5], [[8], -3]]])
def test_a_bias_is_added_to_the_logits(llada: torch.nn.Module, given: Any) -> None:
    """To those of every forward, before anything reads them: the same as a model with that bias in its head."""

    def add(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, 7] += 14.5
        scores[:, 8] -= 3
        return scores

    out = llada.generate(PROMPT, sequence_bias=given, decoding="entropy_bound", temperature=1.0, seed=2, **KNOBS)
    knobs = KNOBS | {"decoding": "entropy_bound", "temperature": 1.0, "seed": 2}
    assert torch.equal(out, llada.generate(PROMPT, logits_processor=[add], **knobs))
    assert not torch.equal(out, llada.generate(PROMPT, **knobs))


def test_a_bias_of_minus_infinity_forbids(llada: torch.nn.Module) -> None:
    token = int(llada.generate(PROMPT, **KNOBS)[0, 3])
    out = llada.generate(PROMPT, sequence_bias=[[[token], float("-inf")]], **KNOBS)
    assert torch.equal(out, llada.generate(PROMPT, suppress_tokens=[token], **KNOBS))


REFUSED = {
    "two tokens": (
        {"bad_words_ids": [[1], [2, 3]]},
        r"`bad_words_ids` takes .* one token here, got \[2, 3\]",
    ),
    "no words": ({"bad_words_ids": []}, "`bad_words_ids` must be a list of words"),
    "no list": ({"bad_words_ids": [3]}, "`bad_words_ids` takes sequences of ids from 0 on, got 3"),
    "beyond": ({"bad_words_ids": [[48]]}, r"`bad_words_ids` must lie below `vocab_size` \(48\), got 48"),
    "all": ({"bad_words_ids": [[i] for i in range(47)]}, "`bad_words_ids` leave no token to write"),
    "long bias": (
        {"sequence_bias": {(1, 2): 2.0}},
        r"`sequence_bias` takes .* one token here, got \[1, 2\]",
    ),
    "no number": ({"sequence_bias": {(1,): "2"}}, "`sequence_bias` must be numbers below infinity, got '2'"),
    "nan": ({"sequence_bias": {(1,): float("nan")}}, "`sequence_bias` must be numbers below infinity, got nan"),
    "no pairs": ({"sequence_bias": [[1, 2, 3]]}, "`sequence_bias` must be"),
    "empty": ({"sequence_bias": {}}, "`sequence_bias` must be"),
    "text key": ({"sequence_bias": {"(1,)": 1.0}}, "`sequence_bias` takes sequences of ids"),
    "bias beyond": ({"sequence_bias": {(48,): 1.0}}, r"`sequence_bias` must lie below `vocab_size` \(48\), got 48"),
    "n-grams": (
        {"no_repeat_ngram_size": 3},
        "`no_repeat_ngram_size`=3 is not .* from either side",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_means_nothing_on_a_canvas_is_refused_with_the_reason(
    llada: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    knobs, message = REFUSED[case]
    monkeypatch.setattr(llada, "forward", lambda *args, **kwargs: pytest.fail("a forward was run"))
    with pytest.raises(ValueError, match=message):
        llada.generate(PROMPT, **KNOBS, **knobs)


def test_a_file_holds_them(make_model: Any, tmp_path: Any) -> None:
    model = make_model("llada")
    model.save_pretrained(tmp_path)
    file = tmp_path / "generation_config.json"
    own = {"bad_words_ids": [[5]], "sequence_bias": [[[7], 14.5]]}
    file.write_text(json.dumps(json.loads(file.read_text()) | own))
    loaded = type(model).from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.equal(loaded.generate(PROMPT, **KNOBS), model.generate(PROMPT, **KNOBS, **own))
