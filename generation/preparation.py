"""What a call of `generate` asks for, resolved and checked: configuration, inputs, and the loop's parts."""

import copy
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from hf_latent.generation.arguments.block_knobs import check_block_knobs, find_block_length, is_block_causal
from hf_latent.generation.arguments.decoder_knobs import check_early_exit, check_rejection, check_verification
from hf_latent.generation.arguments.devices import find_device
from hf_latent.generation.arguments.inputs import check_attention_mask, check_input_ids, check_token_ids, rename_cache
from hf_latent.generation.arguments.stock_arguments import refuse_arguments
from hf_latent.generation.arguments.token_sequences import forbidden_tokens, token_biases
from hf_latent.generation.beliefs.belief import BeliefReader
from hf_latent.generation.beliefs.refinement import RefinementSettings
from hf_latent.generation.commit.rules import RULES
from hf_latent.generation.configuration_generation import DiffusionGenerationConfig, DreamGenerationConfig
from hf_latent.generation.model_calls.block_causal import BlockCausalPredictor
from hf_latent.generation.model_calls.exact_cache import ExactCache
from hf_latent.generation.model_calls.predictor import Predictor, PredictorSettings
from hf_latent.generation.model_calls.semi_causal import SemiCausalPredictor
from hf_latent.generation.state.settings import DenoisingSettings

DEFAULT_MAX_NEW_TOKENS = 128
# Arguments of transformers' `generate` that a pipeline, peft or trl may pass and that change nothing here.
HARMLESS_ARGUMENTS = ("use_cache", "tokenizer", "trust_remote_code")


def resolve_config(
    model: PreTrainedModel, generation_config: GenerationConfig | None, kwargs: dict[str, Any]
) -> tuple[DiffusionGenerationConfig, dict[str, Any]]:
    """The configuration of this call, validated, and the keywords that are inputs."""
    use_cache = kwargs.get("use_cache", getattr(generation_config, "use_cache", None))
    kwargs = {name: value for name, value in rename_cache(kwargs).items() if name not in HARMLESS_ARGUMENTS}
    kwargs = refuse_arguments(kwargs)
    names = ("input_ids", "attention_mask", "answer_mask", "past_key_values")
    tensors = {name: kwargs.pop(name) for name in names if name in kwargs}
    config_class = find_config_class(model)
    config_class.refuse_unknown(kwargs)
    config = copy.deepcopy(model.generation_config)
    if not isinstance(config, DiffusionGenerationConfig):
        config = config_class.from_dict(config.to_dict())
    if generation_config is not None:
        # What it leaves unset keeps the model's value, as in transformers.
        config.overlay(generation_config)
    if kwargs.get("max_length") is not None and kwargs.get("max_new_tokens") is None:
        # The length asked for in the call, not the configured one that would go before it.
        config.max_new_tokens = None
    config.update(**kwargs)
    # Exact caches are a matter of the call: what the model's file says of it is often left from training.
    config.use_cache = use_cache
    config.refuse_unsupported()
    if config.output_scores and not config.return_dict_in_generate:
        raise ValueError("`output_scores`=True needs `return_dict_in_generate=True`: it is a field of that output.")
    check_block_knobs(model, config, RULES[config.decoding].adaptive)
    check_verification(model, config)
    check_rejection(config)
    check_early_exit(config)
    is_random = config.effective_temperature > 0 or RULES[config.decoding].reads == "noise"
    if config.num_return_sequences not in (None, 1) and not is_random:
        raise ValueError(
            f"`num_return_sequences`={config.num_return_sequences} gives equal sequences without sampling: set "
            "`temperature` above 0 or `do_sample=True`."
        )
    return config, tensors


def find_config_class(model: PreTrainedModel) -> type[DiffusionGenerationConfig]:
    """The model's own class of generation configurations or, for a model that is not ours, its family's."""
    own = getattr(model, "generation_config_class", GenerationConfig)
    if issubclass(own, DiffusionGenerationConfig):
        return own
    is_dream = getattr(model.config, "model_type", "").lower() == "dream"
    return DreamGenerationConfig if is_dream else DiffusionGenerationConfig


def read_inputs(
    model: PreTrainedModel, inputs: torch.Tensor | None, config: DiffusionGenerationConfig, tensors: dict[str, Any]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompt ids `(B, P)` on the model's device and which of them are not padding, checked."""
    if inputs is not None and tensors.get("input_ids") is not None:
        raise ValueError("Pass prompts as `inputs` or as `input_ids`, not as both.")
    input_ids = inputs if inputs is not None else tensors.get("input_ids")
    input_ids = check_input_ids(input_ids, model.config.vocab_size).to(find_device(model))
    eos_token_ids = token_id_list(config.eos_token_id) + token_id_list(_model_token_id(model, "eos_token_id"))
    pad_token_id = config.pad_token_id if config.pad_token_id is not None else _model_token_id(model, "pad_token_id")
    check_token_ids("pad_token_id", [config.pad_token_id], model.config.vocab_size)
    # Neither an end-of-sequence token nor a mask in the prompt is padding, whatever the pad token.
    not_padding = [*eos_token_ids, find_mask_token_id(model, config)]
    valid = check_attention_mask(tensors.get("attention_mask"), input_ids, pad_token_id, not_padding)
    return input_ids, valid


def find_mask_token_id(model: PreTrainedModel, config: DiffusionGenerationConfig) -> int:
    """The mask token of this call, or `ValueError` if nobody says which it is."""
    mask_token_id = config.mask_token_id
    if mask_token_id is None:
        mask_token_id = _model_token_id(model, "mask_token_id")
    if mask_token_id is None:
        raise ValueError(
            "`mask_token_id` is not set: give the id of the mask token in the model configuration, the generation "
            "configuration or the call."
        )
    if mask_token_id >= model.config.vocab_size:
        raise ValueError(
            f"`mask_token_id` must be below `vocab_size` ({model.config.vocab_size}), got {mask_token_id}."
        )
    return mask_token_id


def find_fill_token_id(model: PreTrainedModel, config: DiffusionGenerationConfig) -> int:
    """What stands behind a row's end: padding, or end-of-sequence where there is none."""
    candidates = [config.pad_token_id, _model_token_id(model, "pad_token_id")]
    candidates += token_id_list(config.eos_token_id) + token_id_list(_model_token_id(model, "eos_token_id"))
    vocabulary, mask_token_id = range(model.config.vocab_size), find_mask_token_id(model, config)
    return next((token for token in candidates if token in vocabulary and token != mask_token_id), 0)


def count_new_tokens(config: DiffusionGenerationConfig, prompt_length: int) -> int:
    """Tokens to write behind a prompt of `prompt_length` columns."""
    if config.max_new_tokens is not None:
        return config.max_new_tokens
    if config.max_length is None:
        return DEFAULT_MAX_NEW_TOKENS
    if config.max_length <= prompt_length:
        raise ValueError(f"`max_length` must exceed the prompt ({prompt_length} tokens), got {config.max_length}.")
    return config.max_length - prompt_length


def make_predictor(
    model: PreTrainedModel, config: DiffusionGenerationConfig, seed: int, past: ExactCache | None = None
) -> Predictor:
    """The model as the loop calls it, with the noise of `seed` and the cache of an earlier turn."""
    settings = PredictorSettings(
        mask_token_id=find_mask_token_id(model, config),
        cfg_scale=config.cfg_scale,
        block_cache=config.block_cache,
        cache_refresh_interval=config.cache_refresh_interval,
        append_blocks=config.append_blocks,
        verifies=config.verification_threshold is not None,
    )
    if getattr(model.config, "is_semi_causal", False):
        latent = config.num_latent_tokens
        return SemiCausalPredictor(
            model,
            settings,
            num_latent_tokens=model.config.num_latent_tokens if latent is None else latent,
            num_candidates=config.num_candidates,
            seed=seed,
            past=past,
            keeps_past=bool(config.return_dict_in_generate),
        )
    latent_only = {"num_latent_tokens": config.num_latent_tokens, "num_candidates": config.num_candidates}
    if is_block_causal(model):
        _refuse(model, latent_only, "semi-causal models")
        return BlockCausalPredictor(
            model,
            settings,
            block_size=find_block_length(model, config),
            sub_block_length=config.sub_block_length,
            uses_cache=config.use_cache is not False,
            past=past,
            keeps_past=bool(config.return_dict_in_generate),
        )
    _refuse(model, latent_only, "semi-causal models")
    _refuse(model, {"past_key_values": past}, "semi-causal and block-causal models")
    return Predictor(model, settings)


def _refuse(model: PreTrainedModel, values: dict[str, Any], whose: str) -> None:
    for name, value in values.items():
        if value is not None:
            kind = type(model).__name__
            sees = "its block and those before" if is_block_causal(model) else "all others"
            raise ValueError(f"`{name}` is for {whose}; in {kind} every position sees {sees}.")


def make_belief_reader(
    model: PreTrainedModel,
    config: DiffusionGenerationConfig,
    logits_processor: LogitsProcessorList | None,
    has_answer: bool,
) -> BeliefReader:
    """What turns logits into candidates and the rule's statistic, with this call's processors and filters."""
    if logits_processor is not None and not isinstance(logits_processor, list):
        kind = type(logits_processor).__name__
        raise ValueError(f"`logits_processor` must be a list of logits processors, got {kind}.")
    processors = LogitsProcessorList(logits_processor or [])
    biases = token_biases(config)
    check_token_ids("sequence_bias", [token for (token,) in biases], model.config.vocab_size)
    if biases:
        processors.insert(0, SequenceBiasLogitsProcessor(biases))
    if config.repetition_penalty not in (None, 1.0):
        processors.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
    filters = LogitsProcessorList()
    if config.top_k:
        filters.append(TopKLogitsWarper(top_k=config.top_k))
    if config.top_p is not None and config.top_p < 1.0:
        filters.append(TopPLogitsWarper(top_p=config.top_p))
    if config.min_p:
        filters.append(MinPLogitsWarper(min_p=config.min_p))

    def tensor(token_ids: list[int]) -> torch.Tensor | None:
        return torch.tensor(token_ids, device=find_device(model)) if token_ids else None

    bad_words = forbidden_tokens(config)
    check_token_ids("bad_words_ids", bad_words, model.config.vocab_size)
    for name in ("suppress_tokens", "deferred_tokens"):
        check_token_ids(name, getattr(config, name), model.config.vocab_size)
    suppressed = [*(config.suppress_tokens or ()), *bad_words]

    mask_token_id = find_mask_token_id(model, config)
    ends = token_id_list(config.eos_token_id) or token_id_list(_model_token_id(model, "eos_token_id"))
    check_token_ids("eos_token_id", ends, model.config.vocab_size)
    never = {*suppressed, mask_token_id}
    if len(never) == model.config.vocab_size:
        names = "`suppress_tokens` leaves" if not bad_words else "`suppress_tokens` and `bad_words_ids` leave"
        raise ValueError(f"{names} no token to write: it names the whole vocabulary.")
    if config.min_new_tokens and len({*never, *ends}) == model.config.vocab_size:
        raise ValueError(
            f"`suppress_tokens` leaves no token but the end of the sequence, which `min_new_tokens`="
            f"{config.min_new_tokens} forbids: leave one of the two out."
        )
    rule = RULES[config.decoding]
    return BeliefReader(
        mask_token_id=mask_token_id,
        temperature=config.effective_temperature,
        processors=processors,
        filters=filters,
        suppressed=tensor(suppressed),
        deferred=tensor(config.deferred_tokens or []),
        reads=rule.reads,
        with_entropy=bool(config.return_dict_in_generate) or has_answer,
        with_confidence=config.output_history,
        with_distribution=config.latent_refinement or rule.reads_stability,
        with_odds=config.editing_threshold is not None,
        with_log_prob=bool(config.output_scores),
        ends=torch.tensor(ends, device=find_device(model)) if ends else None,
        min_new_tokens=config.min_new_tokens or 0,
    )


def make_settings(model: PreTrainedModel, config: DiffusionGenerationConfig, ends: bool) -> DenoisingSettings:
    """The loop's view of the configuration; `ends`: whether a row ends at an end-of-sequence token."""
    rule = RULES[config.decoding]
    eos_token_ids = token_id_list(config.eos_token_id)
    seed = config.seed
    if seed is None:
        # Follows torch.manual_seed; a greedy run leaves the global generator alone.
        is_random = config.effective_temperature > 0 or rule.reads == "noise"
        seed = int(torch.randint(2**62, ())) if is_random else 0
    return DenoisingSettings(
        rule=rule,
        threshold=getattr(config, rule.knob) if rule.knob else None,
        max_denoising_steps=config.max_denoising_steps,
        dream_schedule=config.denoising_schedule == "dream",
        schedule_epsilon=config.schedule_epsilon,
        pace_to_schedule=config.pace_to_schedule,
        max_tokens_per_step=config.max_tokens_per_step,
        seed=seed,
        stability_kl=config.stability_kl,
        stability_steps=config.stability_steps,
        eos_token_ids=torch.tensor(eos_token_ids, device=find_device(model)) if ends and eos_token_ids else None,
        fill_token_id=find_fill_token_id(model, config),
        refinement=_refinement(config) if config.latent_refinement else None,
        steps_per_block=config.steps_per_block,
        min_tokens_per_step=config.min_tokens_per_step or 1,
        block_length=config.sub_block_length or find_block_length(model, config) or 0,
        editing_threshold=config.editing_threshold,
        max_post_steps=config.max_post_steps,
        verification_threshold=config.verification_threshold,
        early_exit_threshold=config.early_exit_threshold,
        early_exit_final_threshold=config.early_exit_final_threshold,
        answer_reduction=config.answer_entropy_reduction,
        with_statistics=bool(config.return_dict_in_generate),
        with_commits=bool(config.return_dict_in_generate or config.append_blocks),
    )


def _refinement(config: DiffusionGenerationConfig) -> RefinementSettings:
    return RefinementSettings(
        top_p=config.refinement_top_p,
        ratio=config.refinement_ratio,
        max_steps=config.refinement_steps,
        refinement_kl=config.refinement_kl,
        stop_kl=config.stop_kl,
        rejection_js=config.rejection_js,
    )


def position_limit(model: PreTrainedModel) -> int | None:
    """Most tokens of a row, where the model's configuration says so."""
    # LLaDA's own configuration calls it `max_sequence_length`.
    names = ("max_position_embeddings", "max_sequence_length")
    return next((limit for name in names if (limit := getattr(model.config, name, None)) is not None), None)


def _model_token_id(model: PreTrainedModel, name: str) -> Any:
    """A special token of the model's configuration; that of a model which is not ours need not have the field."""
    return getattr(model.config, name, None)


def token_id_list(eos_token_id: int | list[int] | None) -> list[int]:
    """End-of-sequence ids as a list."""
    if eos_token_id is None:
        return []
    return [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)


__all__ = [
    "count_new_tokens",
    "find_fill_token_id",
    "find_mask_token_id",
    "make_belief_reader",
    "make_predictor",
    "make_settings",
    "position_limit",
    "read_inputs",
    "resolve_config",
    "token_id_list",
]
