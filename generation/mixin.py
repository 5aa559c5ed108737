"""`generate` and `infill` of masked diffusion models, at home where transformers looks for generation."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.generation import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.generation.streamers import BaseStreamer

from hf_latent.generation.belief import BeliefReader
from hf_latent.generation.canvas import Canvas, append_masks, build_canvas
from hf_latent.generation.configuration_generation import DiffusionGenerationConfig
from hf_latent.generation.denoising import DenoisingSettings, Progress, denoise
from hf_latent.generation.inputs import (
    check_attention_mask,
    check_input_ids,
    check_length,
    check_masks,
    check_row_indices,
    check_token_ids,
)
from hf_latent.generation.output import DiffusionGenerateOutput
from hf_latent.generation.rules import RULES
from hf_latent.generation.streaming import DraftStream

DEFAULT_MAX_NEW_TOKENS = 128
# Arguments of transformers' `generate` that a pipeline, peft or trl may pass and that change nothing here.
HARMLESS_ARGUMENTS = ("use_cache", "tokenizer", "trust_remote_code")


class DiffusionGenerationMixin(GenerationMixin):
    """
    Generation by denoising. Comes before any `PreTrainedModel` among the bases of a class whose
    `forward(input_ids, attention_mask, position_ids, logits_to_keep)` gives logits of the tokens at the positions.
    """

    generation_config_class = DiffusionGenerationConfig

    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        custom_generate: str | Callable | None = None,
        row_indices: torch.Tensor | list[int] | None = None,
        **kwargs: Any,
    ) -> torch.LongTensor | DiffusionGenerateOutput:
        r"""
        Write `max_new_tokens` tokens behind each prompt by denoising masks.

        Args:
            inputs (`torch.LongTensor` of shape `(B, P)`):
                Prompts; also as `input_ids=`. Unequal lengths are padded, on either side, with `attention_mask=`.
            generation_config (`DiffusionGenerationConfig`, *optional*):
                Instead of the model's; its fields can be passed as keywords too.
            logits_processor (`LogitsProcessorList`, *optional*):
                Called with the canvas `(N, L)` of each predicted position and its scores `(N, V)`.
            streamer (`BaseStreamer`, *optional*):
                Of one sequence; gets drafts if it has `put_draft`.
            custom_generate (`str` or callable, *optional*):
                As in transformers, instead of this method.
            row_indices (`list[int]`, *optional*):
                The rows' numbers in the noise, by default 0, 1, ...: replays a row of a batch alone.
            kwargs:
                `attention_mask`, and any field of `DiffusionGenerationConfig`.

        Returns:
            Ids `(B, P + max_new_tokens)`, or a `DiffusionGenerateOutput` with `return_dict_in_generate=True`. The new
            tokens stand right behind a row's prompt, also where it is padded on the right.

        Raises:
            ValueError: naming the argument, what was given and what is allowed, before any forward.
        """
        if custom_generate is not None:
            if row_indices is not None:
                kwargs["row_indices"] = row_indices
            return super().generate(
                inputs,
                generation_config=generation_config,
                logits_processor=logits_processor,
                streamer=streamer,
                custom_generate=custom_generate,
                **kwargs,
            )
        config, kwargs = self._diffusion_config(generation_config, kwargs)
        input_ids, valid = self._read_inputs(inputs, config, kwargs)
        mask_token_id = self._mask_token_id(config)
        check_masks(input_ids, valid, mask_token_id, infilling=False)
        num_new_tokens = self._num_new_tokens(config, input_ids.shape[1])
        longest = int(valid.sum(-1).max()) + num_new_tokens
        check_length(longest, self.config.max_position_embeddings, "Prompt plus `max_new_tokens`")
        ids, valid, masked = append_masks(input_ids, valid, num_new_tokens, mask_token_id, self._fill_token_id(config))
        return self._denoise(ids, valid, masked, config, logits_processor, streamer, row_indices, ends=True)

    def infill(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        row_indices: torch.Tensor | list[int] | None = None,
        **kwargs: Any,
    ) -> torch.LongTensor | DiffusionGenerateOutput:
        """
        Write the mask tokens of `inputs` `(B, L)` in place; all other tokens are given and stay.

        Arguments and result are those of `generate`, without `max_new_tokens`; no row ends early, since text may
        follow. Rows without masks are returned as they are.
        """
        for name in ("max_new_tokens", "max_length"):
            if kwargs.get(name) is not None:
                raise ValueError(
                    f"`{name}`={kwargs[name]!r} has no meaning for `infill`: the masks say what is written."
                )
        config, kwargs = self._diffusion_config(generation_config, kwargs)
        input_ids, valid = self._read_inputs(inputs, config, kwargs)
        masked = check_masks(input_ids, valid, self._mask_token_id(config), infilling=True)
        check_length(int(valid.sum(-1).max()), self.config.max_position_embeddings, "The longest row")
        return self._denoise(input_ids, valid, masked, config, logits_processor, streamer, row_indices, ends=False)

    def _denoise(
        self,
        ids: torch.Tensor,
        valid: torch.Tensor,
        masked: torch.Tensor,
        config: DiffusionGenerationConfig,
        logits_processor: LogitsProcessorList | None,
        streamer: BaseStreamer | None,
        row_indices: torch.Tensor | list[int] | None,
        ends: bool,
    ) -> torch.LongTensor | DiffusionGenerateOutput:
        copies = config.num_return_sequences or 1
        if copies > 1:
            ids, valid, masked = (x.repeat_interleave(copies, dim=0) for x in (ids, valid, masked))
        if streamer is not None and len(ids) > 1:
            raise ValueError(f"`streamer` takes one sequence, got a batch of {len(ids)}.")
        canvas = build_canvas(
            ids, valid, masked, check_row_indices(row_indices, len(ids), ids.device), config.block_length
        )
        num_blocks = int(canvas.num_blocks.max())
        if config.max_denoising_steps is not None and config.max_denoising_steps < num_blocks:
            raise ValueError(
                f"`max_denoising_steps` must be at least the number of blocks ({num_blocks}), "
                f"got {config.max_denoising_steps}."
            )
        history: list[torch.Tensor] = []
        stream = None
        if streamer is not None:
            begin = int(masked[0].nonzero()[0])
            stream = DraftStream(streamer, ids[:, :begin], begin)

        def on_step(progress: Progress) -> None:
            if config.output_history:
                history.append(progress.ids.cpu().clone())
            if stream is not None:
                stream(progress)

        progress = denoise(
            canvas,
            self._predictor(config),
            self._belief_reader(config, logits_processor),
            self._settings(config, ends),
            on_step if config.output_history or stream is not None else None,
        )
        if stream is not None:
            stream.finish(progress.ids)
        if not config.return_dict_in_generate:
            return progress.ids
        num_committed = (progress.commit_step >= 0).sum(-1)
        return DiffusionGenerateOutput(
            sequences=progress.ids,
            num_forward_passes=progress.num_forward_passes,
            tokens_per_forward=num_committed / progress.num_forward_passes.clamp(min=1),
            commit_step=progress.commit_step,
            commit_entropy=progress.commit_entropy,
            history=tuple(history) if config.output_history else None,
        )

    def _predictor(self, config: DiffusionGenerationConfig) -> Callable:
        """The model as the loop calls it: logits of selected positions, guided if asked for."""
        mask_token_id = self._mask_token_id(config)

        def forward(canvas: Canvas, ids: torch.Tensor, at: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            padding = {}
            if canvas.padded:
                copies = len(ids) // len(canvas.ids)
                padding = {
                    "attention_mask": canvas.valid.long().repeat(copies, 1),
                    "position_ids": canvas.position_ids.repeat(copies, 1),
                }
            return self(input_ids=ids, logits_to_keep=at, return_dict=True, **padding).logits

        def predict(canvas: Canvas, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
            if config.cfg_scale == 0:
                return forward(canvas, canvas.ids, (rows, columns))
            unconditional = torch.where(canvas.writable, canvas.ids, mask_token_id)
            both = torch.cat([canvas.ids, unconditional])
            at = torch.cat([rows, rows + len(canvas.ids)]), columns.repeat(2)
            conditional, unconditional = forward(canvas, both, at).chunk(2)
            return unconditional + (config.cfg_scale + 1) * (conditional - unconditional)

        return predict

    def _belief_reader(
        self, config: DiffusionGenerationConfig, logits_processor: LogitsProcessorList | None
    ) -> BeliefReader:
        if logits_processor is not None and not isinstance(logits_processor, list):
            kind = type(logits_processor).__name__
            raise ValueError(f"`logits_processor` must be a list of logits processors, got {kind}.")
        processors = LogitsProcessorList(logits_processor or [])
        if config.repetition_penalty not in (None, 1.0):
            processors.append(RepetitionPenaltyLogitsProcessor(config.repetition_penalty))
        filters = LogitsProcessorList()
        if config.top_k:
            filters.append(TopKLogitsWarper(top_k=config.top_k))
        if config.top_p is not None and config.top_p < 1.0:
            filters.append(TopPLogitsWarper(top_p=config.top_p))
        if config.min_p:
            filters.append(MinPLogitsWarper(min_p=config.min_p))

        def tensor(name: str) -> torch.Tensor | None:
            token_ids = getattr(config, name)
            check_token_ids(name, token_ids, self.config.vocab_size)
            return torch.tensor(token_ids, device=self.device) if token_ids else None

        mask_token_id = self._mask_token_id(config)
        if len({*(config.suppress_tokens or ()), mask_token_id}) == self.config.vocab_size:
            raise ValueError("`suppress_tokens` leaves no token to write: it names the whole vocabulary.")
        return BeliefReader(
            mask_token_id=mask_token_id,
            temperature=config.effective_temperature,
            processors=processors,
            filters=filters,
            suppressed=tensor("suppress_tokens"),
            deferred=tensor("deferred_tokens"),
            reads=RULES[config.decoding].reads,
            with_entropy=bool(config.return_dict_in_generate),
        )

    def _settings(self, config: DiffusionGenerationConfig, ends: bool) -> DenoisingSettings:
        rule = RULES[config.decoding]
        eos_token_ids = eos_list(config.eos_token_id)
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
            eos_token_ids=torch.tensor(eos_token_ids, device=self.device) if ends and eos_token_ids else None,
            fill_token_id=self._fill_token_id(config),
        )

    def _diffusion_config(
        self, generation_config: GenerationConfig | None, kwargs: dict[str, Any]
    ) -> tuple[DiffusionGenerationConfig, dict[str, Any]]:
        """The configuration of this call, validated, and the keywords that are inputs."""
        kwargs = {name: value for name, value in kwargs.items() if name not in HARMLESS_ARGUMENTS}
        if kwargs.pop("synced_gpus", None):
            raise ValueError(
                "`synced_gpus`=True is not supported: rows end after different numbers of forwards. Gather the "
                "parameters of a sharded model before generating."
            )
        names = ("input_ids", "attention_mask")
        tensors = {name: kwargs.pop(name) for name in names if name in kwargs}
        self.generation_config_class.refuse_unknown(kwargs)
        config = copy.deepcopy(self.generation_config)
        if not isinstance(config, DiffusionGenerationConfig):
            config = self.generation_config_class.from_dict(config.to_dict())
        if generation_config is not None:
            given = generation_config.to_dict()
            given.pop("transformers_version", None)
            # Foreign names in a model's own file are nobody's mistake here.
            self.generation_config_class.refuse_unknown(name for name in given if not hasattr(config, name))
            # What the given configuration leaves unset keeps the model's value, as in transformers.
            is_ours = isinstance(generation_config, DiffusionGenerationConfig)
            own = config.own_defaults if is_ours else {}
            config.update(**{k: v for k, v in given.items() if v is not None or k in own}, allow_custom_entries=True)
        if kwargs.get("max_length") is not None and kwargs.get("max_new_tokens") is None:
            # The length asked for in the call, not the configured one that would go before it.
            config.max_new_tokens = None
        config.update(**kwargs)
        config.refuse_unsupported()
        is_random = config.effective_temperature > 0 or RULES[config.decoding].reads == "noise"
        if config.num_return_sequences not in (None, 1) and not is_random:
            raise ValueError(
                f"`num_return_sequences`={config.num_return_sequences} gives equal sequences without sampling: set "
                "`temperature` above 0 or `do_sample=True`."
            )
        return config, tensors

    def _read_inputs(
        self, inputs: torch.Tensor | None, config: DiffusionGenerationConfig, tensors: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if inputs is not None and tensors.get("input_ids") is not None:
            raise ValueError("Pass prompts as `inputs` or as `input_ids`, not as both.")
        input_ids = inputs if inputs is not None else tensors.get("input_ids")
        input_ids = check_input_ids(input_ids, self.config.vocab_size).to(self.device)
        eos_token_ids = eos_list(config.eos_token_id) + eos_list(self.config.eos_token_id)
        pad_token_id = config.pad_token_id if config.pad_token_id is not None else self.config.pad_token_id
        check_token_ids("pad_token_id", [config.pad_token_id], self.config.vocab_size)
        # Neither an end-of-sequence token nor a mask in the prompt is padding, whatever the pad token.
        not_padding = [*eos_token_ids, self._mask_token_id(config)]
        valid = check_attention_mask(tensors.get("attention_mask"), input_ids, pad_token_id, not_padding)
        return input_ids, valid

    def _mask_token_id(self, config: DiffusionGenerationConfig) -> int:
        mask_token_id = config.mask_token_id if config.mask_token_id is not None else self.config.mask_token_id
        if mask_token_id is None:
            raise ValueError(
                "`mask_token_id` is not set: give the id of the mask token in the model configuration, the generation "
                "configuration or the call."
            )
        if mask_token_id >= self.config.vocab_size:
            raise ValueError(
                f"`mask_token_id` must be below `vocab_size` ({self.config.vocab_size}), got {mask_token_id}."
            )
        return mask_token_id

    def _num_new_tokens(self, config: DiffusionGenerationConfig, prompt_length: int) -> int:
        if config.max_new_tokens is not None:
            return config.max_new_tokens
        if config.max_length is None:
            return DEFAULT_MAX_NEW_TOKENS
        if config.max_length <= prompt_length:
            raise ValueError(f"`max_length` must exceed the prompt ({prompt_length} tokens), got {config.max_length}.")
        return config.max_length - prompt_length

    def _fill_token_id(self, config: DiffusionGenerationConfig) -> int:
        """What stands behind a row's end: padding, or end-of-sequence where there is none."""
        candidates = [config.pad_token_id, self.config.pad_token_id]
        candidates += eos_list(config.eos_token_id) + eos_list(self.config.eos_token_id)
        vocabulary, mask_token_id = range(self.config.vocab_size), self._mask_token_id(config)
        return next((token for token in candidates if token in vocabulary and token != mask_token_id), 0)

    def adjust_generation_fn(
        self,
        generation_config: GenerationConfig | None,
        from_auto_class: bool,
        from_pipeline: Any,
        pretrained_model_name_or_path: str | None,
        cache_dir: Any,
        force_download: bool,
        proxies: Any,
        local_files_only: bool,
        token: Any,
        revision: str | None,
        subfolder: str,
        trust_remote_code: bool | None,
        **kwargs: Any,
    ) -> None:
        """Load `generation_config.json` into our class: transformers' own method would drop every knob of ours."""
        defaults = self.generation_config
        hub = {
            "cache_dir": cache_dir,
            "force_download": force_download,
            "proxies": proxies,
            "local_files_only": local_files_only,
            "token": token,
            "revision": revision,
            "subfolder": subfolder,
            **kwargs,
        }
        name = pretrained_model_name_or_path
        super().adjust_generation_fn(
            generation_config, from_auto_class, from_pipeline, name, trust_remote_code=trust_remote_code, **hub
        )
        if generation_config is not None or pretrained_model_name_or_path is None:
            return
        try:
            self.generation_config = self.generation_config_class.from_pretrained(name, **hub)
        except OSError:
            self.generation_config = defaults


def eos_list(eos_token_id: int | list[int] | None) -> list[int]:
    """End-of-sequence ids as a list."""
    if eos_token_id is None:
        return []
    return [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id)


__all__ = ["DiffusionGenerationMixin"]
