"""Self-speculative decoding writes what plain decoding writes, in fewer forwards."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

from hf_latent import LatentTokenForCausalLM

MASK, EOS, PAD = 63, 61, 62
LOOP = [3, 17, 42, 8, 25]
FEW = {"vocab_size": 5, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def trained(make_latent_token: Callable[..., Any]) -> Any:
    """Knows one sequence that repeats: drafts of it are kept, those behind anything else now and then."""
    model = make_latent_token("left_to_right", num_hidden_layers=1).train()
    ids = torch.tensor([(LOOP * 6)[start : start + 20] for start in range(5)])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(60):
        states = model.look_ahead(input_ids=ids, num_latent_tokens=3, use_cache=False)
        loss = F.cross_entropy(model.project(states.text[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        for k in range(3):
            logits = model.project(states.latent[:, : -2 - k, k])
            loss = loss + F.cross_entropy(logits.flatten(0, 1), ids[:, 2 + k :].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def batch(*rows: list[int]) -> dict[str, torch.Tensor]:
    length = max(map(len, rows))
    ids = torch.tensor([[PAD] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


KNOWN, UNKNOWN = (LOOP * 2)[:7], [9, 30, 55]


def both(
    model: Any, inputs: dict[str, torch.Tensor], num_latent_tokens: int = 3, judge: bool | str = "plain", **kwargs: Any
) -> tuple[Any, Any]:
    """Decoding without drafts, and self-speculative, judged by the text alone or by what looks ahead."""
    kwargs = {"max_new_tokens": 12, "eos_token_id": None, "pad_token_id": PAD, "do_sample": False} | kwargs
    plain = model.generate(**inputs, num_latent_tokens=0 if judge == "plain" else num_latent_tokens, **kwargs)
    kwargs["return_dict_in_generate"] = True
    return plain, model.generate(**inputs, num_latent_tokens=num_latent_tokens, self_speculative=judge, **kwargs)


def test_drafts_of_a_trained_model_are_kept(trained: Any) -> None:
    plain, out = both(trained, batch(KNOWN))
    assert torch.equal(out.sequences, plain)
    assert plain[0, -12:].tolist() == (LOOP * 4)[7:19]
    assert float(out.tokens_per_forward) > 1.5 and int(out.num_accepted.sum()) > 4
    assert int(out.num_forward_passes) == 4  # one for the prompt, and three of up to four tokens each


@pytest.mark.parametrize("num_latent_tokens", [1, 2, 3])
def test_it_writes_what_the_same_call_writes_without_it(
    make_decoder: Callable[..., Any], num_latent_tokens: int
) -> None:
    """
    Of random weights the text alone and what looks ahead predict other tokens: judged by the text, a call with
    `self_speculative=True` wrote something else than without.
    """
    model = LatentTokenForCausalLM.from_backbone(make_decoder(**FEW), mask_token_id=4)
    ids = torch.tensor([[1, 2, 0], [3, 1, 1]])
    inputs, texts = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, {}
    for judge in (True, "plain"):
        without, out = both(model, inputs, num_latent_tokens, judge=judge, max_new_tokens=24, pad_token_id=0)
        assert torch.equal(out.sequences, without)
        texts[judge] = without.tolist()
    assert texts[True] != texts["plain"]


def test_self_speculative_is_true_false_or_plain(trained: Any) -> None:
    with pytest.raises(ValueError, match="`self_speculative` must be True, False or 'plain', got 'text'"):
        both(trained, batch(KNOWN), judge="text")


@pytest.mark.parametrize("num_latent_tokens", [1, 2, 5])
@pytest.mark.parametrize(
    "extra",
    [
        {},
        {"max_new_tokens": 1},
        {"max_new_tokens": 2},
        {"eos_token_id": 42},
        {"eos_token_id": [42, 8], "min_new_tokens": 5},
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 4},
        {"bad_words_ids": [[17]]},
    ],
    ids=str,
)
def test_the_text_is_that_of_plain_decoding(trained: Any, num_latent_tokens: int, extra: dict[str, Any]) -> None:
    """Rows of one batch keep all drafts, some and none; some end, padding lies before them and gaps behind."""
    inputs = batch(KNOWN, UNKNOWN, [42, 8], UNKNOWN + LOOP)
    plain, out = both(trained, inputs, num_latent_tokens, **extra)
    assert torch.equal(out.sequences, plain)


def test_processors_know_which_row_it_is(trained: Any) -> None:
    """Called with one row at a time, all rows were the first of the batch."""

    def allowed(row: int, ids: torch.Tensor) -> list[int]:
        return list(range(row, 60, 2))

    plain, out = both(trained, batch(KNOWN, UNKNOWN), prefix_allowed_tokens_fn=allowed)
    assert torch.equal(out.sequences, plain) and (plain[:, 7:] % 2 == torch.tensor([[0], [1]])).all()


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3_text", "gpt2"])
def test_random_models_write_the_same_too(family: str, make_latent_token: Callable[..., Any]) -> None:
    """Hardly a draft is right: what is read of it must leave no trace, in windows and tables of positions either."""
    model = make_latent_token("left_to_right", family)
    generator = torch.Generator().manual_seed(1)
    for length in (2, 5):
        rows = [torch.randint(3, 60, (length + i,), generator=generator).tolist() for i in range(3)]
        plain, out = both(model, batch(*rows), 2, max_new_tokens=10, eos_token_id=EOS)
        assert torch.equal(out.sequences, plain)


def test_rows_keep_different_numbers_of_drafts(trained: Any) -> None:
    _, out = both(trained, batch(KNOWN, UNKNOWN, UNKNOWN + LOOP))
    assert len(set(out.num_forward_passes.tolist())) > 1


def test_it_writes_up_to_the_last_position(make_latent_token: Callable[..., Any]) -> None:
    """Drafts behind it are read as text at positions that the table does not have."""
    model = make_latent_token("left_to_right", "gpt2", n_positions=16)
    plain, out = both(model, batch([5, 6, 7, 8]), 4, max_new_tokens=12)
    assert out.sequences.shape == (1, 16) and torch.equal(out.sequences, plain)


def test_a_stopping_criterion_ends_a_row_between_drafts(trained: Any) -> None:
    def stops(ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return ids[:, -2:].eq(torch.tensor([42, 8])).all(-1)

    plain, out = both(trained, batch(KNOWN), stopping_criteria=[stops])
    assert torch.equal(out.sequences, plain) and out.sequences[0, -2:].tolist() == [42, 8]


def test_the_statistics_add_up(trained: Any) -> None:
    """Every forward writes the drafts it keeps and a token more; a row's end may cut that one off, and drafts."""
    for knobs in ({}, {"eos_token_id": 42}, {"max_new_tokens": 9}):
        inputs = batch(KNOWN, UNKNOWN + LOOP)
        _, out = both(trained, inputs, **knobs)
        for row in range(2):
            new = out.sequences[row, inputs["input_ids"].shape[1] :].tolist()
            if "eos_token_id" in knobs and 42 in new:
                new = new[: new.index(42) + 1]
            forwards, judged, accepted = (
                getattr(out, name)[row].tolist() for name in ("num_forward_passes", "num_judged", "num_accepted")
            )
            assert len(new) - sum(accepted) in (forwards, forwards - 1)
            assert out.tokens_per_forward[row] == pytest.approx(len(new) / forwards)
            assert all(a <= j for a, j in zip(accepted, judged, strict=True)) and judged[0] == forwards - 1
            assert all(later <= a for later, a in zip(judged[1:], accepted, strict=False))


@pytest.mark.parametrize("name", ["past_key_values", "cache"])  # since transformers 5.24 the second
def test_the_cache_of_a_row_serves_the_next_turn(trained: Any, name: str) -> None:
    _, out = both(trained, batch(UNKNOWN + LOOP), max_new_tokens=7)
    assert out.past_key_values.get_seq_length() == out.sequences.shape[1] - 1
    following = torch.cat([out.sequences, torch.tensor([[3, 17]])], dim=1)
    fresh, _ = both(trained, {"input_ids": following})
    kwargs = {"max_new_tokens": 12, "eos_token_id": None, "do_sample": False}
    past = {name: getattr(out, name)}
    on = trained.generate(following, **past, num_latent_tokens=3, self_speculative="plain", **kwargs)
    assert torch.equal(on, fresh)


class Recorder(BaseStreamer):
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


def test_a_streamer_gets_every_token(trained: Any) -> None:
    """transformers hands it to its own methods alone: one that waits for the end would wait for ever."""
    streamer = Recorder()
    plain, _ = both(trained, batch(KNOWN))
    knobs = {"num_latent_tokens": 3, "max_new_tokens": 12, "eos_token_id": None, "do_sample": False}
    trained.generate(**batch(KNOWN), **knobs, self_speculative="plain", streamer=streamer)
    assert streamer.ended and streamer.tokens == plain[0].tolist()


@pytest.mark.parametrize("knobs", [{"temperature": 1.0}, {"temperature": 1.5, "top_k": 3}], ids=str)
@pytest.mark.parametrize("judge", [True, "plain"])
def test_sampling_keeps_the_distribution(
    judge: bool | str, knobs: dict[str, Any], make_decoder: Callable[..., Any]
) -> None:
    """
    Exact probabilities of all texts of three tokens against 1,500 draws. The seed is fixed; for another one the
    odds of a false alarm are below 1e-3 (a chi-square value four standard deviations above its mean).
    """
    model = LatentTokenForCausalLM.from_backbone(make_decoder(**FEW), mask_token_id=4)
    number, prompt = 1500, [1, 2]
    torch.manual_seed(4)
    out = model.generate(
        torch.tensor([prompt]),
        num_latent_tokens=2,
        self_speculative=judge,
        do_sample=True,
        max_new_tokens=3,
        num_return_sequences=number,
        return_dict_in_generate=True,
        pad_token_id=0,
        **({"top_k": 0} | knobs),
    )
    assert out.num_accepted.sum(0).min() > 20 and (out.num_judged - out.num_accepted).sum(0).min() > 20
    texts = list(product(range(5), repeat=3))
    ids = torch.tensor([[*prompt, *text] for text in texts])
    with torch.no_grad():
        logits = model(ids, num_latent_tokens=0 if judge == "plain" else 2).logits[:, 1:4] / knobs["temperature"]
    if "top_k" in knobs:
        least = logits.topk(knobs["top_k"]).values[..., -1:]
        logits = logits.masked_fill(logits < least, float("-inf"))
    p = logits.softmax(-1).gather(-1, ids[:, 2:, None]).squeeze(-1).prod(-1).double()
    assert float(p.sum()) == pytest.approx(1, abs=1e-5)
    index = (out.sequences[:, 2:] * torch.tensor([25, 5, 1])).sum(-1)
    counts = index.bincount(minlength=125).double()
    assert counts[p == 0].sum() == 0
    large = p * number >= 5
    observed = torch.cat([counts[large], counts[~large].sum()[None]])
    expected = torch.cat([p[large], p[~large].sum()[None]]) * number
    keep = expected > 0
    statistic = float(((observed - expected)[keep] ** 2 / expected[keep]).sum())
    freedom = int(keep.sum()) - 1
    assert statistic < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_latent_tokens": 0}, "`num_latent_tokens` must be an integer of at least 1 here, got 0"),
        ({"num_latent_tokens": -1}, "`num_latent_tokens` must be an integer of at least 1 here, got -1"),
        ({"num_beams": 2}, "`num_beams` must be 1 with `self_speculative`, got 2"),
        ({"output_scores": True}, "`output_scores` must be False with `self_speculative`, got True"),
        ({"guidance_scale": 1.5}, "`guidance_scale` must be 1 with `self_speculative`, got 1.5"),
        ({"prompt_lookup_num_tokens": 2}, "`prompt_lookup_num_tokens` must be None .*got 2"),
        ({"use_cache": False}, "`use_cache` must be True with `self_speculative`, got False"),
        ({"synced_gpus": True}, "`synced_gpus` must be left out with `self_speculative`, got True"),
        ({"custom_generate": print}, "`custom_generate` must be left out with `self_speculative`"),
    ],
    ids=str,
)
def test_what_it_cannot_do_is_refused(trained: Any, kwargs: dict[str, Any], message: str) -> None:
    arguments = {"num_latent_tokens": 2, "max_new_tokens": 2} | kwargs
    with pytest.raises(ValueError, match=message):
        trained.generate(torch.tensor([[1, 2]]), self_speculative=True, **arguments)


def test_a_cache_with_windows_is_refused(make_latent_token: Callable[..., Any]) -> None:
    model = make_latent_token("left_to_right", "mistral")
    cache = DynamicCache(config=model.model.config)
    with pytest.raises(ValueError, match=r"`past_key_values` must be a DynamicCache of layers without windows"):
        model.generate(torch.tensor([[1, 2]]), past_key_values=cache, num_latent_tokens=2, max_new_tokens=2)
