"""What `import hf_latent` gives, and what it leaves alone."""

import subprocess
import sys

import pytest

import hf_latent


def test_every_public_name_is_there():
    for name in hf_latent.__all__:
        assert getattr(hf_latent, name).__name__ == name


def test_rooms_are_attributes_loaded_on_first_use():
    """`hf_latent.hub.bundle` works after `import hf_latent` alone, which loads neither plotting nor training."""
    code = (
        "import sys, hf_latent\n"
        "assert not {'matplotlib', 'trl', 'peft', 'datasets'} & set(sys.modules), 'loaded on import'\n"
        "print(hf_latent.hub.bundle.__name__)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.stdout == "bundle\n", run.stderr


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'bundel'"):
        _ = hf_latent.bundel
