"""Which state of this library made something."""

import subprocess
from pathlib import Path


def current_commit() -> str | None:
    """Of this library; None outside a checkout of it."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


__all__ = ["current_commit"]
