"""The list of packages; everything else about the distribution stands in pyproject.toml.

`modeling/` and `generation/` lie at the top level of the repository and are installed inside `hf_latent`, which
setuptools' automatic discovery cannot express. Computed here, a new subfolder is never silently absent from the wheel.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def list_packages(root: Path = ROOT) -> list[str]:
    """Every package of the distribution under its installed name."""
    packages = find_packages(str(root), include=["hf_latent", "hf_latent.*"])
    for room in ("generation", "modeling"):
        packages += [f"hf_latent.{room}", *(f"hf_latent.{room}.{name}" for name in find_packages(str(root / room)))]
    return sorted([*packages, "hf_latent.model_cards"])


if __name__ == "__main__":
    setup(packages=list_packages())
