"""Bounds and chains are those of brute force; a text's score is its own, whatever stands around it."""

import itertools
import math

import pytest
import torch
from transformers.modeling_outputs import MaskedLMOutput

from hf_latent import DreamConfig, DreamForMaskedDiffusion, LladaConfig, LladaForMaskedDiffusion
from hf_latent.evaluation import LikelihoodResult, LogLikelihood, evaluate_likelihood, log_likelihood
from hf_latent.evaluation.encoding import ScoredText, context_key, encode_example, encode_pair
from hf_latent.evaluation.estimators import estimate, would_write
from hf_latent.evaluation.likelihood import error_of_stratified_mean

VOCABULARY, MASK = 5, 4


@pytest.fixture(scope="module")
def model():
    """Random weights, sharp enough that no two conditionals are alike."""
    torch.manual_seed(1)
    config = LladaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        mask_token_id=MASK,
        pad_token_id=0,
    )
    model = LladaForMaskedDiffusion(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6)
    return model


TEXTS = [
    ScoredText([1, 2, 0, 3, 1], [False, True, True, True, True], 10),
    ScoredText([2, 2, 3, 1], [False, True, False, True], 11),
    ScoredText([3, 0, 1], [True, True, True], 12),
]


@torch.no_grad()
def cross_entropy(model, text, masked):
    """CE `[L]` of one text alone, with masks at `masked`, all logits computed."""
    ids = torch.tensor([text.ids])
    noisy = torch.where(torch.tensor([masked]), MASK, ids)
    return -model(noisy).logits[0].double().log_softmax(-1)[torch.arange(len(text.ids)), ids[0]]


def exact_bound(model, text):
    """Over every set of masked tokens: `E_t 1/t` gives a set of `l` of `S` the weight `B(l, S - l + 1)`."""
    places = [i for i, flag in enumerate(text.scored) if flag]
    total = 0.0
    for size in range(1, len(places) + 1):
        weight = 1 / (size * math.comb(len(places), size))  # B(size, S - size + 1)
        for chosen in itertools.combinations(places, size):
            masked = [i in chosen for i in range(len(text.ids))]
            total += weight * float(cross_entropy(model, text, masked)[list(chosen)].sum())
    return total


def exact_chain(model, text):
    places = [i for i, flag in enumerate(text.scored) if flag]
    return sum(
        float(cross_entropy(model, text, [i in places[k:] for i in range(len(text.ids))])[place])
        for k, place in enumerate(places)
    )


@pytest.mark.parametrize(("estimator", "tolerance"), [("masked_count", 0.02), ("continuous_time", 0.05)])
def test_the_bound_is_that_of_enumeration(model, estimator, tolerance):
    """A wrong weight (1/l for S/l, 1/t of the wrong row) or a biased draw misses by more; 5 standard errors: 1e-6."""
    for text, draws in zip(TEXTS, estimate(model, TEXTS, estimator=estimator, num_samples=6000), strict=True):
        exact, error = exact_bound(model, text), error_of_stratified_mean(draws)
        assert error < tolerance * exact
        assert float(draws.mean()) == pytest.approx(exact, abs=5 * error)


def test_counts_are_exact_once_every_count_has_the_same_number_of_draws(model):
    """One scored token: one count, one set, no noise at all."""
    text = ScoredText([1, 2, 3], [False, True, False], 5)
    draws = estimate(model, [text], num_samples=3)[0]
    assert draws.tolist() == pytest.approx([exact_bound(model, text)] * 3, rel=1e-5)


def test_the_chain_is_that_of_enumeration(model):
    for text, draws in zip(TEXTS, estimate(model, TEXTS, estimator="chain"), strict=True):
        assert len(draws) == sum(text.scored)
        assert float(draws.sum()) == pytest.approx(exact_chain(model, text), rel=1e-5)


def test_models_that_read_the_state_before_are_scored_alike():
    """Dream predicts a token from the position before it: logits of the wrong places would score other tokens."""
    torch.manual_seed(2)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = DreamConfig(vocab_size=VOCABULARY, num_key_value_heads=2, mask_token_id=MASK, pad_token_id=0, **sizes)
    dream = DreamForMaskedDiffusion(config).eval()
    with torch.no_grad():
        for weight in dream.parameters():
            weight.mul_(6)
    for text, draws in zip(TEXTS, estimate(dream, TEXTS, estimator="chain", batch_size=4), strict=True):
        assert float(draws.sum()) == pytest.approx(exact_chain(dream, text), rel=1e-4)
    for text, draws in zip(TEXTS, estimate(dream, TEXTS, num_samples=400, batch_size=64), strict=True):
        assert float(draws.mean()) == pytest.approx(exact_bound(dream, text), abs=5 * error_of_stratified_mean(draws))


def test_the_chain_sums_to_one_over_all_texts(model):
    """It is a distribution over texts of two tokens, but for the share of the mask, which no text holds."""
    total = missing = 0.0
    for ids in itertools.product(range(VOCABULARY), repeat=2):
        text = ScoredText([1, *ids], [False, True, True], 0)
        value = math.exp(-exact_chain(model, text)) if MASK not in ids else 0.0
        total += value
        if MASK not in ids:
            score = estimate(model, [text], estimator="chain")[0].sum()
            assert math.exp(-float(score)) == pytest.approx(value, rel=1e-4)
    first = torch.tensor(
        [
            cross_entropy(model, ScoredText([1, i, 0], [False, True, True], 0), [False, True, True])[1]
            for i in range(VOCABULARY)
        ]
    )
    for i in range(VOCABULARY - 1):
        second = cross_entropy(model, ScoredText([1, i, MASK], [False, False, True], 0), [False, False, True])[2]
        missing += math.exp(-float(first[i] + second))
    assert total + missing + math.exp(-float(first[MASK])) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("estimator", ["masked_count", "continuous_time", "chain"])
def test_a_text_scores_alike_alone_in_any_batch_and_in_any_order(model, estimator):
    """Noise drawn by batch, or padding that is attended to, would change it."""
    settings = {"estimator": estimator, "num_samples": 8, "seed": 3}
    together = estimate(model, TEXTS, batch_size=5, **settings)
    for number, text in enumerate(TEXTS):
        alone = estimate(model, [text], batch_size=1, **settings)[0]
        assert together[number].tolist() == pytest.approx(alone.tolist(), rel=1e-4, abs=1e-5)
    backwards = estimate(model, TEXTS[::-1], batch_size=4, **settings)[::-1]
    for one, other in zip(together, backwards, strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), rel=1e-4, abs=1e-5)
    if estimator != "chain":
        assert estimate(model, TEXTS, **{**settings, "seed": 4})[0].tolist() != together[0].tolist()


def test_stated_errors_are_those_of_repetition(model):
    """Over 200 seeds the spread of the estimate is at most the stated error, and not less than half of it.

    With a spread around the mean of all draws the stated error would be more than twice too large here.
    """
    text, values, stated = TEXTS[0], [], []
    for seed in range(200):
        draws = estimate(model, [text], num_samples=16, seed=seed, batch_size=64)[0]
        values.append(float(draws.mean()))
        stated.append(error_of_stratified_mean(draws) ** 2)
    spread = torch.tensor(values).std()
    mean_stated = math.sqrt(sum(stated) / len(stated))
    assert 0.5 * mean_stated < float(spread) < 1.15 * mean_stated


def test_counting_has_the_smaller_error(model):
    counted, timed = (
        estimate(model, TEXTS, estimator=name, num_samples=512) for name in ("masked_count", "continuous_time")
    )
    for one, other in zip(counted, timed, strict=True):
        assert error_of_stratified_mean(one) < error_of_stratified_mean(other)


def test_logits_exist_at_masked_positions_only(model, monkeypatch):
    """No `[B, L, V]` tensor: the head sees as many states as cross entropies are taken."""
    seen = []
    project = LladaForMaskedDiffusion.project
    monkeypatch.setattr(
        LladaForMaskedDiffusion, "project", lambda self, states: seen.append(states.shape) or project(self, states)
    )
    estimate(model, TEXTS, estimator="chain", batch_size=4)
    assert all(len(shape) == 2 for shape in seen)
    assert sum(shape[0] for shape in seen) == sum(sum(text.scored) for text in TEXTS)


def test_a_draw_without_masks_costs_no_forward(model, monkeypatch):
    text = ScoredText([1, 2], [False, True], 1)
    forwards = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **kw: forwards.append(len(kw["input_ids"])) or forward(**kw))
    draws = estimate(model, [text], estimator="continuous_time", num_samples=64)[0]
    assert sum(forwards) == int((draws > 0).sum()) < 64


def test_would_write_is_the_greedy_text_and_no_other(model):
    """Greedy from left to right, one token a forward, is what `generate` does with that rule."""
    prompt = torch.tensor([[1, 2]])
    written = model.generate(
        prompt, max_new_tokens=4, decoding="left_to_right", suppress_tokens=[MASK], eos_token_id=None
    )[0].tolist()
    changed = [*written[:-1], (written[-1] + 1) % MASK]
    flags = [False, False, True, True, True, True]
    assert would_write(model, [ScoredText(written, flags, 0), ScoredText(changed, flags, 0)]) == [True, False]


def test_a_result_is_per_token_with_both_errors(model):
    examples = (LogLikelihood(-6.0, 0.3, 3), LogLikelihood(-2.0, 0.4, 1))
    result = LikelihoodResult.of(examples, estimator="masked_count", num_samples=4, seed=0, seconds=1.0)
    assert (result.num_examples, result.num_tokens, result.nats_per_token) == (2, 4, 2.0)
    assert result.standard_error == pytest.approx(0.5 / 4)
    assert result.sampling_error == 0.0, "both have 2 nats per token"
    assert result.bits_per_token == pytest.approx(2 / math.log(2))
    assert result.perplexity == pytest.approx(math.exp(2))
    assert result.to_dict()["perplexity_error"] == pytest.approx(math.exp(2) * 0.125)
    one = LikelihoodResult.of(examples[:1], estimator="chain", num_samples=4, seed=0, seconds=1.0)
    assert math.isnan(one.sampling_error) and one.to_dict()["sampling_error"] is None


def test_examples_may_be_ids_with_labels_or_prompts_with_completions(sudoku_model, tokenizer, puzzles):
    """The completion ends with `<eos>` as in training; ids and texts of the same example score alike."""
    texts = [{"prompt": p["prompt"], "completion": p["completion"]} for p in puzzles[:3]]
    ids = []
    for text in texts:
        prompt = tokenizer(text["prompt"])["input_ids"]
        completion = [*tokenizer(text["completion"])["input_ids"], tokenizer.eos_token_id]
        ids.append({"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion})
    by_text = evaluate_likelihood(sudoku_model, texts, tokenizer, num_samples=4)
    by_ids = evaluate_likelihood(sudoku_model, ids, num_samples=4, batch_size=3)
    assert by_text.num_tokens == by_ids.num_tokens == 60
    assert by_text.nats_per_token == pytest.approx(by_ids.nats_per_token, rel=1e-5)
    assert 0 < by_text.standard_error < by_text.nats_per_token


def test_of_a_conversation_the_answer_is_scored_with_what_closes_it(tokenizer, monkeypatch):
    """The end of a turn is the template's business: `add_eos` would score a token that training never shows."""
    template = (
        "{% for m in messages %}{{ '.' if m['role'] == 'user' else '=' }}{{ m['content'] }}9{% endfor %}"
        "{% if add_generation_prompt %}={% endif %}"
    )
    monkeypatch.setattr(tokenizer, "chat_template", template)
    user, assistant = {"role": "user", "content": "12"}, {"role": "assistant", "content": "34"}
    text = encode_example({"prompt": [user], "completion": [assistant]}, 5, tokenizer)
    assert tokenizer.decode(text.ids) == ".129=349"
    assert text.scored == [False] * 5 + [True] * 3
    with pytest.raises(ValueError, match="`prompt` must be messages"):
        encode_example({"prompt": "12", "completion": [assistant]}, 5, tokenizer)
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages | length }}")
    with pytest.raises(ValueError, match="writes the prompt otherwise"):
        encode_example({"prompt": [user], "completion": [assistant]}, 5, tokenizer)


def test_choices_of_a_question_meet_the_same_masks(sudoku_model, tokenizer, monkeypatch):
    """Common random numbers: masks of equal continuations are equal, so that their difference is less noisy."""
    masks = []

    def forward(input_ids, logits_to_keep, **kwargs):
        masks.append((input_ids == tokenizer.mask_token_id).int())
        return MaskedLMOutput(logits=torch.zeros(len(logits_to_keep[0]), len(tokenizer)))

    monkeypatch.setattr(sudoku_model, "forward", forward)
    scores = log_likelihood(sudoku_model, tokenizer, ["12", "12", "34"], ["341", "143", "341"], num_samples=16)
    rows = torch.cat(masks)
    assert rows.shape == (48, 5)
    assert rows[:16].tolist() == rows[16:32].tolist()
    assert rows[:16].tolist() != rows[32:].tolist()
    for score in scores:
        assert score.value == pytest.approx(-3 * math.log(len(tokenizer)), rel=1e-5)
        assert (score.num_tokens, score.standard_error) == (3, pytest.approx(0.0, abs=1e-5))


def test_log_likelihood_is_the_chain_where_asked(sudoku_model, tokenizer):
    text = ScoredText(tokenizer("12341")["input_ids"], [False, False, True, True, True], 0)
    exact = float(estimate(sudoku_model, [text], estimator="chain")[0].sum())
    score = log_likelihood(sudoku_model, tokenizer, ["12"], ["341"], estimator="chain")[0]
    assert (score.value, score.standard_error) == (pytest.approx(-exact, rel=1e-5), 0.0)


def test_a_token_across_the_border_is_scored():
    """A tokenizer that merges the last character of the context with the first of the continuation."""

    class Merging:
        eos_token_id = 9

        def __call__(self, text, add_special_tokens=True):
            return {"input_ids": [{"a": 1, "b": 2, "bc": 3, "d": 4, "c": 5}[part] for part in split(text)]}

    def split(text):
        parts = list(text)
        return ["".join(group) for group in _merge(parts)]

    def _merge(parts):
        merged = []
        for part in parts:
            if merged and merged[-1] == ["b"] and part == "c":
                merged[-1] = ["b", "c"]
            else:
                merged.append([part])
        return merged

    assert encode_pair(Merging(), "ab", "cd") == ([1], [3, 4])
    assert encode_pair(Merging(), "ab", "d", add_eos=True) == ([1, 2], [4, 9])
    assert context_key([1, 2]) == context_key([1, 2]) != context_key([12])


@pytest.mark.parametrize(
    ("examples", "settings", "message"),
    [
        ([], {}, "`examples`"),
        ([{"input_ids": [1, 2], "labels": [-100, -100]}], {}, "at least one token to score"),
        ([{"input_ids": [1, 2], "labels": [-100, 3]}], {}, "not shifted"),
        ([{"input_ids": [1, MASK]}], {}, "Text 0 holds the mask token"),
        ([{"input_ids": [1] * 40}], {}, "40 tokens, more than the 32"),
        ([{"prompt": "a", "completion": "b"}], {}, "`tokenizer`"),
        ([{"input_ids": [1, 2]}], {"estimator": "exact"}, "'exact'"),
        ([{"input_ids": [1, 2]}], {"num_samples": 0}, "got 0"),
    ],
)
def test_bad_input_is_refused_before_any_forward(model, monkeypatch, examples, settings, message):
    monkeypatch.setattr(model, "forward", lambda **kwargs: pytest.fail("a forward"))
    with pytest.raises(ValueError, match=message):
        evaluate_likelihood(model, examples, **settings)


def test_bad_pairs_are_refused(sudoku_model, tokenizer):
    with pytest.raises(ValueError, match="2 and 1"):
        log_likelihood(sudoku_model, tokenizer, ["1", "2"], ["3"])
    with pytest.raises(ValueError, match="`continuation`"):
        log_likelihood(sudoku_model, tokenizer, ["1"], [""])
    with pytest.raises(ValueError, match="columns"):
        evaluate_likelihood(sudoku_model, [{"question": "1"}], tokenizer)
