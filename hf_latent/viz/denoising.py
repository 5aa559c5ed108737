"""What a latent says while it is denoised: the text of its estimates at some steps of a run."""

import copy
from typing import Any

import torch

from hf_latent.modeling.mode import evaluation_mode


def texts_over_steps(
    model: Any, tokenizer: Any, output: Any, *, num_shown: int = 8, row: int = 0, **decoder: Any
) -> list[dict[str, Any]]:
    """
    The texts that the estimates of the clean latent decode to, at steps evenly spread from the first to the last.

    Args:
        model: a `LatentDiffusionForConditionalGeneration`.
        output (`LatentDiffusionGenerateOutput`): of its `generate` with `output_history=True`.
        num_shown (`int`, *optional*, defaults to 8): steps, at least 1; all of them if there are not as many.
        row (`int`, *optional*, defaults to 0): of the batch.
        decoder: arguments of the decoder's `generate`, e.g. `max_new_tokens`, beside the model's own configuration.

    Returns:
        A `dict` with `step` (from 1), `timestep` (the noise level the estimate was made at) and `text` for each.

    Raises:
        ValueError: if `output` has no history, or `num_shown` is below 1.
    """
    if output.history is None:
        raise ValueError("`output` must be of `generate(..., output_history=True)`, got one without a history.")
    if num_shown < 1:
        raise ValueError(f"`num_shown` must be at least 1, got {num_shown}.")
    steps = len(output.history)
    shown = torch.linspace(0, steps - 1, min(num_shown, steps)).round().long().unique()
    if num_shown == 1:
        shown = torch.tensor([steps - 1])
    config = copy.deepcopy(
        decoder.pop("generation_config", None) or model.generation_config.decoder_generation_config()
    )
    others = config.update(**decoder)
    with evaluation_mode(model):
        ids = model.autoencoder.decode(output.history[shown, row], generation_config=config, **others)
    texts = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return [
        {"step": int(step) + 1, "timestep": int(output.timesteps[step]), "text": text.strip()}
        for step, text in zip(shown, texts, strict=True)
    ]


__all__ = ["texts_over_steps"]
