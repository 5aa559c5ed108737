"""Bounds and chains are those of brute force; a text's score is its own, whatever stands around it."""

import copy
import itertools
import math

import pytest
import torch
from transformers.modeling_outputs import MaskedLMOutput

from hf_latent import DreamConfig, DreamForMaskedDiffusion, LladaForMaskedDiffusion
from hf_latent.evaluation import LikelihoodResult, LogLikelihood, evaluate_likelihood, log_likelihood
from hf_latent.evaluation.scoring.draws import given_a_mask
from hf_latent.evaluation.scoring.encoding import ScoredText, context_key, encode_example, encode_pair
from hf_latent.evaluation.scoring.estimators import estimate, would_write
from hf_latent.evaluation.scoring.likelihood import error_of_stratified_mean

VOCABULARY, MASK = 5, 4


@pytest.fixture(scope="module")
def model(make_llada):
    """Random weights, sharp enough that no two conditionals are alike."""
    fields = {"vocab_size": VOCABULARY, "max_position_embeddings": 32, "mask_token_id": MASK, "pad_token_id": 0}
    model = make_llada(seed=1, **fields)
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
    """CE `[L]` of one text alone, with masks at `masked`, all logits computed; the mask itself is never written."""
    ids = torch.tensor([text.ids])
    noisy = torch.where(torch.tensor([masked]), MASK, ids)
    logits = model(noisy).logits[0].double()
    logits[:, MASK] = -math.inf
    return -logits.log_softmax(-1)[torch.arange(len(text.ids)), ids[0]]


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
    """It is a distribution over texts. It counted the mask token, which no text holds, and summed to less."""
    texts = [ScoredText([1, *ids], [False, True, True], 0) for ids in itertools.product(range(MASK), repeat=2)]
    scores = [float(draws.sum()) for draws in estimate(model, texts, estimator="chain")]
    assert scores == pytest.approx([exact_chain(model, text) for text in texts], rel=1e-4)
    assert sum(math.exp(-score) for score in scores) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("estimator", ["masked_count", "continuous_time", "chain"])
def test_a_model_that_likes_the_mask_best_is_scored_as_it_decodes(model, estimator):
    """A constant on the mask's logit changes nothing that is ever written."""
    biased = copy.deepcopy(model)

    def like_masks(module, args, output):
        output.logits[..., MASK] += 20.0

    biased.register_forward_hook(like_masks)
    settings = {"estimator": estimator, "num_samples": 8}
    for one, other in zip(estimate(model, TEXTS, **settings), estimate(biased, TEXTS, **settings), strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), rel=1e-4, abs=1e-5)


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


@pytest.mark.parametrize(
    ("estimator", "num_samples"), [("masked_count", 16), ("continuous_time", 8), ("continuous_time", 16)]
)
def test_stated_errors_are_those_of_repetition(model, estimator, num_samples):
    """
    Over 300 seeds the spread of the estimate around the enumerated bound is at most the stated error, on average and
    in its square, and not less than half of it; nine of ten estimates lie within two of their errors.

    The end strata counted half, and those of continuous time hid a variance without bound: stated were 0.36 to 0.7 of
    the spread. With a spread around the mean of all draws the stated error would be more than twice too large here.
    """
    text, seeds = TEXTS[0], 300
    exact = exact_bound(model, text)
    draws = [
        estimate(model, [text], estimator=estimator, num_samples=num_samples, seed=seed, batch_size=64)[0]
        for seed in range(seeds)
    ]
    values = torch.stack([each.mean() for each in draws])
    stated = torch.tensor([error_of_stratified_mean(each) for each in draws])
    spread = float((values - exact).square().mean().sqrt())
    assert 0.5 * float(stated.square().mean().sqrt()) < spread < 1.1 * float(stated.square().mean().sqrt())
    assert spread < 1.15 * float(stated.mean())
    assert ((values - exact).abs() < 2 * stated).double().mean() > 0.85


@pytest.mark.parametrize("num_samples", [2, 3, 4, 7, 16])
def test_the_error_holds_every_stratum_once_or_more(num_samples):
    """Draws of known variances, the first far larger: the expected square of the error is at least their sum."""
    scales = 1.0 / torch.arange(1, num_samples + 1, dtype=torch.float64)
    draws = torch.randn(20_000, num_samples, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * scales
    squares = torch.tensor([error_of_stratified_mean(each) ** 2 for each in draws])
    true = float(scales.square().sum()) / num_samples**2
    assert 0.98 * true < float(squares.mean()) < 1.35 * true


def test_a_first_stratum_given_a_mask_has_the_distribution_it_should():
    """Of masks drawn anew until there is one: here by the least of the noise, moved where it is, given that."""
    scored = torch.tensor([[False, True, True, False, True]]).expand(40_000, -1)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(scored.shape, generator=generator)
    times = torch.rand(len(scored), generator=generator).double() * 0.3
    masked = scored & (given_a_mask(noise, scored, times) < times[:, None])
    assert masked.any(-1).all() and not (masked & ~scored).any()
    sizes = masked.sum(-1).bincount(minlength=4).double() / len(scored)
    t = torch.linspace(0, 0.3, 100_001, dtype=torch.float64)[1:]
    for size in (1, 2, 3):
        expected = (math.comb(3, size) * t**size * (1 - t) ** (3 - size) / (1 - (1 - t) ** 3)).mean()
        assert float(sizes[size]) == pytest.approx(float(expected), abs=0.01)
    assert (masked.double().mean(0)[[1, 2, 4]].diff().abs() < 0.015).all(), "no token before another"


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
    result = LikelihoodResult.from_examples(examples, estimator="masked_count", num_samples=4, seed=0, seconds=1.0)
    assert (result.num_examples, result.num_tokens, result.nats_per_token) == (2, 4, 2.0)
    assert result.standard_error == pytest.approx(0.5 / 4)
    assert result.sampling_error == 0.0, "both have 2 nats per token"
    assert result.bits_per_token == pytest.approx(2 / math.log(2))
    assert result.perplexity == pytest.approx(math.exp(2))
    assert result.to_dict()["perplexity_error"] == pytest.approx(math.exp(2) * 0.125)
    one = LikelihoodResult.from_examples(examples[:1], estimator="chain", num_samples=4, seed=0, seconds=1.0)
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
        assert score.value == pytest.approx(-3 * math.log(len(tokenizer) - 1), rel=1e-5)  # all but the mask
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
