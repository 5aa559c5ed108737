"""Names that modules had in 0.1."""

import importlib
import importlib.util

import pytest

from hf_latent.moved import MOVED


def test_every_old_name_leads_to_a_module_that_is_there():
    """A module that is renamed once more would leave the names of its earlier places behind."""
    for old, new in MOVED.items():
        assert importlib.util.find_spec(f"hf_latent.{new}") is not None, (old, new)
        assert new not in MOVED, (old, new)


@pytest.mark.parametrize("old", ["data.traces_layout", "evaluation.filters", "hub.tokens"])
def test_an_old_name_gives_the_module_itself_and_says_the_new_one(old):
    with pytest.warns(DeprecationWarning, match=rf"`hf_latent\.{old}` is now `hf_latent\.{MOVED[old]}`"):
        module = importlib.import_module(f"hf_latent.{old}")
    assert module is importlib.import_module(f"hf_latent.{MOVED[old]}")


@pytest.mark.parametrize(
    ("module", "old", "new"), [("data", "keep_to", "record_or_check"), ("hub", "write_shelf", "write_model_table")]
)
def test_an_old_function_is_the_new_one_and_says_so(module, old, new):
    room = importlib.import_module(f"hf_latent.{module}")
    with pytest.warns(DeprecationWarning, match=rf"`hf_latent\.{module}\.{old}` is now `{new}`"):
        assert getattr(room, old) is getattr(room, new)
    assert old not in room.__all__ and not hasattr(room, "nothing")
