"""Whether a run is what its launcher was asked for: as many processes, and sharded if that was wanted."""

import os
from typing import Any

# How MPI's launchers say how many processes there are.
_MPI_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def check_launch(args: Any) -> None:
    """
    Raise `ValueError` if several processes were launched, or asked for, and each would train alone.

    Args:
        args ([`~transformers.TrainingArguments`]): of the run.
    """
    if args.world_size > 1:
        return
    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched > 1:
        hint = "On CPUs say `use_cpu=True` (`--use_cpu true`)" if args.device.type == "cpu" else "See `accelerate env`"
        raise ValueError(
            f"{launched} processes were launched (WORLD_SIZE), and each of them would train alone, on {args.device}, "
            f"on all of the data. {hint}, or launch one process."
        )
    is_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    is_mpi = any(name in os.environ for name in _MPI_SIZES)
    if is_accelerate and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ and not is_mpi:
        # Of all its launchers only the simple one sets an address and no number: asked for several, it starts one.
        raise ValueError(
            "`accelerate launch` was asked for several processes and has started one, as it does with "
            "`distributed_type: MULTI_CPU`: say MULTI_GPU there, which means several processes of one machine, and "
            "`--use_cpu true` here (recipes/accelerate/cpu.yaml). If one process is what you want, unset MASTER_ADDR."
        )


def check_strategy(trainer: Any) -> None:
    """Raise `ValueError` if FSDP or DeepSpeed was asked for and accelerate has dropped it, as it does on CPUs."""
    args = trainer.args
    for name, wanted, is_on in (
        ("FSDP", _says("ACCELERATE_USE_FSDP") or bool(args.fsdp), trainer.is_fsdp_enabled),
        ("DeepSpeed", _says("ACCELERATE_USE_DEEPSPEED") or bool(args.deepspeed), trainer.is_deepspeed_enabled),
    ):
        is_sharded = is_on and trainer.accelerator.distributed_type.value in ("FSDP", "DEEPSPEED")
        if wanted and not is_sharded:
            raise ValueError(
                f"{name} was asked for and is not in use: on {args.device}, with {args.world_size} process(es), "
                f"accelerate drops it, and every process would hold the whole model. Run on several GPUs, or without "
                f"{name} (recipes/accelerate/ddp.yaml, cpu.yaml)."
            )


def _says(name: str) -> bool:
    return os.environ.get(name, "false").lower() in ("true", "1")


__all__ = ["check_launch", "check_strategy"]
