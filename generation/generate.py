"""`generate` and `infill` as functions of any masked diffusion model: from what a user passes to what is returned."""

from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.streamers import BaseStreamer

from hf_latent.generation.arguments.block_knobs import (
    check_answer_is_last,
    count_surplus_tokens,
    find_block_length,
    is_block_causal,
)
from hf_latent.generation.arguments.inputs import check_answer_mask, check_length, check_masks, check_row_indices
from hf_latent.generation.configuration_generation import DiffusionGenerationConfig
from hf_latent.generation.loop.denoising import denoise
from hf_latent.generation.model_calls.exact_cache import ExactCache
from hf_latent.generation.output import DiffusionGenerateOutput
from hf_latent.generation.preparation import (
    count_new_tokens,
    find_fill_token_id,
    find_mask_token_id,
    make_belief_reader,
    make_predictor,
    make_settings,
    position_limit,
    read_inputs,
    resolve_config,
)
from hf_latent.generation.state.canvas import append_masks, build_canvas
from hf_latent.generation.state.progress import OnStep, Progress
from hf_latent.generation.streaming import DraftStream


def run_generate(
    model: PreTrainedModel,
    inputs: torch.Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: LogitsProcessorList | None = None,
    streamer: BaseStreamer | None = None,
    row_indices: torch.Tensor | list[int] | None = None,
    **kwargs: Any,
) -> torch.LongTensor | DiffusionGenerateOutput:
    """`DiffusionGenerationMixin.generate` for `model`, which need not have that mixin; see there."""
    if kwargs.get("answer_mask") is not None:
        return run_infill(model, inputs, generation_config, logits_processor, streamer, row_indices, **kwargs)
    _refuse_early_exit(generation_config, kwargs)
    config, kwargs = resolve_config(model, generation_config, kwargs)
    input_ids, valid = read_inputs(model, inputs, config, kwargs)
    past = kwargs.get("past_key_values")
    mask_token_id = find_mask_token_id(model, config)
    check_masks(input_ids, valid, mask_token_id, infilling=False)
    if config.append_blocks and find_block_length(model, config) is None:
        raise ValueError("`append_blocks`=True needs `block_length`, the tokens of a block, got None.")
    num_new_tokens = count_new_tokens(config, input_ids.shape[1])
    num_tokens = valid.sum(-1, keepdim=True) + num_new_tokens
    limit, fill_token_id = position_limit(model), find_fill_token_id(model, config)
    check_length(int(num_tokens.max()), limit, "Prompt plus `max_new_tokens`")
    extra = count_surplus_tokens(model, config, num_tokens, limit)
    num_masks = num_new_tokens if extra is None else num_new_tokens + extra
    ids, valid, masked = append_masks(input_ids, valid, num_masks, mask_token_id, fill_token_id)
    surplus = None if extra is None else masked & (valid.cumsum(-1) > num_tokens)
    text = _Text(ids, valid, masked, None, surplus, input_ids.shape[1] + num_new_tokens)
    return _denoise_text(model, text, config, logits_processor, streamer, row_indices, True, past)


def run_infill(
    model: PreTrainedModel,
    inputs: torch.Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    logits_processor: LogitsProcessorList | None = None,
    streamer: BaseStreamer | None = None,
    row_indices: torch.Tensor | list[int] | None = None,
    **kwargs: Any,
) -> torch.LongTensor | DiffusionGenerateOutput:
    """`DiffusionGenerationMixin.infill` for `model`, which need not have that mixin; see there."""
    for name in ("max_new_tokens", "max_length", "min_new_tokens", "append_blocks"):
        if kwargs.get(name) not in (None, False):
            raise ValueError(
                f"`{name}`={kwargs[name]!r} has no meaning for `infill` and with `answer_mask`: the "
                "masks say what is written."
            )
    if kwargs.get("answer_mask") is None:
        _refuse_early_exit(generation_config, kwargs)
    config, kwargs = resolve_config(model, generation_config, kwargs)
    config.append_blocks, config.min_new_tokens = False, None
    input_ids, valid = read_inputs(model, inputs, config, kwargs)
    masked = check_masks(input_ids, valid, find_mask_token_id(model, config), infilling=True)
    check_length(int(valid.sum(-1).max()), position_limit(model), "The longest row")
    answer = check_answer_mask(kwargs.get("answer_mask"), masked)
    if answer is not None and is_block_causal(model):
        check_answer_is_last(masked, answer)
    text = _Text(input_ids, valid, masked, answer, None, input_ids.shape[1])
    past = kwargs.get("past_key_values")
    return _denoise_text(model, text, config, logits_processor, streamer, row_indices, False, past)


def _refuse_early_exit(generation_config: GenerationConfig | None, kwargs: dict[str, Any]) -> None:
    """Raise `ValueError` if a call without an answer asks for early exit; a default of the model asks for nothing."""
    for name in ("early_exit_threshold", "early_exit_final_threshold"):
        asked = kwargs.get(name, getattr(generation_config, name, None))
        if asked is not None:
            raise ValueError(
                f"`{name}`={asked!r} needs an `answer_mask` that says where the answer is: see `ReasoningTemplate`."
            )


class _Text(NamedTuple):
    """What is given and what is to be written, `(B, L)` each, before it is a canvas."""

    ids: torch.Tensor
    valid: torch.Tensor
    masked: torch.Tensor
    answer: torch.Tensor | None
    surplus: torch.Tensor | None  # masks that complete a row's last block, beyond what is asked for
    length: int  # columns that are returned at most


def _denoise_text(
    model: PreTrainedModel,
    text: _Text,
    config: DiffusionGenerationConfig,
    logits_processor: LogitsProcessorList | None,
    streamer: BaseStreamer | None,
    row_indices: torch.Tensor | list[int] | None,
    ends: bool,
    past: ExactCache | None,
) -> torch.LongTensor | DiffusionGenerateOutput:
    ids, valid, masked, answer, surplus, length = text
    copies = config.num_return_sequences or 1
    if copies > 1:
        ids, valid, masked = (x.repeat_interleave(copies, dim=0) for x in (ids, valid, masked))
        answer, surplus = (None if x is None else x.repeat_interleave(copies, dim=0) for x in (answer, surplus))
    if streamer is not None and len(ids) > 1:
        raise ValueError(f"`streamer` takes one sequence, got a batch of {len(ids)}.")
    rows = check_row_indices(row_indices, len(ids), ids.device)
    block_length = config.sub_block_length or find_block_length(model, config)
    canvas = build_canvas(ids, valid, masked, rows, block_length, answer, is_block_causal(model), surplus)
    num_blocks = int(canvas.num_blocks.max())
    if config.max_denoising_steps is not None and config.max_denoising_steps < num_blocks:
        raise ValueError(
            f"`max_denoising_steps` must be at least the number of blocks ({num_blocks}), "
            f"got {config.max_denoising_steps}."
        )
    stream = None
    if streamer is not None:
        begin = int(masked[0].nonzero()[0])
        end = length if surplus is None else int(surplus[0].long().argmax())
        stream = DraftStream(streamer, ids[:, :begin], begin, end)
    history: list[tuple[torch.Tensor, ...]] = []
    settings = make_settings(model, config, ends)
    predictor = make_predictor(model, config, settings.seed, past)
    progress = denoise(
        canvas,
        predictor,
        make_belief_reader(model, config, logits_processor, has_answer=answer is not None),
        settings,
        _make_callback(history if config.output_history else None, stream),
    )
    if surplus is not None:
        progress.clear(surplus, settings.fill_token_id)
        history = [_clear_step(step, surplus.cpu(), settings.fill_token_id) for step in history]
    if config.append_blocks:
        # Blocks that no row has come to were never appended.
        written = (progress.commit_step >= 0) | (valid & ~masked)
        reached = canvas.block_index <= canvas.block_index.masked_fill(~written, -1).amax(-1, keepdim=True)
        columns = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        length = min(length, int((columns * (valid & reached)).amax()))
    if stream is not None:
        stream.finish(progress.ids[:, :length])
    if not config.return_dict_in_generate:
        return progress.ids[:, :length]
    return _make_output(progress, config, history, length, predictor.past_key_values(progress.ids[:, :length]))


def _make_callback(history: list[tuple[torch.Tensor, ...]] | None, stream: DraftStream | None) -> OnStep | None:
    """What is called after every step: records the history, feeds the stream."""
    if history is None and stream is None:
        return None

    def on_step(progress: Progress) -> None:
        if history is not None:
            assert progress.candidate is not None and progress.confidence is not None
            history.append(tuple(x.cpu().clone() for x in (progress.ids, progress.candidate, progress.confidence)))
        if stream is not None:
            stream(progress)

    return on_step


def _clear_step(step: tuple[torch.Tensor, ...], surplus: torch.Tensor, fill_token_id: int) -> tuple[torch.Tensor, ...]:
    """A step of the history without what is not returned."""
    fills = fill_token_id, -1, float("nan")
    return tuple(values.masked_fill(surplus, fill) for values, fill in zip(step, fills, strict=True))


def _make_output(
    progress: Progress,
    config: DiffusionGenerationConfig,
    history: list[tuple[torch.Tensor, ...]],
    length: int,
    past_key_values: ExactCache | None,
) -> DiffusionGenerateOutput:
    num_committed = (progress.commit_step >= 0).sum(-1)
    leftmost_share, leftmost_distance = progress.leftmost_statistics()
    histories: list[tuple[torch.Tensor, ...] | None] = [None, None, None]
    if config.output_history:
        histories = [tuple(step[i][:, :length] for step in history) for i in range(3)]
    log_prob = progress.commit_log_prob.masked_fill(progress.commit_step < 0, float("nan"))[:, :length]
    refines, answers = bool(progress.belief_kl), bool(progress.answer_entropy)
    return DiffusionGenerateOutput(
        sequences=progress.ids[:, :length],
        num_forward_passes=progress.num_forward_passes,
        tokens_per_forward=num_committed / progress.num_forward_passes.clamp(min=1),
        commit_step=progress.commit_step[:, :length],
        commit_entropy=progress.commit_entropy[:, :length],
        commit_log_prob=log_prob if config.output_scores else None,
        leftmost_share=leftmost_share,
        leftmost_distance=leftmost_distance,
        belief_kl=torch.stack(progress.belief_kl, -1) if refines else None,
        num_refinement_passes=progress.num_refinement_passes if refines else None,
        answer_entropy=torch.stack(progress.answer_entropy, -1) if answers else None,
        exit_step=progress.exit_step if answers else None,
        num_edits=progress.num_edits,
        num_remasked=progress.num_remasked,
        history=histories[0],
        candidate_history=histories[1],
        confidence_history=histories[2],
        cache=past_key_values,
    )


__all__ = ["run_generate", "run_infill"]
