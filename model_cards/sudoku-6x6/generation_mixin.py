# Part of hf-latent (Apache-2.0), written by save_pretrained so that this checkpoint loads without it.
"""`generate` and `infill` of masked diffusion models, at home where transformers looks for generation."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from .generation_canvas import append_masks, build_canvas
from .configuration_generation import DiffusionGenerationConfig
from .generation_denoising import Progress, denoise
from .generation_inputs import check_length, check_masks, check_row_indices
from .generation_output import DiffusionGenerateOutput
from .generation_preparation import (
    count_new_tokens,
    find_fill_token_id,
    find_mask_token_id,
    make_belief_reader,
    make_predictor,
    make_settings,
    read_inputs,
    resolve_config,
)
from .generation_streaming import DraftStream


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
        config, kwargs = resolve_config(self, generation_config, kwargs)
        input_ids, valid = read_inputs(self, inputs, config, kwargs)
        mask_token_id = find_mask_token_id(self, config)
        check_masks(input_ids, valid, mask_token_id, infilling=False)
        num_new_tokens = count_new_tokens(config, input_ids.shape[1])
        longest = int(valid.sum(-1).max()) + num_new_tokens
        check_length(longest, self.config.max_position_embeddings, "Prompt plus `max_new_tokens`")
        ids, valid, masked = append_masks(
            input_ids, valid, num_new_tokens, mask_token_id, find_fill_token_id(self, config)
        )
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
        config, kwargs = resolve_config(self, generation_config, kwargs)
        input_ids, valid = read_inputs(self, inputs, config, kwargs)
        masked = check_masks(input_ids, valid, find_mask_token_id(self, config), infilling=True)
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
            make_predictor(self, config),
            make_belief_reader(self, config, logits_processor),
            make_settings(self, config, ends),
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


__all__ = ["DiffusionGenerationMixin"]
