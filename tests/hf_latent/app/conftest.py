"""Forms as the page sends them, and the browser of the tests of `hf_latent.viz`."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_latent.app.form import FIELDS, OWN_RULE

_spec = importlib.util.spec_from_file_location("viz_conftest", Path(__file__).parents[1] / "viz" / "conftest.py")
assert _spec is not None and _spec.loader is not None
_viz = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_viz)
browser, page = _viz.browser, _viz.page

PUZZLE = "1..4\n....\n2..3\n.32.\n=\n"


@pytest.fixture
def form() -> Callable[..., dict[str, Any]]:
    """`form(**changes)`: what the page sends for a 4x4 Sudoku and one decoder, changed."""

    def build(**changes: Any) -> dict[str, Any]:
        values = dict.fromkeys(FIELDS, "") | {
            "model": "sudoku-4x4",
            "mode": "append",
            "prompt": PUZZLE,
            "chat": False,
            "trust_remote_code": False,
            "seed": "0",
            "delimiter": "\nThe answer is ",
            "compare": False,
            "pause": 0,
            "example": None,
            "rule_a": OWN_RULE,
            "rule_b": "low_confidence",
        }
        assert changes.keys() <= values.keys()
        return values | changes

    return build
