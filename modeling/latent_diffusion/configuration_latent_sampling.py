"""How a latent is sampled and decoded: `generation_config.json` of a latent diffusion model."""

from typing import Any

from transformers import GenerationConfig

from hf_latent.generation.arguments.strict_config import StrictGenerationConfig

# Sampler to diffusers' scheduler class and what it is told beyond noise schedule and prediction type. Evenly spaced
# steps start at pure noise ("trailing"): others start where the training data still shows, and find pure noise there.
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("DDPMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "trailing"}),
    "dpmsolver++": ("DPMSolverMultistepScheduler", {"timestep_spacing": "trailing", "final_sigmas_type": "zero"}),
}
LARGEST_SEED = 2**63 - 1


class LatentDiffusionGenerationConfig(StrictGenerationConfig):
    r"""
    Configuration of `generate` of latent diffusion models. What is not listed here (`max_new_tokens`, `num_beams`,
    ...) is the decoder's, with transformers' meaning.

    Args:
        sampler (`str`, *optional*, defaults to `"ddpm"`):
            `"ddpm"` (ancestral, with the learned variance), `"ddim"` or `"dpmsolver++"`: schedulers of diffusers.
        sampler_kwargs (`dict`, *optional*):
            Further arguments of the scheduler, e.g. `{"algorithm_type": "sde-dpmsolver++"}`.
        num_inference_steps (`int`, *optional*): denoising steps, at most T; T if not given.
        eta (`float`, *optional*, defaults to 0.0): noise of `"ddim"`: 0 none, 1 as much as DDPM.
        guidance_scale (`float`, *optional*):
            Classifier-free guidance: `x0 = x0_u + guidance_scale (x0_c - x0_u)`. 1 or `None`: no guidance.
        num_return_sequences (`int`, *optional*, defaults to 1): latents, and texts, of each input.
        seed (`int`, *optional*): of all noise of a run. Drawn from torch's global generator if not given.
        output_history (`bool`, *optional*, defaults to `False`): return the estimate of x0 at every step.

    Raises:
        ValueError: naming the knob, its value and what is allowed; for an unknown name, with the nearest known one.
    """

    own_defaults: dict[str, Any] = {
        "sampler": "ddpm",
        "sampler_kwargs": None,
        "num_inference_steps": None,
        "eta": 0.0,
        "seed": None,
        "output_history": False,
    }
    # Stock names that say something about the latents here, and would mean something else to the decoder.
    latent_fields = ("guidance_scale", "num_return_sequences", "return_dict_in_generate")

    def validate(self, strict: bool = False, user_set_attributes: set[str] | None = None) -> None:
        """Check every knob; see the class for what is raised."""
        if self.sampler not in SAMPLERS:
            raise ValueError(f"`sampler` must be one of {', '.join(map(repr, SAMPLERS))}, got {self.sampler!r}.")
        if self.sampler_kwargs is not None and not isinstance(self.sampler_kwargs, dict):
            raise ValueError(f"`sampler_kwargs` must be a dict, got {self.sampler_kwargs!r}.")
        for name, low, high in (
            ("num_inference_steps", 1, None),
            ("num_return_sequences", 1, None),
            ("seed", 0, LARGEST_SEED),
        ):
            value = getattr(self, name, None)
            is_integer = isinstance(value, int) and not isinstance(value, bool)
            if value is not None and (not is_integer or value < low or (high is not None and value > high)):
                raise ValueError(f"`{name}` must be an integer of at least {low}, got {value!r}.")
        if not isinstance(self.eta, int | float) or isinstance(self.eta, bool) or not 0 <= self.eta <= 1:
            raise ValueError(f"`eta` must be a number in [0, 1], got {self.eta!r}.")
        if not isinstance(self.output_history, bool):
            raise ValueError(f"`output_history` must be True or False, got {self.output_history!r}.")
        scale = getattr(self, "guidance_scale", None)
        if scale is not None and not (isinstance(scale, int | float) and scale >= 0):
            raise ValueError(f"`guidance_scale` must be a number of at least 0, got {scale!r}.")
        # transformers refuses several sequences of a greedy decoder; here each has a latent of its own.
        count, self.num_return_sequences = getattr(self, "num_return_sequences", None), None
        try:
            super().validate(strict=strict, user_set_attributes=user_set_attributes)
        finally:
            self.num_return_sequences = count

    def decoder_generation_config(self) -> GenerationConfig:
        """What remains for the encoder-decoder's own `generate`."""
        ours = {*self.own_defaults, *self.latent_fields}
        values = {name: value for name, value in self.to_dict().items() if name not in ours}
        return GenerationConfig.from_dict(values)


__all__ = ["SAMPLERS", "LatentDiffusionGenerationConfig"]
