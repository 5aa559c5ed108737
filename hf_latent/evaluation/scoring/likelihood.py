"""Likelihood of text, as a bound with a stated error or as a chain: of a data set, and of continuations to choose."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_latent.data.embeddings import check_pair
from hf_latent.data.numbers import takes_numbers
from hf_latent.evaluation.scoring.encoding import (
    ScoredText,
    context_key,
    encode_context,
    encode_example,
    encode_pair,
    scored_pair,
)
from hf_latent.evaluation.scoring.estimators import check_estimator, estimate


@dataclass(frozen=True)
class LogLikelihood:
    """
    Estimate for one text.

    Args:
        value: nats, of all scored tokens: a lower bound on log p in expectation; exact under its order for "chain".
        standard_error: of `value`, from the draws; nan for a single draw, 0 for "chain".
        num_tokens: tokens scored.
    """

    value: float
    standard_error: float
    num_tokens: int

    @classmethod
    def from_draws(cls, draws: torch.Tensor, num_tokens: int, estimator: str) -> "LogLikelihood":
        """From the draws `[K]` of -log p (see `estimate`)."""
        if estimator == "chain":
            return cls(-float(draws.sum()), 0.0, num_tokens)
        return cls(-float(draws.mean()), error_of_stratified_mean(draws), num_tokens)


def error_of_stratified_mean(draws: torch.Tensor) -> float:
    """
    Standard error of the mean of `[K]` draws, one from each of `K` strata in order; nan for `K = 1`.

    From the differences of neighbours, whose expected squares hold the variances of both strata and the square of
    what their means differ by (collapsed strata, Cochran, Sampling Techniques, section 5A.12). A stratum between two
    others is in two differences, which count half; the first and the last are in one, which counts whole: the first
    is the one that varies most. Too large by what neighbours differ by, never too small in expectation. The spread
    around the mean of all draws would count what stratification has removed.
    """
    num = len(draws)
    if num < 2:
        return float("nan")
    squares = draws.diff().square()
    if num == 2:
        return math.sqrt(float(squares)) / 2
    ends = squares[0] + squares[-1]
    return math.sqrt(float(squares.sum() + ends) / 2) / num


@dataclass(frozen=True)
class LikelihoodResult:
    """
    Likelihood of a set of texts.

    Args:
        estimator, num_samples, seed: of the draws; see `hf_latent.evaluation.scoring.estimators`.
        num_examples, num_tokens: texts, and tokens scored in them.
        nats_per_token: -log p per scored token: an upper bound in expectation, exact under its order for "chain".
        standard_error: of `nats_per_token` for these texts, from the draws alone; nan for a single draw.
        sampling_error: of `nats_per_token` for texts like these, over the texts, draws included; nan for one text.
        seconds: wall time.
        examples: of each text, in order.
    """

    estimator: str
    num_samples: int
    seed: int
    num_examples: int
    num_tokens: int
    nats_per_token: float
    standard_error: float
    sampling_error: float
    seconds: float
    examples: tuple[LogLikelihood, ...]

    @property
    def bits_per_token(self) -> float:
        """`nats_per_token` in bits."""
        return self.nats_per_token / math.log(2)

    @property
    def perplexity(self) -> float:
        """exp of `nats_per_token`: an upper bound where that is one."""
        return math.exp(self.nats_per_token)

    @property
    def perplexity_error(self) -> float:
        """Standard error of the perplexity from that of `nats_per_token`, to first order."""
        return self.perplexity * self.standard_error

    @classmethod
    def from_examples(
        cls, examples: Sequence[LogLikelihood], *, estimator: str, num_samples: int, seed: int, seconds: float
    ) -> "LikelihoodResult":
        """The result of texts that were scored, wherever and whenever."""
        if not examples:
            raise ValueError("`examples` must hold at least one text, got none.")
        tokens = sum(example.num_tokens for example in examples)
        mean = -math.fsum(example.value for example in examples) / tokens
        rest = [-example.value - mean * example.num_tokens for example in examples]  # of a ratio of sums
        num = len(examples)
        spread = math.sqrt(math.fsum(r * r for r in rest) * num / (num - 1)) / tokens if num > 1 else float("nan")
        error = math.sqrt(math.fsum(example.standard_error**2 for example in examples)) / tokens
        samples = 1 if estimator == "chain" else num_samples
        return cls(estimator, samples, seed, num, tokens, mean, error, spread, seconds, tuple(examples))

    def to_dict(self) -> dict[str, Any]:
        """For JSON; without the single texts."""
        values = asdict(self)
        values.pop("examples")
        derived = ("bits_per_token", "perplexity", "perplexity_error")
        values |= {name: getattr(self, name) for name in derived}
        return {name: None if value != value else value for name, value in values.items()}  # JSON has no nan


@takes_numbers
def evaluate_likelihood(
    model: PreTrainedModel,
    examples: Iterable[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    estimator: str = "masked_count",
    num_samples: int = 32,
    seed: int = 0,
    batch_size: int = 32,
    chat: bool = False,
    add_eos: bool = True,
    on_batch: Callable[[int], None] | None = None,
) -> LikelihoodResult:
    """
    Bound the perplexity of `model` on a data set, given its prompts.

    ```python
    result = evaluate_likelihood(model, [{"prompt": "1+1=", "completion": "2"}], tokenizer, num_samples=64)
    print(result.nats_per_token, result.standard_error, result.perplexity)
    ```

    Args:
        examples: mappings with `input_ids` (and `labels`, -100: given), `prompt` and `completion`, or `text`; e.g. a
            `datasets.Dataset`. A column `example_id` (int) seeds the noise of an example; by default its place does.
        tokenizer: not needed for `input_ids`.
        estimator: `"masked_count"`, `"continuous_time"` or `"chain"`; see `hf_latent.evaluation.scoring.estimators`.
        num_samples: stratified draws of an example, a forward of a row each; "chain" takes one forward a token, or for
            block-causal models one for each token of a block.
        seed: of the draws, which are a function of it and of the example alone.
        batch_size: rows of a forward; changes nothing but the speed.
        chat: whether a prompt given as text goes through the chat template.
        add_eos: whether texts end with the end-of-sequence token, as in training; not for `input_ids`.
        on_batch: called with the number of draws done since the last call, for a progress bar.

    Raises:
        ValueError: before any forward, for no examples, columns that are missing, nothing to score, a mask token in a
            text, a text longer than the model's positions, an unknown estimator.
    """
    check_pair(model, tokenizer)
    check_estimator(estimator, num_samples)
    texts = [
        encode_example(example, int(example.get("example_id", place)), tokenizer, chat=chat, add_eos=add_eos)
        for place, example in enumerate(examples)
    ]
    if not texts:
        raise ValueError("`examples` must hold at least one example, got none.")
    sampling: dict[str, Any] = {"estimator": estimator, "num_samples": num_samples, "seed": seed}
    start = time.perf_counter()
    scores = score_texts(model, texts, batch_size=batch_size, on_batch=on_batch, **sampling)
    seconds = time.perf_counter() - start
    return LikelihoodResult.from_examples(scores, seconds=seconds, **sampling)


@takes_numbers
def score_texts(
    model: PreTrainedModel, texts: Sequence[ScoredText], *, estimator: str, **kwargs: Any
) -> list[LogLikelihood]:
    """[`LogLikelihood`] of each text; `kwargs` are those of `estimate`."""
    draws = estimate(model, texts, estimator=estimator, **kwargs)
    for number, nats in enumerate(draws):
        if not nats.isfinite().all():
            raise ValueError(
                f"`model` gives text {number} no finite score ({float(nats.sum())} nats): its logits hold NaN or "
                "infinity. Look at its weights, or load it in another `dtype`."
            )
    return [LogLikelihood.from_draws(d, sum(text.scored), estimator) for d, text in zip(draws, texts, strict=True)]


@takes_numbers
def log_likelihood(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    contexts: Sequence[Any],
    continuations: Sequence[str],
    *,
    estimator: str = "masked_count",
    num_samples: int = 128,
    seed: int = 0,
    batch_size: int = 32,
    chat: bool = False,
    add_eos: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> list[LogLikelihood]:
    """
    log p(continuation | context) of each pair, e.g. of the choices of a question: repeat its context.

    The noise of a pair is a function of the seed and the context's tokens. Choices of one context therefore meet
    common random numbers: those of equal length the same masks, others the same part of them, which makes the
    difference of two of them less noisy than each. Results do not depend on what else is scored, or in which order.

    Args:
        contexts: texts or lists of messages; an empty text for none.
        continuations: of each, with the space before it if there is one.
        estimator: `"masked_count"`, `"continuous_time"`, or `"chain"`: the exact chain of conditionals from left to
            right, without noise, one forward of a row for each token of a continuation.
        num_samples, seed, batch_size, chat, on_batch: as in [`evaluate_likelihood`].
        add_eos: whether continuations end with the end-of-sequence token.

    Raises:
        ValueError: before any forward, as [`evaluate_likelihood`] does, and for lists of unequal length.
    """
    check_pair(model, tokenizer)
    check_estimator(estimator, num_samples)
    if len(contexts) != len(continuations) or not len(contexts):
        raise ValueError(
            "`contexts` and `continuations` must be of one length and not empty, got "
            f"{len(contexts)} and {len(continuations)}."
        )
    texts = []
    for context, continuation in zip(contexts, continuations, strict=True):
        given, behind = encode_pair(tokenizer, context, continuation, chat=chat, add_eos=add_eos)
        key = context_key(encode_context(tokenizer, context, chat=chat))
        texts.append(scored_pair(given, behind, key))
    sampling: dict[str, Any] = {"estimator": estimator, "num_samples": num_samples, "seed": seed}
    return score_texts(model, texts, batch_size=batch_size, on_batch=on_batch, **sampling)


__all__ = ["LikelihoodResult", "LogLikelihood", "evaluate_likelihood", "log_likelihood", "score_texts"]
