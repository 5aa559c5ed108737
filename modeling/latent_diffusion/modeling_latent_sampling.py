"""
From noise to a latent to text: `generate` of latent diffusion models. The reverse process is a scheduler of diffusers.

`B` rows, `R` sequences of each, `Z` vectors of a latent, `C` their width.
"""

import copy
import inspect
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.utils import ModelOutput

from hf_latent.generation.arguments.devices import find_device
from hf_latent.generation.arguments.generation_file import GenerationFileMixin
from hf_latent.generation.arguments.stock_arguments import refuse_arguments
from hf_latent.generation.arguments.stock_generate import add_score_check, check_stock_ids
from hf_latent.generation.state.noise import mix
from hf_latent.modeling.latent_diffusion.configuration_latent_diffusion import LatentDiffusionConfig
from hf_latent.modeling.latent_diffusion.configuration_latent_sampling import (
    SAMPLERS,
    LatentDiffusionGenerationConfig,
)


@dataclass
class LatentDiffusionGenerateOutput(ModelOutput):
    """
    Args:
        sequences (`torch.LongTensor` of shape `(B * R, length)`): ids, as the decoder's `generate` gives them.
        latents (`torch.FloatTensor` of shape `(B * R, Z, C)`): what was decoded, normalized.
        history (`torch.FloatTensor` of shape `(steps, B * R, Z, C)`, *optional*): estimates of x0.
        timesteps (`torch.LongTensor` of shape `(steps,)`): noise levels they were made at.
        num_forward_passes (`int`): of the denoiser, each of all rows; guidance doubles the rows, not the passes.
    """

    sequences: torch.LongTensor | None = None
    latents: torch.FloatTensor | None = None
    history: torch.FloatTensor | None = None
    timesteps: torch.LongTensor | None = None
    num_forward_passes: int | None = None


def build_scheduler(
    config: LatentDiffusionConfig, sampler: str = "ddpm", sampler_kwargs: dict[str, Any] | None = None
) -> Any:
    """
    Diffusers' scheduler of that name on the model's noise schedule.

    Raises:
        ImportError: without diffusers.
        ValueError: for an argument that the scheduler does not know.
    """
    try:
        import diffusers
    except ImportError as error:
        raise ImportError("Latent diffusion samples with diffusers: pip install diffusers") from error
    name, defaults = SAMPLERS[sampler]
    scheduler_class = getattr(diffusers, name)
    kwargs = {**defaults, **(sampler_kwargs or {})}
    if sampler == "ddpm":
        kwargs.setdefault("variance_type", "learned_range" if config.learned_variance else "fixed_small")
    if str(kwargs.get("variance_type")).startswith("learned") and not config.learned_variance:
        raise ValueError(
            f"`sampler_kwargs` ask for variance_type={kwargs['variance_type']!r}, which this model has not learned."
        )
    known = inspect.signature(scheduler_class.__init__).parameters
    for key in kwargs:
        if key not in known:
            raise ValueError(f"`sampler_kwargs` has {key!r}, which {name} does not know.")
    return scheduler_class(
        prediction_type="sample",
        **{**config.scheduler_arguments, **kwargs},
    )


def row_generators(seed: int, rows: torch.Tensor | list[int], device: torch.device | str) -> list[torch.Generator]:
    """One generator for each row, seeded by (seed, row): a row's noise does not depend on the batch around it."""
    rows = torch.as_tensor(rows, dtype=torch.int64)
    seeds = mix(mix(torch.tensor(seed, dtype=torch.int64)) + rows)
    return [torch.Generator(device).manual_seed(value) for value in (seeds & (2**63 - 1)).tolist()]


def draw_seed(generator: torch.Generator | None = None) -> int:
    """A seed from `generator`, or from torch's global one."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))


class LatentDiffusionGenerationMixin(GenerationFileMixin, GenerationMixin):
    """
    Generation by denoising a latent. Comes before any `PreTrainedModel` among the bases of a class that has an
    `autoencoder` and a `denoiser`.
    """

    generation_config_class = LatentDiffusionGenerationConfig

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        attention_mask: torch.Tensor | None = None,
        latents: torch.Tensor | None = None,
        condition: torch.Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        row_indices: torch.Tensor | list[int] | None = None,
        input_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.LongTensor | LatentDiffusionGenerateOutput:
        r"""
        Write a text for each input.

        1. Encode the input to a latent, the condition. 2. Draw noise, one generator for each row. 3. Denoise it under
        the condition. 4. Reconstruct and decode.

        Args:
            inputs (`torch.LongTensor` of shape `(B, S)`):
                Inputs; also as `input_ids=`. Padded on the right, with `attention_mask=`.
            generation_config (`LatentDiffusionGenerationConfig`, *optional*):
                Instead of the model's; its fields can be passed as keywords too.
            latents (`torch.FloatTensor` of shape `(B * R, Z, C)`, *optional*):
                Noise to start from, instead of what `seed` gives.
            condition (`torch.FloatTensor` of shape `(B, Z, C)`, *optional*):
                Normalized latents of the inputs, instead of `inputs`.
            generator (`torch.Generator` or a list of `B * R`, *optional*):
                Instead of `seed`: one gives the seed of the run, a list gives every row its own.
            row_indices (`list[int]` of length `B * R`, *optional*):
                The rows' numbers in the noise, by default 0, 1, ...: replays a row of a batch alone.
            kwargs:
                Any field of `LatentDiffusionGenerationConfig` and, for the decoder, `logits_processor`,
                `stopping_criteria`, `prefix_allowed_tokens_fn` and `streamer`.

        Returns:
            Ids of shape `(B * R, length)`, the sequences of an input behind each other; or a
            `LatentDiffusionGenerateOutput` with `return_dict_in_generate=True`.

        Raises:
            ValueError: naming the argument, what was given and what is allowed, before any forward.
        """
        inputs = input_ids if inputs is None else inputs
        decoder_kwargs = {name: kwargs.pop(name) for name in DECODER_ARGUMENTS if name in kwargs}
        kwargs = refuse_arguments(kwargs, "latent diffusion", LATENT_ARGUMENTS, {})
        config = self.merge_generation_config(generation_config, kwargs)
        num_sequences = config.num_return_sequences or 1
        num_rows = check_inputs(self.config, config, inputs, attention_mask, latents, condition) * num_sequences
        generators = self.make_generators(config.seed, generator, row_indices, num_rows)

        # 1. Encode
        if condition is None:
            condition = self.autoencoder.encode(inputs, attention_mask)  # [B, Z, C]
        condition = condition.repeat_interleave(num_sequences, dim=0)  # [B * R, Z, C]
        # 2. to 3. Noise, denoise
        output = self.denoise(condition, config, latents=latents, generators=generators)
        # 4. Decode
        context = {}
        if self.config.decoder_reads_input:
            mask = torch.ones_like(inputs) if attention_mask is None else attention_mask
            context = {
                "context_ids": inputs.repeat_interleave(num_sequences, dim=0),
                "context_mask": mask.repeat_interleave(num_sequences, dim=0),
            }
        decoding = config.decoder_generation_config()
        check, processors, criteria = add_score_check(
            decoder_kwargs.pop("logits_processor", None),
            decoder_kwargs.pop("stopping_criteria", None),
            streams=decoder_kwargs.get("streamer") is not None,
            num_beams=decoding.num_beams,
            eos_token_id=decoding.eos_token_id,
        )
        output.sequences = self.autoencoder.decode(
            output.latents,
            **context,
            **decoder_kwargs,
            generation_config=decoding,
            logits_processor=processors,
            stopping_criteria=criteria,
        )
        check.raise_if_invalid()
        return output if config.return_dict_in_generate else output.sequences

    @torch.no_grad()
    def denoise(
        self,
        condition: torch.Tensor,
        generation_config: LatentDiffusionGenerationConfig | None = None,
        *,
        latents: torch.Tensor | None = None,
        generators: list[torch.Generator] | None = None,
    ) -> LatentDiffusionGenerateOutput:
        """
        The reverse process alone: latents of a condition `(B, Z, C)`, both normalized; no text is decoded.

        Args:
            latents: noise to start from, of the same shape.
            generators: one for each row, see [`row_generators`]; from the configuration's seed if not given.
        """
        config = generation_config or self.generation_config
        scheduler = build_scheduler(self.config, config.sampler, config.sampler_kwargs)
        scheduler.set_timesteps(config.num_inference_steps or self.config.num_train_timesteps)
        if generators is None:
            generators = self.make_generators(config.seed, None, None, len(condition))
        extra = {"generator": generators} if has_parameter(scheduler.step, "generator") else {}
        if config.sampler == "ddim":
            extra["eta"] = config.eta
        if latents is None:
            latents = torch.cat(
                [torch.randn(1, *condition.shape[1:], generator=g, device=g.device) for g in generators]
            )
        # Schedulers compute in float32 whatever the model computes in.
        latents = latents.to(condition.device, torch.float32) * scheduler.init_noise_sigma
        estimate, history = None, []
        for timestep in scheduler.timesteps:
            estimate, variance = self.estimate(
                scheduler.scale_model_input(latents, timestep), int(timestep), condition, config, estimate
            )
            learns = str(scheduler.config.get("variance_type")).startswith("learned")
            # v says where between two bounds the variance is. At neighbouring levels these are nearly the same and v
            # hardly matters; at levels far apart a v beyond [-1, 1] would put it orders of magnitude outside.
            output = torch.cat([estimate, variance.clamp(-1.0, 1.0)], dim=1) if learns else estimate
            latents = scheduler.step(output, timestep, latents, **extra, return_dict=False)[0]
            if config.output_history:
                history.append(estimate)
        refuse_bad_latents(latents)
        return LatentDiffusionGenerateOutput(
            latents=latents,
            history=torch.stack(history) if history else None,
            timesteps=scheduler.timesteps,
            num_forward_passes=len(scheduler.timesteps),
        )

    def estimate(
        self,
        latents: torch.Tensor,
        timestep: int,
        condition: torch.Tensor,
        config: LatentDiffusionGenerationConfig,
        previous: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """x0 and the variance's v at one step, both float32 `[B, Z, C]`, with guidance."""
        dtype = condition.dtype
        scale = 1.0 if getattr(config, "guidance_scale", None) is None else float(config.guidance_scale)
        given = {"self_condition": previous} if self.config.self_conditioning and previous is not None else {}
        given = {"latents": latents, "condition": condition, **given}
        given = {name: value.to(dtype) for name, value in given.items()}
        if scale == 1.0:
            timesteps = torch.full((len(latents),), timestep, device=latents.device)
            output = self.denoiser(**given, timesteps=timesteps)
            return output.sample.float(), None if output.variance is None else output.variance.float()
        given = {name: torch.cat([value, value]) for name, value in given.items()}
        timesteps = torch.full((2 * len(latents),), timestep, device=latents.device)
        drop = torch.arange(2 * len(latents), device=latents.device) >= len(latents)
        output = self.denoiser(**given, timesteps=timesteps, drop_condition=drop)
        with_condition, without = output.sample.float().chunk(2)
        variance = None if output.variance is None else output.variance.float().chunk(2)[0]
        return without + scale * (with_condition - without), variance

    def merge_generation_config(
        self, given: GenerationConfig | None, kwargs: dict[str, Any]
    ) -> LatentDiffusionGenerationConfig:
        """The model's configuration, or the one given, with what keywords say on top. Unknown keywords raise."""
        LatentDiffusionGenerationConfig.refuse_unknown(kwargs)
        base = copy.deepcopy(self.generation_config if given is None else given)
        if not isinstance(base, LatentDiffusionGenerationConfig):
            base = LatentDiffusionGenerationConfig.from_dict(base.to_dict())
        for name, value in kwargs.items():
            setattr(base, name, value)
        base.validate()
        return base

    def make_generators(
        self,
        seed: int | None,
        generator: torch.Generator | list[torch.Generator] | None,
        row_indices: torch.Tensor | list[int] | None,
        num_rows: int,
    ) -> list[torch.Generator]:
        """One generator for each row, from what the caller has given."""
        if isinstance(generator, list):
            if len(generator) != num_rows:
                raise ValueError(f"`generator` must hold one for each of {num_rows} rows, got {len(generator)}.")
            return generator
        rows = torch.arange(num_rows) if row_indices is None else torch.as_tensor(row_indices)
        if rows.shape != (num_rows,):
            raise ValueError(f"`row_indices` must hold one for each of {num_rows} rows, got {tuple(rows.shape)}.")
        seed = draw_seed(generator) if seed is None or generator is not None else seed
        return row_generators(seed, rows, find_device(self))


# Of the decoder's `generate`, beside what a generation configuration can say.
DECODER_ARGUMENTS = ("logits_processor", "stopping_criteria", "prefix_allowed_tokens_fn", "streamer")
# Of transformers' `generate`, those that mean something here; all others are refused where they are set.
LATENT_ARGUMENTS = ("self", "inputs", "generation_config", "kwargs", *DECODER_ARGUMENTS)


def refuse_bad_latents(latents: torch.Tensor) -> None:
    """Raise `ValueError` for latents `(B, Z, C)` that are no numbers: any text would be decoded from them."""
    bad = ~latents.flatten(1).isfinite().all(-1)
    if bool(bad.any()):
        row = int(bad.nonzero()[0])
        vector = int((~latents[row].isfinite().all(-1)).nonzero()[0])
        raise ValueError(
            f"The latent of row {row} holds nan or inf at vector {vector}: look for them in the weights and in "
            "`latents` or `condition`, and for an overflow of the dtype (float16 ends at 65504)."
        )


def has_parameter(function: Any, name: str) -> bool:
    """Whether `function` has a parameter of that name."""
    return name in inspect.signature(function).parameters


def check_inputs(
    config: LatentDiffusionConfig,
    generation_config: LatentDiffusionGenerationConfig,
    inputs: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    latents: torch.Tensor | None,
    condition: torch.Tensor | None,
) -> int:
    """Number of inputs; `ValueError` for whatever does not fit together."""
    if inputs is None and (condition is None or config.decoder_reads_input):
        raise ValueError("Give `inputs` (or `condition`, unless the decoder reads the input), got neither.")
    if inputs is not None and (inputs.ndim != 2 or inputs.dtype not in (torch.int32, torch.int64)):
        raise ValueError(f"`inputs` must be ids of shape (B, S), got {inputs.dtype} {tuple(inputs.shape)}.")
    check_stock_ids(config.text_config.vocab_size, {"inputs": inputs}, {}, generation_config)
    if attention_mask is not None and (inputs is None or attention_mask.shape != inputs.shape):
        raise ValueError(f"`attention_mask` must have the shape of `inputs`, got {tuple(attention_mask.shape)}.")
    num_inputs = len(condition) if inputs is None else len(inputs)
    num_rows = num_inputs * (generation_config.num_return_sequences or 1)
    shape = (config.latent_length, config.latent_dim)
    for name, value, rows in (("condition", condition, num_inputs), ("latents", latents, num_rows)):
        if value is not None and value.shape != (rows, *shape):
            raise ValueError(f"`{name}` must have the shape {(rows, *shape)}, got {tuple(value.shape)}.")
    steps = generation_config.num_inference_steps or config.num_train_timesteps
    if steps > config.num_train_timesteps:
        raise ValueError(f"`num_inference_steps` must be at most T ({config.num_train_timesteps}), got {steps}.")
    if generation_config.sampler == "ddim" and config.num_train_timesteps % steps:
        # diffusers' DDIM takes steps of T // n and would not end at the clean latent.
        raise ValueError(f"`num_inference_steps` must divide T ({config.num_train_timesteps}) for ddim, got {steps}.")
    return num_inputs


__all__ = [
    "LatentDiffusionGenerateOutput",
    "LatentDiffusionGenerationMixin",
    "build_scheduler",
    "draw_seed",
    "row_generators",
]
