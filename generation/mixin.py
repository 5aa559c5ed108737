"""`generate` and `infill` of masked diffusion models, at home where transformers looks for generation."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.generation.streamers import BaseStreamer

from hf_latent.generation.arguments.adapters import adapter_aware, refuse_for_diffusion, refuse_infill
from hf_latent.generation.arguments.continuous_batching import ContinuousBatchingRefusal
from hf_latent.generation.arguments.generation_file import GenerationFileMixin
from hf_latent.generation.configuration_generation import DiffusionGenerationConfig
from hf_latent.generation.generate import run_generate, run_infill
from hf_latent.generation.output import DiffusionGenerateOutput


class DiffusionGenerationMixin(ContinuousBatchingRefusal, GenerationFileMixin, GenerationMixin):
    """
    Generation by denoising. Comes before any `PreTrainedModel` among the bases of a class whose
    `forward(input_ids, attention_mask, position_ids, logits_to_keep)` gives logits of the tokens at the positions.
    """

    generation_config_class = DiffusionGenerationConfig

    @adapter_aware(refuse_for_diffusion)
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
                `attention_mask`, `answer_mask`, and any field of `DiffusionGenerationConfig`. With `answer_mask`, bool
                `(B, P)`, as `ReasoningTemplate` gives it, the prompts hold the masks to be written, those of the
                answer among them: nothing is appended, and `early_exit_threshold` has a meaning.

        Returns:
            Ids `(B, P + max_new_tokens)`, fewer with `append_blocks` if all rows end before; or a
            `DiffusionGenerateOutput` with `return_dict_in_generate=True`. The new tokens stand right behind a row's
            prompt, also where it is padded on the right.

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
        return run_generate(self, inputs, generation_config, logits_processor, streamer, row_indices, **kwargs)

    @adapter_aware(refuse_infill)
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
        return run_infill(self, inputs, generation_config, logits_processor, streamer, row_indices, **kwargs)


__all__ = ["DiffusionGenerationMixin"]
