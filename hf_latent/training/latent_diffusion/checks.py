"""What a latent diffusion trainer must know of model, arguments and data before it starts."""

from typing import Any

from datasets import Dataset

from hf_latent.modeling.latent_diffusion.modeling_latent_autoencoder import LatentAutoencoder
from hf_latent.modeling.latent_diffusion.modeling_latent_diffusion import LatentDiffusionForConditionalGeneration
from hf_latent.training.common.supervision import check_supervised
from hf_latent.training.common.token_ids import check_token_ids
from hf_latent.training.latent_diffusion.config import LatentDiffusionTrainingConfig

MODEL_CLASSES = {"autoencoder": LatentAutoencoder, "denoiser": LatentDiffusionForConditionalGeneration}


def check_arguments(
    model: Any, args: LatentDiffusionTrainingConfig, peft_config: Any, datasets: dict[str, Dataset | None]
) -> None:
    """Raise `ValueError` for what does not belong together."""
    if not isinstance(args, LatentDiffusionTrainingConfig):
        raise ValueError(f"`args` must be a LatentDiffusionTrainingConfig, got {type(args).__name__}")
    wanted = MODEL_CLASSES[args.stage]
    if not isinstance(model, wanted):
        raise ValueError(
            f"`model` of the stage {args.stage!r} must be a {wanted.__name__}, got {type(model).__name__}"
        )
    if peft_config is not None and args.stage != "autoencoder":
        raise ValueError("`peft_config` is for the decoder, which the stage 'denoiser' does not train")
    for name, dataset in datasets.items():
        if dataset is not None and not isinstance(dataset, Dataset):
            raise ValueError(
                f"`{name}` must be a datasets.Dataset, got {type(dataset).__name__}: latents are encoded once, their "
                "statistics are those of all examples. A stream that fits on the disk: Dataset.from_generator"
            )
        if dataset is not None and not {"input_ids", "labels"} <= set(dataset.column_names):
            raise ValueError(f"`{name}` must have the columns input_ids and labels, got {dataset.column_names}")
        if dataset is not None:
            check_supervised(dataset, name.removesuffix("_dataset"), why="it is empty, or its labels are")
            autoencoder = model if args.stage == "autoencoder" else model.autoencoder
            check_token_ids(dataset, name.removesuffix("_dataset"), autoencoder.language_model)


__all__ = ["check_arguments"]
