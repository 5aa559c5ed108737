"""Every knob of the denoising loop in one configuration, validated by name."""

import difflib
from collections.abc import Iterable
from typing import Any

from transformers import GenerationConfig

from hf_latent.generation.arguments.stock_arguments import refuse_knobs
from hf_latent.generation.arguments.strict_config import StrictGenerationConfig
from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.commit.schedule import SCHEDULES
from hf_latent.generation.model_calls.block_cache import BLOCK_CACHES
from hf_latent.generation.state.settings import ANSWER_REDUCTIONS

FLAGS = (
    "pace_to_schedule",
    "latent_refinement",
    "append_blocks",
    "output_history",
    "do_sample",
    "return_dict_in_generate",
    "output_scores",
)
COUNTS = (
    "max_new_tokens",
    "block_length",
    "sub_block_length",
    "max_denoising_steps",
    "steps_per_block",
    "max_tokens_per_step",
    "min_tokens_per_step",
)
LARGEST_SEED = 2**63 - 1
# Beyond these float32 logits overflow to inf and nan.
SMALLEST_SCALE, LARGEST_SCALE = 1e-30, 1e30
# Stock validation warns about, or refuses to save, filters without `do_sample`; here they shape the belief as well.
HIDDEN_FROM_STOCK = ("temperature", "top_k", "top_p", "min_p", "do_sample", "num_return_sequences")


class DiffusionGenerationConfig(StrictGenerationConfig):
    r"""
    Configuration of `generate` and `infill` of masked diffusion models.

    Args:
        max_new_tokens (`int`, *optional*):
            Tokens to write behind the prompt; 128 if neither this nor `max_length` is given.
        block_length (`int`, *optional*):
            Blocks of this many tokens are written one after the other, from the left. `None` writes all at once. Of
            a block-causal model they are the blocks of its attention, counted from the row's first token, and `None`
            takes the length of its configuration.
        sub_block_length (`int`, *optional*):
            Block-causal models: parts of a block that are written one after the other, from the left (Fast-dLLM v2's
            sub-blocks); must divide the block's length. `None` writes a block as a whole.
        decoding (`str`, *optional*, defaults to `"low_confidence"`):
            Commit rule. By schedule: `low_confidence`, `random`, `entropy`, `margin`, `left_to_right`. By the belief:
            `confidence_threshold`, `wide_in`, `klass`, `entropy_bound`, `entropy_sum`, `med`, `med_left_to_right`.
        max_denoising_steps (`int`, *optional*):
            Most forwards of a row, shared evenly among its blocks; those that only refine count, too. Rules by
            schedule spread the tokens over what refinement leaves of them; rules by the belief commit all that is left
            at the last, unless `pace_to_schedule` is on. `None`: one token per forward by schedule, no limit by the
            belief.
        steps_per_block (`int`, *optional*):
            Most forwards of each block instead of `max_denoising_steps` (SDAR's `denoising_steps`, LLaDA2.0's
            `steps`). Step `s` of `S` in blocks of `B` tokens has the quota `B // S`, one more for the first `B % S`:
            what a rule by schedule commits, and the least that a rule by the belief commits.
        denoising_schedule (`str`, *optional*, defaults to `"uniform"`):
            How rules by schedule spread tokens over `max_denoising_steps`: `uniform` (LLaDA) or `dream`.
        schedule_epsilon (`float`, *optional*, defaults to 1e-3):
            Last time of the `dream` schedule.
        pace_to_schedule (`bool`, *optional*, defaults to `False`):
            With `max_denoising_steps`, rules by the belief never run ahead of an even schedule (what a step leaves is
            carried over) and take further steps where they have to, as Fast-dLLM decodes Dream: the number is then a
            pace, and no limit.
        max_tokens_per_step (`int`, *optional*):
            Most tokens that a rule by the belief commits at once in a row (`k_max` of MED); the last of
            `max_denoising_steps` commits all that is left in spite of it.
        min_tokens_per_step (`int`, *optional*):
            Least tokens that a rule by the belief commits at once in a row, as far as its block has them open; 1 if
            not given (LLaDA2.1's `num_to_transfer`).
        confidence_threshold (`float`, *optional*, defaults to 0.9):
            probability, for `confidence_threshold`, `wide_in` (WINO's draft: at most 0.7 of what is open, no fewer
            than 5 and no more than 20 tokens) and `klass`.
        stability_kl (`float`, *optional*, defaults to 0.015):
            nats, for `klass` (KLASS, arXiv 2511.05664): a position is written once KL(belief || that of the forward
            before) was below this in each of the last `stability_steps` forwards and it is more probable than
            `confidence_threshold`; where there is none, the most probable one. A belief is compared within its block.
            0 writes one token per forward.
        stability_steps (`int`, *optional*, defaults to 2): forwards, for `klass`.
        entropy_threshold (`float`, *optional*, defaults to 0.2): nats, lambda of `med` and `med_left_to_right`.
        entropy_bound (`float`, *optional*, defaults to 0.1): nats, for `entropy_bound` and `entropy_sum`.
        temperature (`float`, *optional*):
            0 takes the most likely token. Default 0, or 1 with `do_sample=True`; `do_sample=False` forces 0.
        top_k, top_p, min_p (*optional*): keep a part of the distribution, for the candidate and for the rule.
        repetition_penalty (`float`, *optional*): as in transformers, on the tokens of the canvas.
        latent_refinement (`bool`, *optional*, defaults to `False`):
            Latent Refinement Decoding (arXiv 2510.11052) around the commit rule: open positions of the block look like
            a mixture of the mask and their prediction; a block starts with forwards that commit nothing, until the
            belief rests, and ends at once when it rests later on.
        refinement_top_p (`float`, *optional*, defaults to 0.9): nucleus of the mixture; 0 mixes nothing.
        refinement_ratio (`float`, *optional*, defaults to 0.15):
            r_f, share of the prediction in the embedding of a position that is certain of it; 0 mixes nothing.
        refinement_steps (`int`, *optional*, defaults to 20):
            Most forwards of a block that commit nothing; always less than its share of `max_denoising_steps`.
        refinement_kl (`float`, *optional*, defaults to 0.1):
            nats; mean KL between two forwards below which a block starts to commit.
        stop_kl (`float`, *optional*, defaults to 0.1):
            nats; below it after a commit, the rest of the block is committed by argmax. 0 never stops.
        rejection_js (`float`, *optional*):
            nats. With latent refinement: an open position looks like a plain mask to a forward if its belief at the
            last one and the one before are further apart than this by Jensen-Shannon divergence, which is at most
            log 2 (ReMix, arXiv 2602.22868: 0.3). `None` rejects nothing.
        editing_threshold (`float`, *optional*):
            Probability. At every forward, written tokens of the block (never given ones) become the token that the
            model now finds likeliest, where that is another and more probable than this (LLaDA2.1, arXiv 2602.08676).
            A row then ends with a whole block only. `None` edits nothing.
        max_post_steps (`int`, *optional*, defaults to 16):
            With `editing_threshold`: most forwards of a block in which nothing is open any more, on top of any number
            of steps. There is at least one, to see whether the block is settled, unless this is 0, and more as long
            as they edit.
        verification_threshold (`float`, *optional*):
            Probability (WINO, arXiv 2507.18578). Written tokens of the block (never given ones) become masks again
            where the model, not seeing them, finds them less probable than this: the least probable first, and fewer
            than the forward before has committed, so that no more forwards are needed than one token at each would
            take; none at a forward that commits a single token. A row then ends with a whole block only. The forward
            reads as many positions more as the block has.
            Published with `decoding="wide_in"`, 0.9. `None` verifies nothing.
        early_exit_threshold (`float`, *optional*):
            nats. With an `answer_mask`: as soon as the entropy of the answer is below it, a row commits the answer and
            leaves its reasoning as it is. `None` and 0 never exit.
        early_exit_final_threshold (`float`, *optional*):
            nats. What `early_exit_threshold` moves to, in proportion to the share of the reasoning that is written
            (after SchED, arXiv 2512.02892): above it, a row exits the more easily the more it has reasoned. `None`
            keeps it.
        answer_entropy_reduction (`str`, *optional*, defaults to `"sum"`):
            Entropy of the answer: `"sum"` over its positions, a bound on the joint entropy, or their `"max"`.
        block_cache (`str`, *optional*):
            Within a block, read again only the block and what follows it (`"prefix"`) or the block alone (`"dual"`);
            keys and values of the rest are those of the block's first forward. Approximate, faster (Fast-dLLM).
        cache_refresh_interval (`int`, *optional*):
            Forwards after which everything is read again; `None`: at the start of a block only.
        append_blocks (`bool`, *optional*, defaults to `False`):
            `generate` appends one block after the other, as long as a row has not ended, instead of starting with
            masks for all of `max_new_tokens`. What is not there yet costs nothing, and no token can depend on it.
        num_latent_tokens (`int`, *optional*):
            Semi-causal models: positions that are predicted together with each one, in random groups of one more, so
            that it looks ahead; defaults to the model's.
        num_candidates (`int`, *optional*):
            Semi-causal models: positions, drawn at random, that are predicted at each step and that the rule chooses
            from; `None`: all that may be written. `num_latent_tokens + 1` predicts one group, which is cheapest.
        min_new_tokens (`int`, *optional*): no end-of-sequence token is written among the first so many new tokens.
        cfg_scale (`float`, *optional*, defaults to 0.0):
            Classifier-free guidance `l = l_u + (1 + cfg_scale) (l_c - l_u)`, the given tokens masked in `l_u`.
        suppress_tokens (`list[int]`, *optional*): ids that are never written.
        bad_words_ids (`list[list[int]]`, *optional*):
            Words that are never written, of one token each: positions are written in any order and several in one
            forward, so whether neighbours make a longer word is known only once they are written.
        sequence_bias (`dict[tuple[int], float]` or `list`, *optional*):
            Nats added to the logits of tokens, `{(id,): bias}` or `[[[id], bias], ...]`; of one token each, as above.
        deferred_tokens (`list[int]`, *optional*):
            Ids whose probability counts as nothing for the rule: positions that predict them are written last in
            their block, by every rule, and none along with others but by a schedule.
        eos_token_id (`int` or `list[int]`, *optional*):
            A row ends at the first of these ids once all before it is written. `None` passed to `generate` keeps
            writing to the end.
        seed (`int`, *optional*):
            Of all noise of a run. Drawn from torch's global generator if not given.
        output_history (`bool`, *optional*, defaults to `False`): return the canvas after every step.
        output_scores (`bool`, *optional*):
            Return the log-probability of each token when it was written, as `commit_log_prob` of the output; with
            `return_dict_in_generate=True` only.
        mask_token_id (`int`, *optional*): if another than the model configuration's.

    Raises:
        ValueError: naming the knob, its value and what is allowed; for an unknown name, with the nearest known one.
    """

    own_defaults: dict[str, Any] = {
        "decoding": "low_confidence",
        "block_length": None,
        "sub_block_length": None,
        "max_denoising_steps": None,
        "steps_per_block": None,
        "denoising_schedule": "uniform",
        "schedule_epsilon": 1e-3,
        "pace_to_schedule": False,
        "max_tokens_per_step": None,
        "min_tokens_per_step": None,
        "confidence_threshold": 0.9,
        "stability_kl": 0.015,
        "stability_steps": 2,
        "entropy_threshold": 0.2,
        "entropy_bound": 0.1,
        "latent_refinement": False,
        "refinement_top_p": 0.9,
        "refinement_ratio": 0.15,
        "refinement_steps": 20,
        "refinement_kl": 0.1,
        "stop_kl": 0.1,
        "rejection_js": None,
        "editing_threshold": None,
        "max_post_steps": 16,
        "verification_threshold": None,
        "early_exit_threshold": None,
        "early_exit_final_threshold": None,
        "answer_entropy_reduction": "sum",
        "block_cache": None,
        "cache_refresh_interval": None,
        "append_blocks": False,
        "num_latent_tokens": None,
        "num_candidates": None,
        "cfg_scale": 0.0,
        "deferred_tokens": None,
        "seed": None,
        "output_history": False,
        "mask_token_id": None,
    }

    def __init__(self, **kwargs: Any) -> None:
        left_out = {name for name in self.own_defaults if name not in kwargs}
        self._left_out: set[str] = set()
        super().__init__(**kwargs)
        self._left_out = left_out

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        self._left_out.discard(name)

    def to_dict(self) -> dict[str, Any]:
        """All knobs, with the defaults of those that were never set."""
        return {name: value for name, value in super().to_dict().items() if name != "_left_out"}

    def overlay(self, given: GenerationConfig) -> None:
        """Take over what `given` sets. What it leaves out, or None in its stock fields, keeps its value here."""
        values = given.to_dict()
        values.pop("transformers_version", None)
        # Foreign names that this configuration has too, from a model's file, are nobody's mistake.
        self.refuse_unknown(name for name in values if not hasattr(self, name))
        if isinstance(given, DiffusionGenerationConfig):
            values = {name: value for name, value in values.items() if name not in given._left_out}
            may_be_none = given.own_defaults
        else:
            may_be_none = {}
        values = {name: value for name, value in values.items() if value is not None or name in may_be_none}
        self.update(**values, allow_custom_entries=True)

    def validate(self, strict: bool = False, user_set_attributes: set[str] | None = None) -> None:
        """Check every knob; see the class for what is raised."""
        if not hasattr(self, "max_new_tokens"):
            return
        self._check_own()
        hidden = {name: getattr(self, name) for name in HIDDEN_FROM_STOCK}
        for name in hidden:
            setattr(self, name, None)
        try:
            super().validate(strict=strict, user_set_attributes=user_set_attributes)
        finally:
            for name, value in hidden.items():
                setattr(self, name, value)

    def _check_own(self) -> None:
        check_choice("decoding", self.decoding, RULES)
        check_choice("denoising_schedule", self.denoising_schedule, SCHEDULES)
        check_choice("answer_entropy_reduction", self.answer_entropy_reduction, ANSWER_REDUCTIONS)
        if self.block_cache is not None:
            check_choice("block_cache", self.block_cache, BLOCK_CACHES)
        for name in ("refinement_top_p", "refinement_ratio"):
            check_number(name, getattr(self, name), 0.0, 1.0)
        for name in ("refinement_kl", "stop_kl", "stability_kl"):
            check_number(name, getattr(self, name), 0.0)
        check_number("early_exit_final_threshold", self.early_exit_final_threshold, 0.0, optional=True)
        check_number("early_exit_threshold", self.early_exit_threshold, 0.0, optional=True)
        check_number("rejection_js", self.rejection_js, 0.0, optional=True)
        check_number("editing_threshold", self.editing_threshold, 0.0, 1.0, optional=True)
        check_number("verification_threshold", self.verification_threshold, 0.0, 1.0, optional=True)
        check_integer("max_post_steps", self.max_post_steps, low=0, optional=False)
        check_integer("stability_steps", self.stability_steps, low=1, optional=False)
        check_integer("refinement_steps", self.refinement_steps, low=0, optional=False)
        check_integer("cache_refresh_interval", self.cache_refresh_interval, low=1)
        check_integer("min_new_tokens", self.min_new_tokens, low=0)
        check_integer("num_latent_tokens", self.num_latent_tokens, low=0)
        check_integer("num_candidates", self.num_candidates, low=1)
        check_integer("top_k", self.top_k, low=0)
        for name in COUNTS:
            check_integer(name, getattr(self, name), low=1)
        check_integer("num_return_sequences", self.num_return_sequences, low=1)
        check_integer("max_length", self.max_length, low=1)
        check_integer("seed", self.seed, low=0, high=LARGEST_SEED)
        check_integer("mask_token_id", self.mask_token_id, low=0)
        if not isinstance(self.eos_token_id, list | tuple):
            check_integer("eos_token_id", self.eos_token_id, low=0)
        else:
            check_ids("eos_token_id", self.eos_token_id)
        check_integer("pad_token_id", self.pad_token_id)
        check_number("confidence_threshold", self.confidence_threshold, 0.0, 1.0)
        check_number("entropy_threshold", self.entropy_threshold, 0.0)
        check_number("entropy_bound", self.entropy_bound, 0.0)
        check_number("schedule_epsilon", self.schedule_epsilon, 0.0, 1.0)
        check_number("cfg_scale", self.cfg_scale, 0.0, LARGEST_SCALE)
        for name, high in {"temperature": LARGEST_SCALE, "top_p": 1.0, "min_p": 1.0}.items():
            check_number(name, getattr(self, name), 0.0, high, optional=True)
        check_number("repetition_penalty", self.repetition_penalty, SMALLEST_SCALE, LARGEST_SCALE, optional=True)
        for name in FLAGS:
            value = getattr(self, name)
            if not isinstance(value, bool) and not (value is None and name not in self.own_defaults):
                raise ValueError(f"`{name}` must be True or False, got {value!r}.")
        for name in ("suppress_tokens", "deferred_tokens"):
            check_ids(name, getattr(self, name))

    def update(self, defaults_only: bool = False, allow_custom_entries: bool = False, **kwargs: Any) -> dict[str, Any]:
        """
        Set knobs; returns those of `kwargs` that are none, as in transformers, but raises for one that is nearly one.
        """
        for name in () if allow_custom_entries else kwargs:
            if not hasattr(self, name) and difflib.get_close_matches(name, self.known_names(), n=1, cutoff=0.8):
                self.refuse_unknown([name])
        return super().update(defaults_only, allow_custom_entries, **kwargs)

    def refuse_unsupported(self) -> None:
        """Raise `ValueError` for a stock knob that is set and that a denoising loop cannot honour."""
        refuse_knobs(self)

    @property
    def effective_temperature(self) -> float:
        """Temperature after `do_sample` has had its say."""
        if self.do_sample is False:
            return 0.0
        if self.temperature is None:
            return 1.0 if self.do_sample else 0.0
        return float(self.temperature) if self.temperature > SMALLEST_SCALE else 0.0


class DreamGenerationConfig(DiffusionGenerationConfig):
    """Dream's own defaults (arXiv 2508.15487): lowest entropy first, on its timestep schedule."""

    own_defaults = DiffusionGenerationConfig.own_defaults | {
        "decoding": "entropy",
        "denoising_schedule": "dream",
        "pace_to_schedule": True,
    }


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise `ValueError` unless `value` is one of `allowed`."""
    if value not in allowed:
        near = difflib.get_close_matches(str(value), list(allowed), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, allowed))}, got {value!r}.{hint}")


def check_integer(
    name: str, value: Any, low: int | None = None, high: int | None = None, optional: bool = True
) -> None:
    """Raise `ValueError` unless `value` is an int in [`low`, `high`], or None where `optional`."""
    if value is None and optional:
        return
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or (low is not None and value < low) or (high is not None and value > high):
        allowed = "" if low is None else f" of at least {low}" if high is None else f" in [{low}, {high}]"
        raise ValueError(f"`{name}` must be an integer{allowed}, got {value!r}.")


def check_number(name: str, value: Any, low: float, high: float | None = None, optional: bool = False) -> None:
    """Raise `ValueError` unless `value` is a number in [`low`, `high`], or None where `optional`."""
    if value is None and optional:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not low <= value <= (float("inf") if high is None else high):
        allowed = f"in [{low}, {high}]" if high is not None else f"of at least {low}"
        raise ValueError(f"`{name}` must be a number {allowed}, got {value!r}.")


def check_ids(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` is None or a list of non-negative ints."""
    if value is None:
        return
    if not isinstance(value, list | tuple) or any(
        not isinstance(token, int) or isinstance(token, bool) or token < 0 for token in value
    ):
        raise ValueError(f"`{name}` must be a list of token ids, got {value!r}.")


__all__ = ["DiffusionGenerationConfig", "DreamGenerationConfig"]
