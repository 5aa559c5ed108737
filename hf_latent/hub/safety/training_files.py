"""What trainings leave beside a checkpoint: left out of what is pushed, and told apart from weights."""

from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from hf_latent.checkpoints.adapters import BASE_FOLDER
from hf_latent.data.output_folders import RUN_LOCK

# Of transformers' Trainer, accelerate, DeepSpeed, FSDP, trackers and the machine; patterns of the name of a folder.
TRAINING_FOLDERS = (
    *("checkpoint-[0-9]*", "tmp-checkpoint-[0-9]*", "global_step[0-9]*", "pytorch_model_fsdp_*", "optimizer_[0-9]*"),
    *("runs", "logs", "wandb", "mlruns", "tensorboard", "lightning_logs", "_push-*", ".*"),
)
TRAINING_FILES = (
    *("optimizer*.pt", "optimizer*.bin", "scheduler*.pt", "scheduler*.bin", "scaler*.pt", "rng_state*.pth"),
    *("random_states_*.pkl", "custom_checkpoint_*.pkl", "sampler*.bin", "dl_state_dict*.bin", "training_args.bin"),
    RUN_LOCK,
    *("trainer_state.json", "latest", "zero_to_fp32.py", "events.out.tfevents.*", "*.distcp", "*_optim_states.pt"),
)
FSDP, DEEPSPEED, CHECKPOINT = "pytorch_model_fsdp_*", "global_step[0-9]*", "checkpoint-[0-9]*"


def is_training_file(name: str) -> bool:
    """Whether a file, by its path in a folder, is what a training run keeps for itself."""
    *folders, file = PurePosixPath(name).parts
    in_folder = any(fnmatchcase(folder, pattern) for folder in folders for pattern in TRAINING_FOLDERS)
    return in_folder or any(fnmatchcase(file, pattern) for pattern in TRAINING_FILES)


def leave_out(files: dict[str, Path]) -> tuple[dict[str, Path], tuple[str, ...]]:
    """
    Files of a folder without those of a training run, and the names of these.

    Among them is the base that a trainer has written beside an adapter: peft looks for a base under a name on the Hub
    and never in a folder of the adapter's repository, so it is pushed by itself.
    """
    base = f"{BASE_FOLDER}/"
    has_base = "adapter_config.json" in files and f"{base}config.json" in files
    kept = {
        name: path
        for name, path in files.items()
        if not is_training_file(name) and not (has_base and name.startswith(base))
    }
    return kept, tuple(name for name in files if name not in kept)


def summarize(names: tuple[str, ...]) -> str:
    """Names, those of one folder as the folder."""
    shown: dict[str, int] = {}
    for name in names:
        first, slash, _ = name.partition("/")
        shown[first + slash] = shown.get(first + slash, 0) + 1
    return ", ".join(f"{name} ({count} files)" if count > 1 else name for name, count in sorted(shown.items()))


def where_weights_are(folder: Path, command: str) -> str | None:
    """
    What to do where a folder without weights has what a training makes them of; None if it has nothing of that.

    Args:
        command: what shall be done with weights, with `{folder}` for where they are.
    """
    if not folder.is_dir() or any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
        return None
    inside = sorted(path for path in folder.iterdir() if path.is_dir())
    if sharded := next((path for path in inside if fnmatchcase(path.name, FSDP)), None):
        return (
            f"{folder} has the pieces of FSDP in {sharded.name} and no weights: "
            f"`accelerate merge-weights {sharded} {folder}` puts them together."
        )
    if any(fnmatchcase(path.name, DEEPSPEED) for path in inside):
        return (
            f"{folder} has the pieces of DeepSpeed ZeRO and no weights: "
            f"`python {folder / 'zero_to_fp32.py'} {folder} {folder} --safe_serialization` puts them together."
        )
    steps = [path for path in inside if fnmatchcase(path.name, CHECKPOINT)]
    whole = [path for path in steps if any(path.glob("*.safetensors"))]
    if whole:
        newest = max(whole, key=lambda path: int("".join(filter(str.isdigit, path.name)) or 0))
        return (
            f"{folder} has no weights of its own, as of a training that has not ended, but checkpoints: "
            f"`{command.format(folder=newest)}`."
        )
    if steps:
        return where_weights_are(steps[-1], command)
    return None


__all__ = ["is_training_file", "leave_out", "summarize", "where_weights_are"]
