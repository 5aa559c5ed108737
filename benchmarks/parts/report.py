"""What every benchmark leaves: where and when it ran, and its results as one JSON line."""

import json
import platform
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import transformers


def describe_run(command: str, threads: int) -> dict[str, Any]:
    """Date, command, versions and machine."""
    return {
        "date": date.today().isoformat(),
        "command": command,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
        "threads": threads,
    }


def write_result(result: dict[str, Any], path: str | None) -> None:
    """Print the result as one JSON line, and write it to `path` if there is one."""
    line = json.dumps(result)
    print(line)
    if path is not None:
        Path(path).write_text(line + "\n", encoding="utf-8")


def timed(function: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
