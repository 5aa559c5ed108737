"""Loading for the command line: a folder, a name on the Hub, a checkpoint that comes with this package, an adapter."""

from pathlib import Path
from typing import Any

from hf_latent.checkpoints.names import check_adapter, explained, packaged_checkpoints
from hf_latent.checkpoints.names import resolve_checkpoint as resolve


def load(
    name: str,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    device_map: Any = "auto",
    autoregressive: bool = False,
) -> tuple[Any, Any]:
    """
    Model, in evaluation mode, and tokenizer of `name`, with the adapter merged in if there is one.

    `autoregressive`: whether a model that writes from left to right, with latent tokens, will do.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    import hf_latent  # noqa: F401  (registers the model classes)
    from hf_latent.checkpoints.adapters import base_of, merge
    from hf_latent.data.embeddings import check_vocabulary

    logging.disable_progress_bar()
    path = resolve(name)
    if adapter is None and (base := base_of(path)) is not None:  # the folder of an adapter
        path, adapter = base, path
    if adapter is not None:
        check_adapter(adapter)
    hub = {"trust_remote_code": trust_remote_code} | ({"revision": revision} if revision else {})
    try:  # first: the folder of an adapter, which loads too, has no configuration to look at
        with explained(name):
            model = AutoModelForCausalLM.from_pretrained(path, device_map=device_map, **hub)
    except ValueError as error:
        if "LatentDiffusionConfig" not in str(error):
            raise
        raise ValueError(f"{name} is a latent diffusion model: `hf-latent denoise {name}` runs it.") from None
    has_own = adapter is not None and (Path(adapter) / "tokenizer_config.json").is_file()
    with explained(name):
        tokenizer = AutoTokenizer.from_pretrained(adapter if has_own else path, **hub)
    if not hasattr(model, "infill") and not (autoregressive and hasattr(model, "look_ahead")):
        kinds = "no model of this library" if autoregressive else "not a masked diffusion model of this library"
        raise ValueError(f"{name} is a {type(model).__name__}, {kinds}.")
    if adapter is not None:
        with explained(adapter, "--adapter"):
            model, tokenizer = merge(model, tokenizer, adapter, trust_remote_code=trust_remote_code)
    check_vocabulary(tokenizer, model)
    if getattr(model.config, "mask_token_id", None) is None and tokenizer.mask_token_id is not None:
        model.config.mask_token_id = tokenizer.mask_token_id  # of a family whose configurations do not say it
    return model.eval(), tokenizer


def load_latent_diffusion(
    name: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Latent diffusion model, in evaluation mode, and tokenizer of `name`."""
    from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer
    from transformers.utils import logging

    import hf_latent  # noqa: F401  (registers the model classes)

    logging.disable_progress_bar()
    hub = {"trust_remote_code": trust_remote_code} | ({"revision": revision} if revision else {})
    path = resolve(name)
    with explained(name):
        config = AutoConfig.from_pretrained(path, **hub)
    if config.model_type != "latent_diffusion" or "LatentAutoencoder" in (config.architectures or ()):
        what = (config.architectures or [config.model_type])[0]
        raise ValueError(f"{name} is a {what}, not a latent diffusion model with a denoiser.")
    with explained(name):
        model = AutoModelForSeq2SeqLM.from_pretrained(path, device_map="auto", **hub)
        tokenizer = AutoTokenizer.from_pretrained(path, **hub)
    return model.eval(), tokenizer


__all__ = ["load", "load_latent_diffusion", "packaged_checkpoints", "resolve"]
